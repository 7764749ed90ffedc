"""The first proof: 200 tasks over real HTTP, a worker killed with -9, the index flushed, and every task is done."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from taskmill.index.embedded import socket_path
from taskmill.model.state import Verb
from tests.e2e.kit import Site, flush
from tests.support import RedisServer, wait_until

TASKS = 200
SLOTS = 5
"""The default of QUEUE_CONCURRENCY."""


async def test_embedded_survives_kill_and_flush(embedded: Site) -> None:
    """`up` on SQLite and Valkey: killed with -9 in the middle and started again, its index flushed: all 200 complete."""
    up = embedded.start("up")
    await embedded.ready()
    client = await embedded.client("up")
    held = await client.create(*({"n": i, "gate": "go"} for i in range(SLOTS)))
    await embedded.running(*held)
    ids = held + await client.create_each(TASKS - len(held), sleep=0.01)
    up.kill()
    embedded.open("go")
    embedded.start("up")
    await embedded.ready()
    await wait_until(lambda: len(embedded.started()) >= 50, what="50 were begun")
    await flush(f"unix://{socket_path(embedded.data)}?db=0")
    stats = await client.drained()
    assert (stats["completed"], stats["total"], len(ids)) == (TASKS, TASKS, TASKS)
    verdict = await embedded.judge()
    assert verdict.verbs()[Verb.RESCUE] == SLOTS
    assert Counter(len(verdict.executions(task)) for task in held) == {2: SLOTS}


@pytest.mark.parametrize("sql_engine", ["mysql", "mariadb"], indirect=True)
async def test_distributed_survives_kill_and_flush(distributed: Site, private_redis: RedisServer) -> None:
    """An API, two workers and a scheduler on a server: one worker killed with -9, Redis flushed: all 200 complete."""
    for role in ("api", "worker-1", "worker-2", "scheduler"):
        distributed.start(role)
    await distributed.ready()
    client = await distributed.client("api")
    held = await client.create(*({"n": i, "gate": "go"} for i in range(2 * SLOTS)))
    await distributed.running(*held)
    creating = asyncio.create_task(client.create_each(TASKS - len(held), sleep=0.01))
    distributed.parts["worker-1"].kill()
    distributed.open("go")
    await wait_until(lambda: len(distributed.started()) >= 50, what="50 were begun")
    await flush(private_redis.url)
    ids = held + await creating
    stats = await client.drained()
    assert (stats["completed"], stats["total"], len(ids)) == (TASKS, TASKS, TASKS)
    assert await distributed.metric("tasks_completed_total", "worker-2") == TASKS
    assert await distributed.metric("worker_slots", "api", "worker-2", "scheduler") == SLOTS
    assert await distributed.metric("scheduler_leading", "api", "worker-2", "scheduler") == 1
    assert await distributed.metric("database_wait_seconds_count", "worker-2") > 0
    verdict = await distributed.judge()
    assert verdict.verbs()[Verb.RESCUE] == SLOTS
    assert Counter(len(verdict.executions(task)) for task in held) == {1: SLOTS, 2: SLOTS}
