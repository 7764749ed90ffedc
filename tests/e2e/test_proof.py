"""The first proof: 200 tasks over real HTTP, a worker killed with -9, the index flushed, and every task is done."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as redis

from taskmill.index.embedded import socket_path
from taskmill.model.state import Verb
from tests.e2e.kit import Site
from tests.support import RedisServer, wait_until

TASKS = 200


async def flush(url: str) -> None:
    client = redis.Redis.from_url(url)
    await client.flushall()
    await client.aclose()


async def test_embedded_survives_kill_and_flush(embedded: Site) -> None:
    """`up` on SQLite and Valkey: killed with -9 in the middle and started again, its index flushed: all 200 complete."""
    up = embedded.up()
    await embedded.ready()
    client = await embedded.client(up)
    ids = await client.create_each(TASKS, sleep=0.03)
    await wait_until(lambda: len(embedded.started()) >= 40, what="40 were begun")
    up.kill()
    again = embedded.up(PORT=str(embedded.ports[up]))
    await embedded.ready(again)
    await wait_until(lambda: len(embedded.started()) >= 80, what="80 were begun")
    await flush(f"unix://{socket_path(embedded.data)}?db=0")
    stats = await client.drained()
    assert (stats["completed"], stats["total"]) == (TASKS, TASKS)
    assert len(ids) == TASKS
    verdict = await embedded.judge()
    assert verdict.verbs()[Verb.RESCUE] >= 1, "the kill came too late: no task was running"


@pytest.mark.parametrize("sql_engine", ["mysql", "mariadb"], indirect=True)
async def test_distributed_survives_kill_and_flush(distributed: Site, private_redis: RedisServer) -> None:
    """An API, two workers and a scheduler on a server: one worker killed with -9, Redis flushed: all 200 complete."""
    api, first, second = distributed.api(), distributed.worker("first"), distributed.worker("second")
    distributed.scheduler()
    await distributed.ready()
    client = await distributed.client(api)
    creating = asyncio.create_task(client.create_each(TASKS, sleep=0.03))
    await wait_until(lambda: len(distributed.started()) >= 40, what="40 were begun")
    first.kill()
    await wait_until(lambda: len(distributed.started()) >= 80, what="80 were begun")
    await flush(private_redis.url)
    ids = await creating
    stats = await client.drained()
    assert (stats["completed"], stats["total"], len(ids)) == (TASKS, TASKS, TASKS)
    assert await distributed.metric(second, "tasks_completed_total") > 0
    verdict = await distributed.judge()
    assert verdict.verbs()[Verb.RESCUE] >= 1, "the kill came too late: no task was running"
