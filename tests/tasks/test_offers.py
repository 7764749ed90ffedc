"""A worker's source over an index: what cannot be claimed holds up nothing, what is given back is there at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index
from taskmill.sql.engine import Database
from taskmill.tasks.cancel import cancel
from taskmill.tasks.source import LocalSource, SourceOptions
from tests.support import RedisServer
from tests.tasks.kit import ANN, REGISTRY, RELEASED, World

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


@pytest.fixture
async def world(database: Database, private_redis: RedisServer) -> AsyncIterator[World]:
    index = Index(IndexOptions(private_redis.url))
    await index.reset("default", b"g" * 16)
    await index.warm("default", b"g" * 16)
    world = World(database, index=index)
    yield world
    await world.submitter.drain()
    await world.mill.flush()
    await index.aclose()


@pytest.fixture
async def source(world: World) -> AsyncIterator[LocalSource]:
    source = LocalSource(world.mill, world.submitter, SourceOptions(("default",), 2, "w1", "1"))
    await source.start(REGISTRY)
    yield source
    await source.halt()
    await source.close()


async def test_cancelled_tasks_at_the_head_of_the_line_cost_no_wait(
    world: World, source: LocalSource
) -> None:
    """One claim passes all of their entries in the index, and does not wait for its poll between two handfuls."""
    dead = await world.submit(n=40)
    [alive] = await world.submit()
    await world.mill.flush()
    for row in dead:
        await cancel(world.mill, row.id, ANN)
    [run] = await asyncio.wait_for(source.claim(2, suspects=0, wait=60.0), 10)
    assert run.id == alive.id


async def test_suspects_without_room_are_passed_at_once(world: World, source: LocalSource) -> None:
    """A burst of them, for which there is no room, does not keep a slot from other tasks."""
    suspects = await world.submit(n=40)
    [other] = await world.submit()
    await world.mill.flush()
    for row in suspects:
        await world.set(row.id, suspect=True)
    [run] = await asyncio.wait_for(source.claim(2, suspects=0, wait=60.0), 10)
    assert run.id == other.id


async def test_what_is_given_back_is_offered_at_once(world: World, source: LocalSource) -> None:
    """After a drain its tasks are in the index again: the next worker need not wait for verify."""
    await world.submit()
    await world.mill.flush()
    [run] = await source.claim(2, suspects=0, wait=10.0)
    assert await source.settle([(run, RELEASED)]) == [True]
    await world.mill.flush()
    [again] = await asyncio.wait_for(source.claim(2, suspects=0, wait=60.0), 5)
    assert (again.id, again.fence, again.attempts) == (run.id, 2, 1)


async def test_a_silent_index_holds_up_no_submit(database: Database, private_redis: RedisServer) -> None:
    """It is there and does not answer, for longer than this test waits: tasks are accepted all the same, since the push
    comes after the answer."""
    index = Index(IndexOptions(private_redis.url, timeout=60.0, hold=120.0))
    world = World(database, index=index)
    private_redis.pause()
    try:
        for _ in range(3):
            await asyncio.wait_for(world.submit(), 20)
        assert world.mill._offering is not None, "the push is still on its way"
    finally:
        private_redis.resume()
    await world.submitter.drain()
    await world.mill.flush()
    await index.aclose()
