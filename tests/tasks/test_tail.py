"""The tail of the journal: nothing missed, nothing twice, a RESYNC when that cannot be said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.engine import Database
from taskmill.sql.schema import journal
from taskmill.tasks import journal as journalling
from taskmill.tasks import tail as tail_module
from taskmill.tasks.journal import Change
from taskmill.tasks.tail import Tail, _missing


def change(n: int) -> Change:
    return Change(n.to_bytes(16, "big"), b"u" * 16, "default", 2, 2, None, 2, 0)


def numbers(changes: Sequence[Change]) -> list[int]:
    return [int.from_bytes(c.task, "big") for c in changes]


def put(seq: int, *changed: int) -> Any:
    """A unit of work that makes the row with this number visible."""

    def work(connection: Connection) -> None:
        blob = journalling._encoder.encode([change(n) for n in changed or (seq,)])
        connection.execute(
            sa.insert(journal).values(seq=seq, at=db_now(), verb=Verb.SUBMIT.value, folded=0, changes=blob)
        )

    return work


async def test_from_now_on(database: Database) -> None:
    """What was there before the start is not told; what comes is told once, in order."""
    await database.write(put(1))
    tail = Tail(database)
    await tail.start()
    assert numbers((await tail.read()).changes) == []
    await database.write(put(2, 20, 21))
    await database.write(put(3, 30))
    assert numbers((await tail.read()).changes) == [20, 21, 30]
    assert numbers((await tail.read()).changes) == []


async def test_empty_journal(database: Database) -> None:
    """Where the journal was empty at the start, the first number may be any, and those before it may come late."""
    tail = Tail(database)
    await tail.start()
    assert numbers((await tail.read()).changes) == []
    await database.write(put(5001))
    news = await tail.read()
    assert (numbers(news.changes), news.resync) == ([5001], False)
    await database.write(put(5000))
    assert numbers((await tail.read()).changes) == [5000]


async def test_late_number(database: Database) -> None:
    """A number that becomes visible after a later one is told when it does."""
    tail = Tail(database)
    await tail.start()
    await database.write(put(1))
    await database.write(put(4))
    assert numbers((await tail.read()).changes) == [1, 4]
    await database.write(put(3))
    assert numbers((await tail.read()).changes) == [3]
    await database.write(put(2))
    await database.write(put(5))
    assert numbers((await tail.read()).changes) == [2, 5]
    assert not tail._gaps


async def test_under_way_at_the_start(database: Database) -> None:
    """A transaction that had its number before the start and commits after it is told."""
    await database.write(put(1))
    await database.write(put(3))
    tail = Tail(database)
    await tail.start()
    await database.write(put(2))
    assert numbers((await tail.read()).changes) == [2]


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
async def test_real_transactions(database: Database) -> None:
    """The servers hand out numbers before the commit: an open transaction's row is not lost."""
    tail = Tail(database)
    await tail.start()
    first_wrote, second_done = asyncio.Event(), asyncio.Event()

    async def open_one() -> None:
        engine = database._write_engine  # type: ignore[attr-defined]  # MysqlDatabase has it
        async with engine.connect() as connection:
            await connection.run_sync(lambda c: journalling.append(c, Verb.SUBMIT, [change(1)]))
            first_wrote.set()
            await second_done.wait()
            await connection.commit()

    opened = asyncio.create_task(open_one())
    await first_wrote.wait()
    await database.write(lambda c: journalling.append(c, Verb.SUBMIT, [change(2)]))
    assert numbers((await tail.read()).changes) == [2]
    second_done.set()
    await opened
    assert numbers((await tail.read()).changes) == [1]


async def test_rollback(database: Database) -> None:
    """A number that never comes is given up after the window, and asked for no longer."""
    tail = Tail(database, window=0.05)
    await tail.start()
    await database.write(put(1))
    await database.write(put(3))
    await tail.read()
    assert list(tail._gaps) == [2]
    await asyncio.sleep(0.06)
    await tail.read()
    assert not tail._gaps


class TestResync:
    async def test_deleted_unseen(self, database: Database) -> None:
        """Rows that were deleted before they were read: look at everything again, once."""
        await database.write(put(1))
        tail = Tail(database)
        await tail.start()
        for seq in (2, 3, 4):
            await database.write(put(seq))
        await database.write(lambda c: c.execute(sa.delete(journal).where(journal.c.seq < 4)))
        assert (await tail.read()).resync
        await database.write(put(5))
        news = await tail.read()
        assert (numbers(news.changes), news.resync) == ([5], False)

    async def test_deleted_seen(self, database: Database) -> None:
        """Rows that were read before are deleted without a word."""
        tail = Tail(database)
        await tail.start()
        for seq in (1, 2):
            await database.write(put(seq))
        await tail.read()
        await database.write(lambda c: c.execute(sa.delete(journal)))
        await database.write(put(3))
        news = await tail.read()
        assert (numbers(news.changes), news.resync) == ([3], False)

    async def test_too_many_gaps(self, database: Database) -> None:
        """More missing numbers than can be waited for are a RESYNC too."""
        tail = Tail(database)
        await tail.start()
        await database.write(put(1))
        await tail.read()
        await database.write(put(tail_module.GAPS + 3))
        assert (await tail.read()).resync


async def test_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much at once comes in bounded reads, each of which says that there is more."""
    monkeypatch.setattr(tail_module, "ROWS", 3)
    tail = Tail(database)
    await tail.start()
    for seq in range(1, 6):
        await database.write(put(seq))
    news = await tail.read()
    assert (numbers(news.changes), news.more) == ([1, 2, 3], True)
    news = await tail.read()
    assert (numbers(news.changes), news.more) == ([4, 5], False)


@pytest.mark.parametrize(
    ("sequence", "missing"), [([], []), ([7], []), ([1, 2], []), ([1, 3], [2]), ([5, 6, 9], [7, 8])]
)
def test_missing(sequence: list[int], missing: list[int]) -> None:
    """The numbers that an ascending sequence leaves out."""
    assert _missing(sequence) == missing


def test_missing_is_bounded() -> None:
    """However wide the hole."""
    assert len(_missing([1, 10**9])) == tail_module.GAPS + 1
