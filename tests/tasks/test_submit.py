"""submit: all or nothing, group commit, times, and what the database refuses."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa

from taskmill.errors import BadUserInput
from taskmill.model.state import Priority, Status, Verb
from taskmill.sql import schema
from tests.tasks.kit import ANN, BOB, World, new

REFUSED = new("half a pair: \ud800")
"""No database stores a lone surrogate."""


async def test_a_task_is_as_it_was_given(world: World) -> None:
    """Every field of a NewTask is in the row and its payload beside it; the answer is the row."""
    task = new(
        "Ünï 🎉",
        user_id=BOB,
        description="long\ntext",
        queue="mail",
        priority=Priority.HIGH,
        max_retries=7,
        payload='{"a":"\\u0000 😀"}',
    )
    [answer] = await world.submit(task)
    row = await world.row(answer.id)
    assert row == answer
    assert (row.title, row.description, row.user_id) == (task.title, task.description, BOB)
    assert (row.queue, row.type, row.priority, row.max_retries) == ("mail", "T", Priority.HIGH, 7)
    assert (row.attempts, row.fence, row.crashes, row.releases, row.suspect) == (0, 0, 0, 0, False)
    assert await world.payload(answer.id) == task.payload


async def test_the_answers_are_in_order_and_the_ids_grow(world: World) -> None:
    """Ids are made when the batch is written: rows made together lie together in the primary key."""
    rows = await world.submit(*(new(str(n)) for n in range(50)))
    assert [r.title for r in rows] == [str(n) for n in range(50)]
    assert [r.id for r in rows] == sorted(r.id for r in rows)


async def test_concurrent_calls_share_transactions_and_journal_rows(world: World) -> None:
    """Group commit: what arrives while a write is in flight is one transaction with one journal row."""
    answers = await asyncio.gather(*(world.submit(new(str(n))) for n in range(40)))
    assert [rows[0].title for rows in answers] == [str(n) for n in range(40)]
    entries = await world.journal(Verb.SUBMIT)
    assert sum(len(changes) for _, changes in entries) == 40
    # Two lanes: the first two calls go alone, all others wait for them and go together.
    assert len(entries) <= 4


async def test_a_refused_row_spoils_only_its_own_call(world: World) -> None:
    """The database refuses one row of a shared batch: bisected, the other calls go through."""
    # The first two go alone, one in each lane; the other calls share a batch.
    calls = [[new("a")], [new("b")], [new("c")], [new("x"), REFUSED], [new("d")], [new("e")]]
    answers = await asyncio.gather(*map(world.submitter.submit, calls), return_exceptions=True)
    assert isinstance(answers[3], BadUserInput)
    assert [type(a) for n, a in enumerate(answers) if n != 3] == [list] * 5
    assert sorted(r.title for r in await world.rows()) == ["a", "b", "c", "d", "e"]
    await world.exact()


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
async def test_a_text_too_long_is_refused_not_cut(world: World) -> None:
    """Strict mode: a title over its column is BAD_USER_INPUT for that call, and nothing of it is there."""
    titles = ["ok", "ok", "ok", "x" * 300, "ok"]
    answers = await asyncio.gather(*(world.submit(new(t)) for t in titles), return_exceptions=True)
    assert [isinstance(a, BadUserInput) for a in answers] == [False, False, False, True, False]
    assert [r.title for r in await world.rows()] == ["ok"] * 4


async def test_all_of_a_call_or_nothing(world: World) -> None:
    """One refused task among many of a call: none is there, no payload, no journal row."""
    with pytest.raises(BadUserInput):
        await world.submit(new("a"), REFUSED, new("b"))
    for table in (schema.tasks, schema.task_payloads, schema.journal):
        assert await world.table(table) == []


async def test_nothing_is_nothing(world: World) -> None:
    """An empty call writes no transaction."""
    assert await world.submitter.submit([]) == []
    assert await world.journal() == []


async def test_what_is_scheduled_for_later_is_pending_until_then(world: World) -> None:
    """A future scheduledAt makes the task PENDING, and its check_at is that time to the microsecond."""
    at = (await world.now() + timedelta(hours=1)).replace(microsecond=123456)
    [row] = await world.submit(new(scheduled_at=at))
    stored = await world.row(row.id)
    assert (stored.status, stored.check_at, stored.scheduled_at) == (Status.PENDING, at, at)
    assert await world.steps(row.id) == [("submit", None, Status.PENDING, 0)]


async def test_a_time_in_the_past_is_now(world: World) -> None:
    """It is QUEUED at once and stands in line by now, not before those that wait already."""
    before = await world.now()
    [row] = await world.submit(new(scheduled_at=before - timedelta(days=3)))
    stored = await world.row(row.id)
    assert stored.status is Status.QUEUED
    assert stored.check_at >= before


async def test_the_time_is_the_databases(world: World) -> None:
    """created_at, updated_at and check_at of a queued task are one reading of the database's UTC clock."""
    before = await world.now()
    [row] = await world.submit()
    after = await world.now()
    assert before <= row.created_at == row.updated_at == row.check_at <= after


async def test_a_thousand_tasks_are_one_transaction(world: World) -> None:
    """A call larger than a batch is still all or nothing: its rows come with one commit."""
    rows = await world.submit(n=1000)
    assert len(rows) == 1000
    created = {r.created_at for r in await world.rows()}
    assert len(created) == 1
    await world.exact()


async def test_bytes_bound_a_batch_as_rows_do(world: World) -> None:
    """Large payloads wait for the next batch instead of making a packet that the server refuses."""
    big = '"' + "x" * 250_000 + '"'
    await asyncio.gather(*(world.submit(new(payload=big)) for _ in range(24)))
    sizes = [len(changes) for _, changes in await world.journal(Verb.SUBMIT)]
    assert sum(sizes) == 24
    assert max(sizes) <= 17
    lengths = await world.db.read(
        lambda c: set(c.execute(sa.select(sa.func.length(schema.task_payloads.c.payload))).scalars())
    )
    assert lengths == {len(big)}


async def test_tasks_of_two_users_are_counted_apart(world: World) -> None:
    """The journal names user, queue, priority and state of each new task."""
    await world.submit(new(), new(user_id=BOB, queue="mail", priority=Priority.LOW))
    [(verb, changes)] = await world.journal()
    assert verb == "submit"
    told = [(c.user, c.queue, c.priority_after, c.source, c.target) for c in changes]
    assert told == [(ANN, "default", 2, None, 2), (BOB, "mail", 3, None, 2)]
