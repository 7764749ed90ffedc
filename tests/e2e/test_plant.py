"""Faults and promises on one installation: two APIs, two workers of five slots, two schedulers, MySQL and Redis.

Each test is a user of its own, whose record the checker reads at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from taskmill.model.state import Verb
from tests.e2e.kit import LEASE, Client, Site, flush
from tests.support import RedisServer, running, wait_until

WORKERS = ("worker-1", "worker-2")
SCHEDULERS = ("scheduler-1", "scheduler-2")
SLOTS = 5
"""Of each worker."""


async def fill(plant: Site, client: Client, gate: str, **given: Any) -> list[str]:
    """Tasks that hold every slot of both workers until the gate is open."""
    held = await client.create(*({"n": i, "gate": gate} for i in range(2 * SLOTS)), **given)
    await plant.running(*held)
    return held


async def test_every_task_runs_once(plant: Site) -> None:
    """Two workers and two schedulers share 200 tasks, made at both APIs: each is executed once, both workers did some."""
    client = await plant.client("api-1")
    other = plant.same(client, "api-2")
    texts: list[dict[str, Any]] = [
        {"n": 2**63},
        {"text": 'Ünïcødé – 漢字 🎉\n\t"\\'},
        {"f": 0.1, "e": 1e300, "deep": [[[{}]]], "z": None},
    ]
    ids = await client.create(*texts, type=None)
    for made in await asyncio.gather(client.create_each(100), other.create_each(100)):
        ids += made
    stats = await client.drained()
    assert stats["completed"] == len(ids) == 203
    verdict = await plant.judge(client)
    assert Counter(len(verdict.executions(task)) for task in ids) == {1: 203}
    assert len(set(plant.runners(*ids).values())) == 2


async def test_killed_worker(plant: Site) -> None:
    """What a worker was doing when it got SIGKILL is done by the other one; its runners end with it."""
    client = await plant.client("api-1")
    held = await fill(plant, client, "killed-worker")
    runner, theirs = plant.at("worker-1", *held)
    plant.parts["worker-1"].kill()
    await wait_until(lambda: not running(runner), what="the runner is gone")
    plant.open("killed-worker")
    assert (await client.drained())["completed"] == len(held)
    verdict = await plant.judge(client)
    assert len(theirs) == SLOTS
    for task in held:
        assert verdict.runs(task) == (["LEASE_LOST"] if task in theirs else [])


@asynccontextmanager
async def paused_writes(url: str) -> AsyncIterator[None]:
    """Redis takes writes and holds them back; those of a client that is gone at the end are never done."""
    admin = redis.Redis.from_url(url)
    await admin.client_pause(60_000, all=False)
    try:
        yield
        await asyncio.sleep(0.2)  # for Redis to see that its client is gone
    finally:
        await admin.client_unpause()
        await admin.aclose()


async def test_killed_api_between_commit_and_push(plant: Site, plant_redis: RedisServer) -> None:
    """Tasks were committed and the API died before it could push them: verify brings them to the index."""
    client = await plant.client("api-2")
    held = await fill(plant, client, "before-push")
    repairs = await plant.metric("index_repairs_total", *SCHEDULERS)
    async with paused_writes(plant_redis.url):
        ids = await client.create(*({"n": i} for i in range(20)))
        plant.parts["api-2"].kill()

    async def repaired() -> bool:
        return await plant.metric("index_repairs_total", *SCHEDULERS) >= repairs + len(ids)

    # The workers have no free slot, so nobody claims the tasks from SQL meanwhile.
    await wait_until(repaired, 20, every=0.2)
    plant.open("before-push")
    await plant.heal()
    assert (await client.drained())["completed"] == len(held) + len(ids)
    await plant.judge(client)


async def test_flush_under_load(plant: Site, plant_redis: RedisServer) -> None:
    """FLUSHALL again and again while tasks are made and run: all complete, none was lost or executed twice."""
    client = await plant.client("api-1")
    creating = asyncio.create_task(client.create_each(300))
    flushes = 0
    while not creating.done():
        await asyncio.sleep(0.25)
        await flush(plant_redis.url)
        flushes += 1
    ids = await creating
    assert flushes >= 2
    assert (await client.drained())["completed"] == len(ids) == 300
    verdict = await plant.judge(client)
    assert Counter(len(verdict.executions(task)) for task in ids) == {1: 300}


async def test_stopped_worker_spends_no_attempt(plant: Site) -> None:
    """SIGTERM in the middle: what ends within the drain is settled, what does not is given back, and the exit is 0."""
    client = await plant.client("api-1")
    plant.parts["worker-1"].kill()
    plant.start("worker-1", TASKMILL_DRAIN="1")
    await plant.ready("worker-1")
    held = await fill(plant, client, "drain")
    _, theirs = plant.at("worker-1", *held)
    short = await client.create(*({"n": i, "sleep": 0.05} for i in range(20)))
    plant.parts["worker-1"].signal(signal.SIGTERM)
    assert await asyncio.to_thread(plant.parts["worker-1"].wait) == 0
    plant.open("drain")
    assert (await client.drained())["completed"] == len(held) + len(short)
    verdict = await plant.judge(client)
    assert Counter(row.attempts for row in verdict.dump.tasks.values()) == {1: len(held) + len(short)}
    assert len(theirs) == SLOTS
    assert all(verdict.runs(task) == ["RELEASED"] for task in theirs)


def leader(plant: Site) -> str:
    """The role of the scheduler that was the last to say that it leads."""
    found: list[tuple[str, str]] = []
    for role in SCHEDULERS:
        lines = [json.loads(line) for line in plant.parts[role].output().splitlines() if line[:1] == "{"]
        found += [(line["timestamp"], role) for line in lines if line["event"] == "leader"]
    return max(found)[1]


async def test_killed_leader_and_scheduled_tasks(plant: Site) -> None:
    """The leading scheduler is killed before scheduled tasks are due: the other one starts them, none too early."""
    client = await plant.client("api-1")
    times = [datetime.now(UTC) + timedelta(seconds=0.5 + 0.2 * i) for i in range(20)]
    ids = []
    for i, at in enumerate(times):
        ids += await client.create({"n": i}, scheduledAt=at.isoformat())
    first = leader(plant)
    plant.parts[first].kill()
    assert (await client.drained())["completed"] == len(ids)
    assert leader(plant) != first
    verdict = await plant.judge(client)
    assert verdict.verbs()[Verb.PROMOTE] >= len(ids)
    assert all(len(verdict.executions(task)) == 1 for task in ids)


async def test_cancel(plant: Site) -> None:
    """A running, a stubborn, a scheduled and a queued task are cancelled: all end CANCELLED, what had not begun never does."""
    client = await plant.client("api-1")
    [runs] = await client.create({}, type="UNTIL_CANCELLED")
    [stubborn] = await client.create({}, type="STUBBORN")
    [later] = await client.create({}, scheduledAt=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    await plant.running(runs, stubborn)
    held = await client.create(*({"n": i, "gate": "cancel"} for i in range(2 * SLOTS - 2)))
    await plant.running(*held)
    [waits] = await client.create({})
    answers = [await client.cancel(task) for task in (waits, later, runs, stubborn)]
    assert answers == ["CANCELLED", "CANCELLED", "PROCESSING", "PROCESSING"]
    plant.open("cancel")
    stats = await client.drained()
    assert (stats["cancelled"], stats["completed"]) == (4, len(held))
    verdict = await plant.judge(client)
    assert not verdict.executions(later)
    assert not verdict.executions(waits)


async def test_blocking_handler_keeps_its_lease(plant: Site) -> None:
    """A handler that holds the GIL of its runner for three leases is neither rescued nor run a second time."""
    client = await plant.client("api-1")
    [task] = await client.create({"seconds": 3 * LEASE}, type="HOLD_GIL")
    assert (await client.drained())["completed"] == 1
    verdict = await plant.judge(client)
    [execution] = verdict.executions(task)
    assert execution.ended is not None
    assert execution.ended - execution.started >= 3 * LEASE
    assert verdict.verbs()[Verb.RESCUE] == 0


async def aside(plant: Site) -> None:
    """A worker of a queue of its own, the same for all tests that want one."""
    part = plant.parts.get("worker-aside")
    if part is None or part.returncode is not None:
        plant.start("worker-aside", TASKMILL_QUEUES="aside")
        await plant.ready("worker-aside")


async def test_poison(plant: Site) -> None:
    """One of five tasks in a runner kills it, again and again: it becomes POISON, the other four complete."""
    client = await plant.client("api-1")
    await aside(plant)
    [bad] = await client.create({"gate": "poison"}, type="DIE", queue="aside", maxRetries=10)
    good = await client.create(*({"n": i, "gate": "poisoned"} for i in range(SLOTS - 1)), queue="aside")
    await plant.running(bad, *good)
    [runner] = set(plant.runners(bad, *good).values())
    plant.open("poison")
    await wait_until(lambda: not Path(f"/proc/{runner}").exists(), 20)
    # A gate of their own: with one for all, a good task may end before the bad one kills.
    plant.open("poisoned")
    stats = await client.drained()
    assert (stats["completed"], stats["failed"]) == (SLOTS - 1, 1)
    assert "POISON" in (await client.task(bad))["error"]
    verdict = await plant.judge(client)
    assert verdict.runs(bad) == ["CRASHED"] * 4  # with the others, then three times alone
    assert all(verdict.runs(task) == ["CRASHED"] for task in good)


async def test_killed_runner(plant: Site) -> None:
    """A runner gets SIGKILL from outside: the worker lives, its tasks spend the attempt and complete, each alone."""
    client = await plant.client("api-1")
    await aside(plant)
    ids = await client.create(*({"n": i, "gate": "runner"} for i in range(3)), queue="aside")
    await plant.running(*ids)
    os.kill(plant.runners(ids[0])[ids[0]], signal.SIGKILL)
    plant.open("runner")
    assert (await client.drained())["completed"] == len(ids)
    verdict = await plant.judge(client)
    assert all(verdict.runs(task) == ["CRASHED"] for task in ids)
    assert all(row.attempts == 2 for row in verdict.dump.tasks.values())
    assert plant.parts["worker-aside"].returncode is None


async def test_unknown_type(plant: Site) -> None:
    """A type that another live worker knows is given back without an attempt; one that none knows fails its attempts."""
    client = await plant.client("api-1")
    await aside(plant)
    knows = plant.start("worker-other", TASKMILL_APP="tests.e2e.apps:other", TASKMILL_QUEUES="aside")
    await plant.ready("worker-other")
    knows.signal(signal.SIGSTOP)  # it counts as live, and cannot be the first to claim
    try:
        [task] = await client.create({}, type="OTHER", queue="aside")
        await wait_until(lambda: released(client, task), 20, every=0.05)
        await plant.end("worker-aside")
    finally:
        knows.signal(signal.SIGCONT)
    assert (await client.drained())["completed"] == 1
    verdict = await plant.judge(client)
    assert set(verdict.runs(task)) == {"UNKNOWN_TYPE"}
    assert verdict.dump.tasks[task].attempts == 1
    await plant.end("worker-other")
    del plant.parts["worker-other"]
    await aside(plant)
    [task] = await client.create({}, type="OTHER", queue="aside", maxRetries=1)
    assert (await client.drained())["failed"] == 1
    found = await client.task(task)
    assert (found["status"], found["attempts"]) == ("FAILED", 2)
    assert "Unknown task type 'OTHER' (known: " in found["error"]
    await plant.judge(client)


async def released(client: Client, task: str) -> bool:
    found = await client.task(task, "runs { outcome }")
    return any(run["outcome"] == "UNKNOWN_TYPE" for run in found["runs"])


async def test_without_redis(plant: Site, plant_redis: RedisServer) -> None:
    """Redis dies, during the run and for a worker that starts: SQL dispatches, health says degraded, and Redis comes back."""
    client = await plant.client("api-1")
    plant_redis.kill()
    try:
        await plant.end("worker-1")
        plant.start("worker-1")
        await plant.ready("worker-1")
        ids = await client.create_each(50)
        assert (await client.drained())["completed"] == len(ids)
        assert await health(plant) == "degraded"
        scheduled = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        ids += await client.create({"n": 50}, scheduledAt=scheduled)
        assert (await client.drained())["completed"] == len(ids)
    finally:
        plant_redis.start()
    await wait_until(lambda: recovered(plant), 20, every=0.1)
    ids += await client.create_each(50)
    assert (await client.drained())["completed"] == len(ids) == 101
    verdict = await plant.judge(client)
    assert all(len(verdict.executions(task)) == 1 for task in ids)


async def health(plant: Site) -> str:
    response = await plant.get("api-1", "/health")
    assert response is not None, "not 200"
    return str(response.json()["status"])


async def recovered(plant: Site) -> bool:
    return await health(plant) == "up"


async def test_paused_worker_is_stale(plant: Site) -> None:
    """A worker is stopped for two leases: its tasks run elsewhere, and what it has to say when it goes on changes nothing."""
    client = await plant.client("api-1")
    held = await fill(plant, client, "paused")
    _, theirs = plant.at("worker-1", *held)
    others = [task for task in held if task not in theirs]
    client.history.paused |= set(theirs)
    worker = plant.parts["worker-1"]
    worker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(2 * LEASE)
        plant.open("paused")  # the stopped worker's runner ends its handlers too
        await wait_until(lambda: completed(client, held), 20, every=0.1)
    finally:
        worker.signal(signal.SIGCONT)
    await wait_until(
        lambda: "a lease was lost" in worker.output() or "a stale outcome was refused" in worker.output()
    )
    verdict = await plant.judge(client)
    assert len(theirs) == SLOTS
    for task in theirs:
        executions = verdict.executions(task)
        assert [e.fence for e in executions] == [1, 2]
        assert executions[0].ended is not None  # it finished, and nobody listened
        assert verdict.dump.tasks[task].fence == 2
    assert all(len(verdict.executions(task)) == 1 for task in others)


async def completed(client: Client, tasks: list[str]) -> bool:
    return (await client.stats())["completed"] == len(tasks)


async def test_subscription_across_apis(plant: Site) -> None:
    """A subscriber at one API sees the last state of every task that was made at the other, and no state going back."""
    client = await plant.client("api-1")
    listener = plant.same(client, "api-2")
    async with listener.updates() as events:
        ids = await client.create_each(40)
        [cancelled] = await client.create(
            {}, scheduledAt=(datetime.now(UTC) + timedelta(hours=1)).isoformat()
        )
        await client.cancel(cancelled)
        final = dict.fromkeys(ids, "COMPLETED") | {cancelled: "CANCELLED"}
        await wait_until(lambda: {e["id"]: e["status"] for e in events} == final, 20)
    order = ["PENDING", "QUEUED", "PROCESSING", "COMPLETED", "CANCELLED"]
    for task in final:
        seen = [order.index(e["status"]) for e in events if e["id"] == task]
        assert seen == sorted(seen)
    await plant.judge(client)


@pytest.mark.timeout(600)
async def test_many_tasks(plant: Site, many: int) -> None:
    """Thousands of tasks (20,000 with TASKMILL_TEST_LARGE=1), 500 a call, at both APIs: every one is accounted for."""
    client = await plant.client("api-1")
    ids = await client.create_many(many, plant.same(client, "api-2"))
    assert (await client.drained(400))["completed"] == len(ids) == many
    verdict = await plant.judge(client)
    assert Counter(len(verdict.executions(task)) for task in ids) == {1: many}


async def test_whole_record(plant: Site) -> None:
    """After all of it, everything stopped with exit 0: the whole record holds, of all users together."""
    await plant.judge()
