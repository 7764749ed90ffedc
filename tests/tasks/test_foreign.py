"""submit_in: a task within the user's own transaction, on the servers (a SQLite file has one owner)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from taskmill import Context, Taskmill, submit_in
from taskmill.api.identity import Role
from taskmill.api.users import Accounts, is_empty
from taskmill.app import Submitted
from taskmill.errors import ConfigError, Forbidden, InvalidPayload, StartError
from taskmill.model.ids import id_text, parse_id
from taskmill.model.state import Priority, Status
from taskmill.sql import schema
from taskmill.sql.dialect import db_now
from taskmill.tasks.service import NO_PASSWORD, ROLE, service_user
from taskmill.upkeep.promote import promote_due
from tests.tasks.kit import World

servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)

app = Taskmill()


@app.task(queue="mail", priority="HIGH")
async def send_receipt(ctx: Context, order: int) -> str:
    return f"receipt {order}"


@pytest.fixture
async def theirs(store_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the user's own, as they would make it: none of our session settings."""
    engine = create_async_engine(store_url.replace("mysql://", "mysql+asyncmy://"))
    yield engine
    await engine.dispose()


async def stored(world: World, task: Submitted[Any]) -> list[Any]:
    return [row for row in await world.rows() if row.id == parse_id(task.id)]


@servers
async def test_it_is_committed_together(world: World, theirs: AsyncEngine) -> None:
    """Seen by nobody before the commit, by all after it; born PENDING, then queued and run like any other."""
    async with theirs.connect() as connection:
        task = await submit_in(connection, send_receipt, order=7)
        assert await world.rows() == []
        await connection.commit()
    [row] = await stored(world, task)
    assert (row.status, row.type, row.queue, row.priority) == (
        Status.PENDING,
        "send_receipt",
        "mail",
        Priority.HIGH,
    )
    assert await world.payload(row.id) == '{"order":7}'
    await world.exact()
    assert await promote_due(world.mill, 10, 1.0) == 0.0
    assert (await world.row(row.id)).status is Status.QUEUED
    pending, queued = int(Status.PENDING), int(Status.QUEUED)
    assert await world.steps(row.id) == [("submit", None, pending, 0), ("promote", pending, queued, 0)]
    await world.exact()


@servers
async def test_a_rollback_leaves_nothing(world: World, theirs: AsyncEngine) -> None:
    """No task, no payload, no journal row, and no service user."""
    async with theirs.connect() as connection:
        await send_receipt.submit_in(connection, order=7)
        await connection.rollback()
    for table in (schema.tasks, schema.task_payloads, schema.journal, schema.users):
        assert await world.table(table) == []


@servers
async def test_one_for_later_gets_its_time_from_promote(world: World, theirs: AsyncEngine) -> None:
    """It passes promote once at its birth: the long transaction may have outlasted its time, or not."""
    at = datetime.now(UTC) + timedelta(hours=1)
    async with theirs.begin() as connection:
        task = await send_receipt.options(scheduled_at=at).submit_in(connection, order=1)
    [row] = await stored(world, task)
    assert await world.due_in(row.id) <= 0
    assert await world.promote() == []
    assert await world.due_in(row.id) > 3000
    pending = int(Status.PENDING)
    assert await world.steps(row.id) == [("submit", None, pending, 0), ("promote", pending, pending, 0)]
    await world.age(row.id, 3700)
    assert [r.id for r in await world.promote()] == [row.id]
    await world.exact()


@servers
async def test_each_kind_of_connection_and_session(world: World, theirs: AsyncEngine) -> None:
    """Connection, Session and scoped_session answer at once; their async forms want an await."""
    sessions = async_sessionmaker(theirs)
    async with theirs.begin() as connection:
        first = await connection.run_sync(lambda c: submit_in(c, send_receipt, order=1))
    async with sessions.begin() as session:
        second = await submit_in(session, send_receipt, order=2)
    async with sessions.begin() as session:

        def in_session(s: Session) -> Submitted[str]:
            return submit_in(s, send_receipt, order=3)

        third = await session.run_sync(in_session)
    async with theirs.connect() as connection:

        def in_scoped(c: Connection) -> Submitted[str]:
            scoped = scoped_session(sessionmaker(c))
            task = send_receipt.submit_in(scoped, order=4)
            scoped.commit()
            scoped.remove()
            return task

        fourth = await connection.run_sync(in_scoped)
    for task in (first, second, third, fourth):
        assert isinstance(task, Submitted)
        assert len(await stored(world, task)) == 1
    assert len(await world.table(schema.users)) == 1


@servers
async def test_with_what_the_user_writes_too(world: World, theirs: AsyncEngine) -> None:
    """An ORM session with pending objects, a savepoint rolled back around one task and not around the other."""
    async with theirs.begin() as connection:
        await connection.execute(sa.insert(schema.meta).values(name="order", value="7"))
        kept = await submit_in(connection, send_receipt, order=7)
        savepoint = await connection.begin_nested()
        gone = await submit_in(connection, send_receipt, order=8)
        await savepoint.rollback()
    assert (len(await stored(world, kept)), len(await stored(world, gone))) == (1, 0)
    assert [r.value for r in await world.table(schema.meta) if r.name == "order"] == ["7"]
    await world.exact()


@servers
async def test_a_transaction_that_began_before_the_service_user(world: World, theirs: AsyncEngine) -> None:
    """Its snapshot (REPEATABLE READ) does not show the row that another made: it is used all the same."""
    async with theirs.connect() as connection:
        await connection.execute(sa.select(schema.users))
        made = await world.db.write(lambda c: service_user(c, "service"))
        task = await submit_in(connection, send_receipt, order=1)
        await connection.commit()
    [row] = await stored(world, task)
    assert row.user_id == made


@servers
async def test_two_first_ones_at_once(world: World, theirs: AsyncEngine) -> None:
    """One waits for the other's commit, and both tasks are the same user's."""

    async def one(order: int) -> None:
        async with AsyncSession(theirs) as session, session.begin():
            await submit_in(session, send_receipt, order=order)

    await asyncio.gather(*(one(n) for n in range(5)))
    rows = await world.rows()
    assert len(rows) == 5
    assert [user.id for user in await world.table(schema.users)] == [*{row.user_id for row in rows}]


@servers
async def test_text_of_all_kinds_through_their_connection(world: World, theirs: AsyncEngine) -> None:
    """Emoji, quotes and percent signs arrive as they were."""
    text = "🎉 é ' \" \\ %s :x \u202e\n"
    async with theirs.begin() as connection:
        task = await send_receipt.options(title=text, description=text).submit_in(connection, order=1)
    [row] = await stored(world, task)
    assert (row.title, row.description) == (text, text)


@servers
@pytest.mark.parametrize(
    "options",
    [{}, {"isolation_level": "AUTOCOMMIT"}, {"connect_args": {"autocommit": True}}],
    ids=["connection", "engine", "driver"],
)
async def test_autocommit_is_refused(world: World, store_url: str, options: dict[str, Any]) -> None:
    """There each statement stands alone: nothing is committed together. Wherever it was said."""
    engine = create_async_engine(store_url.replace("mysql://", "mysql+asyncmy://"), **options)
    async with engine.connect() as connection:
        if not options:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ConfigError, match="AUTOCOMMIT"):
            await submit_in(connection, send_receipt, order=1)
    await engine.dispose()
    assert await world.rows() == []


@servers
async def test_a_database_without_our_tables(sql_url: str) -> None:
    """Says what to run."""
    engine = create_async_engine(sql_url.replace("mysql://", "mysql+asyncmy://"))
    async with engine.connect() as connection:
        with pytest.raises(StartError, match="taskmill migrate"):
            await submit_in(connection, send_receipt, order=1)
    await engine.dispose()


def test_other_databases_and_other_things() -> None:
    """A SQLite file has one owner; what is no connection is named."""
    with (
        sa.create_engine("sqlite://").connect() as connection,
        pytest.raises(ConfigError, match="not on sqlite"),
    ):
        submit_in(connection, send_receipt, order=1)
    with pytest.raises(ConfigError, match="not a dict"):
        send_receipt.submit_in({}, order=1)  # type: ignore[call-overload]
    with pytest.raises(InvalidPayload, match="order: Expected `int`"):
        send_receipt.submit_in({}, order="1")  # type: ignore[call-overload]


# -- the service user ------------------------------------------------------------------------------------


async def test_the_service_user_is_made_once(world: World) -> None:
    """A USER without a password; the same one for the same name."""
    first = await world.db.write(lambda c: service_user(c, "billing"))
    assert await world.db.write(lambda c: service_user(c, "billing")) == first
    assert await world.db.write(lambda c: service_user(c, "other")) != first
    user = next(row for row in await world.table(schema.users) if row.id == first)
    assert (user.email, user.name, user.role) == ("billing", "billing", Role.USER)
    assert (user.password_hash, ROLE, id_text(first).count("-")) == (NO_PASSWORD, Role.USER, 4)


async def test_the_first_person_is_admin_all_the_same(world: World) -> None:
    """A program may have submitted before anybody registered."""
    await world.db.write(lambda c: service_user(c, "service"))
    assert await is_empty(world.db)
    accounts = Accounts(world.db, rounds=4, first_admin=True)
    try:
        user = await accounts.register("ann@example.com", "a long password", "Ann")
    finally:
        accounts.close()
    assert user.role is Role.ADMIN


async def test_a_disabled_service_user_submits_nothing(world: World) -> None:
    """As any user who was disabled."""
    await world.db.write(lambda c: service_user(c, "service"))
    await world.db.write(lambda c: c.execute(sa.update(schema.users).values(disabled_at=db_now())))
    with pytest.raises(Forbidden, match="'service' is disabled"):
        await world.db.write(lambda c: service_user(c, "service"))
