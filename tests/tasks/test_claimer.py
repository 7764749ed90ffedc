"""The claimer over an index: where a worker of several queues looks, and what becomes of what it does not claim."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from taskmill.errors import Unavailable
from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index, Next
from taskmill.model.ids import new_id
from taskmill.sql.engine import Database
from taskmill.tasks.claimer import Claimer
from tests.support import RedisServer
from tests.tasks.kit import REGISTRY, World, new

QUEUES = ("a", "b", "c")
GENERATION = b"g" * 16

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


class Indexed(World):
    index: Index

    def claimer(self, *queues: str) -> Claimer:
        return Claimer(self.mill, new_id(), queues or QUEUES, REGISTRY)

    async def offered(self, *queues: str) -> list[bytes]:
        """A task in each of these queues, in the index as well."""
        rows = await self.submit(*(new(queue=queue) for queue in queues))
        await self.mill.flush()
        return [row.id for row in rows]

    async def ready(self, queue: str) -> int:
        """What the index would give to anybody now; it is given back."""
        answer = await self.index.next(queue, n=100)
        await self.index.next(queue, n=0, give_back=answer.reserved)
        return len(answer.reserved)


@pytest.fixture
async def indexed(database: Database, private_redis: RedisServer) -> AsyncIterator[Indexed]:
    index = Index(IndexOptions(private_redis.url, timeout=1.0))
    world = Indexed(database, index=index)
    world.index = index
    for queue in QUEUES:
        await index.reset(queue, GENERATION)
        await index.warm(queue, GENERATION)
    yield world
    await world.submitter.drain()
    await world.mill.flush()
    await index.aclose()


async def idle(claimer: Claimer) -> None:
    """From now on it asks all queues in one round trip."""
    assert await claimer.claim(5, suspects=0) == []


async def test_an_idle_worker_finds_a_task_in_any_of_its_queues(indexed: Indexed) -> None:
    """In its next turn, whichever queue that turn begins with."""
    claimer = indexed.claimer()
    for queue in QUEUES * 2:
        await idle(claimer)
        [task] = await indexed.offered(queue)
        assert [c.id for c in await claimer.claim(5, suspects=0)] == [task]
    await claimer.close()


async def test_an_idle_worker_takes_from_several_queues_at_once(indexed: Indexed) -> None:
    """Up to its free slots, and no reservation more."""
    claimer = indexed.claimer()
    await idle(claimer)
    tasks = await indexed.offered("a", "b", "c")
    first = await claimer.claim(2, suspects=0)
    assert len(first) == 2
    assert sum([await indexed.ready(queue) for queue in QUEUES]) == 1
    assert {c.id for c in [*first, *await claimer.claim(5, suspects=0)]} == set(tasks)
    await claimer.close()


async def test_an_idle_worker_asks_sql_while_the_index_is_away(
    indexed: Indexed, private_redis: RedisServer
) -> None:
    """The very turn that meets the outage brings the task."""
    claimer = indexed.claimer()
    await idle(claimer)
    [task] = await indexed.offered("b")
    private_redis.kill()
    assert [c.id for c in await claimer.claim(5, suspects=0)] == [task]
    await claimer.close()


async def test_an_idle_worker_asks_sql_for_a_queue_that_is_being_filled(indexed: Indexed) -> None:
    """The index says that it does not know all of it yet."""
    claimer = indexed.claimer()
    await idle(claimer)
    await indexed.index.reset("b", b"h" * 16)
    [row] = await indexed.submitter.submit([new(queue="b")])
    await indexed.mill.flush()
    await indexed.index.reset("b", b"i" * 16)
    assert [c.id for c in await claimer.claim(5, suspects=0)] == [row.id]
    await claimer.close()


async def test_what_sql_could_not_claim_is_given_back(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when the reservation runs out; until the record answers again nothing more is reserved: other
    workers can reach it, and may have the tasks."""
    claimer = indexed.claimer("a")
    [task] = await indexed.offered("a")
    reserving: list[str] = []
    following = indexed.index.next

    async def down(*_: Any, **__: Any) -> Any:
        raise Unavailable("The database does not answer.")

    async def counted(queue: str, **given: Any) -> Next:
        if given["n"]:
            reserving.append(queue)
        return await following(queue, **given)

    with monkeypatch.context() as patch:
        patch.setattr(indexed.mill.db, "write", down)
        patch.setattr(indexed.mill.db, "read", down)
        patch.setattr(indexed.index, "next", counted)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await claimer.claim(5, suspects=0)
        assert reserving == ["a"]
    assert await indexed.ready("a") == 1
    assert [c.id for c in await claimer.claim(5, suspects=0)] == [task]
    await claimer.close()


async def test_what_was_claimed_is_run_though_sql_fails_then(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is being filled, so SQL is asked for more than it offered; that it does not answer any more loses nothing."""
    claimer = indexed.claimer("b")
    await indexed.index._client.flushall()
    await indexed.index.reset("b", b"h" * 16)
    [task] = await indexed.offered("b")

    async def down(*_: Any, **__: Any) -> Any:
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(claimer, "_take_from_sql", down)
    assert [c.id for c in await claimer.claim(5, suspects=0)] == [task]
    with pytest.raises(Unavailable):
        await claimer.claim(5, suspects=0)
    await claimer.close()


async def test_a_suspect_without_room_waits_in_its_reservation(indexed: Indexed) -> None:
    """Nobody else is offered it; it is claimed as soon as there is room, or given back at the end."""
    claimer = indexed.claimer("a")
    tasks = await indexed.offered("a", "a", "a")
    for task in tasks:
        await indexed.set(task, suspect=True)
    first = await claimer.claim(5, suspects=1)
    assert await indexed.ready("a") == 0
    second = await claimer.claim(5, suspects=1)
    assert len({c.id for c in [*first, *second]} & set(tasks)) == 2
    await claimer.close()
    assert await indexed.ready("a") == 1
