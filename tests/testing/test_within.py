"""submit_in on a bench: whether the transaction of the code under test commits decides, on any database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from taskmill import Context, Taskmill, submit_in
from taskmill.errors import ConfigError, InvalidPayload, NotFound
from taskmill.testing import Bench

app = Taskmill()


@app.task(queue="mail")
def receipt(ctx: Context, order: int) -> str:
    return f"receipt {order}"


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(app) as bench:
        yield bench


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://")
    yield engine
    engine.dispose()


def orders(bench: Bench) -> list[int]:
    return [job.payload["order"] for job in bench.submitted(receipt)]


def test_a_session_that_commits(bench: Bench, engine: sa.Engine) -> None:
    """Nothing before the commit; then the task that came back is there, and runs."""
    with Session(engine) as session:
        task = submit_in(session, receipt, order=7)
        assert orders(bench) == []
        with pytest.raises(NotFound):
            task.status_sync()
        session.commit()
        assert orders(bench) == [7]
        session.commit()
        assert orders(bench) == [7]
    bench.drain_sync()
    assert task.wait_sync() == "receipt 7"


def roll_back(session: Session) -> None:
    session.rollback()
    session.commit()


@pytest.mark.parametrize("end", [roll_back, Session.close], ids=["rollback", "close"])
def test_a_session_that_does_not_commit(
    bench: Bench, engine: sa.Engine, end: Callable[[Session], None]
) -> None:
    """There is no task, also not when the next transaction commits."""
    with Session(engine) as session:
        receipt.submit_in(session, order=1)
        end(session)
        receipt.submit_in(session, order=2)
        session.commit()
    assert orders(bench) == [2]


def test_savepoints_of_a_session(bench: Bench, engine: sa.Engine) -> None:
    """What is rolled back to one never was, within a released one too; a release alone commits nothing."""
    with Session(engine) as session:
        with session.begin_nested():
            receipt.submit_in(session, order=1)
        assert orders(bench) == []
        outer = session.begin_nested()
        with session.begin_nested():
            receipt.submit_in(session, order=2)
        outer.rollback()
        receipt.submit_in(session, order=3)
        session.commit()
    assert orders(bench) == [1, 3]


def test_within_a_tests_own_transaction(bench: Bench, engine: sa.Engine) -> None:
    """A test that rolls everything back in the end sees what the code under test committed."""
    with engine.connect() as connection, connection.begin() as around:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            receipt.submit_in(session, order=1)
            session.commit()
        around.rollback()
    assert orders(bench) == [1]


def test_a_scoped_session(bench: Bench, engine: sa.Engine) -> None:
    """As the session in it."""
    scoped = scoped_session(sessionmaker(engine))
    receipt.submit_in(scoped, order=1)
    scoped.commit()
    scoped.remove()
    assert orders(bench) == [1]


def test_a_connection(bench: Bench, engine: sa.Engine) -> None:
    """Its commit, its rollback, and a savepoint."""
    with engine.connect() as connection:
        receipt.submit_in(connection, order=1)
        connection.rollback()
        receipt.submit_in(connection, order=2)
        savepoint = connection.begin_nested()
        receipt.submit_in(connection, order=3)
        savepoint.rollback()
        assert orders(bench) == []
        connection.commit()
    with engine.connect() as connection:
        receipt.submit_in(connection, order=4)
    assert orders(bench) == [2]


def test_what_is_wrong_is_said(bench: Bench, engine: sa.Engine) -> None:
    """As without a bench: the parameters, and what is no connection."""
    with engine.connect() as connection, pytest.raises(InvalidPayload):
        receipt.submit_in(connection, order="x")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="not a Engine"):
        receipt.submit_in(engine, order=1)  # type: ignore[call-overload]


@pytest.mark.parametrize("sql_engine", ["mysql"], indirect=True)
async def test_async_forms(bench: Bench, sql_url: str) -> None:
    """Are awaited, and decided in the same way."""
    engine = create_async_engine(sql_url.replace("mysql://", "mysql+asyncmy://"))
    async with AsyncSession(engine) as session:
        task = await receipt.submit_in(session, order=1)
        assert orders(bench) == []
        await session.commit()
        await receipt.submit_in(session, order=2)
        await session.rollback()
    async with engine.connect() as connection:
        await receipt.submit_in(connection, order=3)
        await connection.commit()
    await engine.dispose()
    assert orders(bench) == [1, 3]
    assert bench.job(task.id).queue == "mail"
