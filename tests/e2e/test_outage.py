"""Life without Redis, and a worker that is cut off from the record: an API, two workers of five slots and a scheduler on
MySQL. worker-1 reaches it over a cable that a test can cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis.asyncio as redis
import sqlalchemy as sa
from sqlalchemy import exc

from taskmill.sql.engine import SqlOptions, open_database
from tests.databases import MigratedStores
from tests.e2e.kit import Client, Site
from tests.proxy import Cable
from tests.support import (
    SERVER_VARIABLES,
    Processes,
    RedisServer,
    free_port,
    running,
    server_binary,
    wait_until,
)

pytestmark = pytest.mark.timeout(180)
ROLES = ("api", "worker-1", "worker-2", "scheduler")
SLOTS = 5
"""Of each worker."""
PREFIX = "{taskmill/default}:"


@dataclass
class Outage:
    site: Site
    redis: RedisServer
    cable: Cable

    async def start(self) -> None:
        for role in ROLES:
            own = {"DATABASE_URL": self.cable.url} if role == "worker-1" else {}
            self.site.start(role, **own)
        await self.site.ready(timeout=60)

    async def health(self) -> str:
        response = await self.site.get("api", "/health")
        assert response is not None, "not 200"
        return str(response.json()["status"])

    async def restored(self) -> None:
        """Redis answers the API, and holds a whole index."""

        async def whole() -> bool:
            if await self.health() != "up":
                return False
            generation, fill = await self.index("HMGET", f"{PREFIX}g", "gen", "fill")
            return generation is not None and fill is None

        await wait_until(whole, 30, every=0.1, what="the index is refilled")

    async def index(self, *command: Any) -> Any:
        client = redis.Redis.from_url(self.redis.url)
        try:
            return await client.execute_command(*command)
        finally:
            await client.aclose()

    async def ready_tasks(self) -> int:
        """How many tasks the index offers."""
        found = 0
        client = redis.Redis.from_url(self.redis.url)
        try:
            async for key in client.scan_iter(match=f"{PREFIX}r*"):
                found += await client.zcard(key)
        finally:
            await client.aclose()
        return found

    async def fill(self, client: Client, gate: str, type: str = "NOTE") -> list[str]:
        """Tasks that hold every slot of both workers until the gate is open."""
        held = await client.create(*({"n": i, "gate": gate} for i in range(2 * SLOTS)), type=type)
        await self.site.running(*held, timeout=30)
        return held

    async def completed(self, client: Client, tasks: list[str]) -> None:
        async def done() -> bool:
            return (await client.stats())["completed"] == len(tasks)

        await wait_until(done, 60, every=0.1)


@pytest.fixture(scope="module")
async def installation(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outage]:
    """For all tests of the module. It starts while Redis is down."""
    engine = next((e for e in ("mysql", "mariadb") if os.environ.get(SERVER_VARIABLES[e])), None)
    binary = server_binary()
    if engine is None or binary is None:
        pytest.skip("TEST_MYSQL_URL is not set")
    folder = tmp_path_factory.mktemp("outage")
    server = RedisServer(binary)
    with migrated_stores.lend(engine, folder) as url:
        cable = Cable(url)
        settings = {"TASKMILL_VERIFY": "0.5", "TASKMILL_VERIFY_GRACE": "0.5"}
        site = Site(Processes(folder), folder, url, REDIS_URL=server.url, **settings)
        outage = Outage(site, server, cable)
        try:
            await outage.start()
            await site.client("api")  # the first user is ADMIN, and would see the tasks of all
            yield outage
        finally:
            cable.mend()
            await site.close()
            cable.close()
            server.close()


@pytest.fixture
async def outage(installation: Outage, request: pytest.FixtureRequest) -> Outage:
    """The installation as it is: all its parts run. A failed test shows what they wrote."""
    request.node.funcargs["processes"] = installation.site.processes
    await installation.site.heal()
    return installation


@pytest.fixture
async def whole(outage: Outage) -> Outage:
    """The same, with Redis."""
    if not outage.redis.running:
        outage.redis.start()
    await outage.restored()
    return outage


async def test_started_without_redis(outage: Outage) -> None:
    """All parts start while it is down, tasks run from SQL alone; when it comes the index is filled, and nothing ran twice."""
    site = outage.site
    if outage.redis.running:  # not the first test
        await site.end()
        outage.redis.kill()
        await outage.start()
    assert await outage.health() == "degraded"
    client = await site.client("api")
    ids = await client.create_each(20)
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    ids += await client.create({"n": 20}, scheduledAt=due.isoformat())
    assert (await client.drained(60))["completed"] == len(ids)
    roles = list(site.parts)
    assert await site.metric("index_up", *roles) == 0
    outage.redis.start()
    await outage.restored()

    async def all_up() -> bool:
        return await site.metric("index_up", *roles) == len(roles)

    await wait_until(all_up, 30, every=0.1)
    ids += await client.create_each(20)
    assert (await client.drained(60))["completed"] == len(ids) == 41
    verdict = await site.judge(client)
    assert Counter(len(verdict.executions(task)) for task in ids) == {1: 41}


async def test_refilled_from_the_record(whole: Outage) -> None:
    """Redis dies with tasks waiting in it, and comes back empty: all of them are in the index again, and run once."""
    client = await whole.site.client("api")
    held = await whole.fill(client, "refill")
    ids = held + await client.create(*({"n": i} for i in range(40)))
    whole.redis.kill()
    more = await client.create(*({"n": i} for i in range(40, 50)))
    whole.redis.start()

    async def refilled() -> bool:
        return await whole.ready_tasks() == 50

    # The workers have no free slot, so nobody takes them meanwhile.
    await wait_until(refilled, 30, every=0.1)
    whole.site.open("refill")
    assert (await client.drained(60))["completed"] == len(ids + more) == 60
    verdict = await whole.site.judge(client)
    assert Counter(len(verdict.executions(task)) for task in ids + more) == {1: 60}


async def test_silent_redis(whole: Outage) -> None:
    """Redis is there and does not answer (SIGSTOP): tasks are accepted and run all the same, health says degraded, and
    when it goes on nothing was lost or run twice."""
    client = await whole.site.client("api")
    whole.redis.pause()
    try:
        ids = await client.create_each(20)
        assert (await client.drained(60))["completed"] == len(ids) == 20
        assert await whole.health() == "degraded"
    finally:
        whole.redis.resume()
    await whole.restored()
    ids += await client.create_each(20)
    assert (await client.drained(60))["completed"] == len(ids)
    verdict = await whole.site.judge(client)
    assert Counter(len(verdict.executions(task)) for task in ids) == {1: 40}


async def stale(site: Site, role: str) -> float:
    return await site.metric("stale_writes_total", role)


async def test_worker_cut_off_from_the_record(whole: Outage) -> None:
    """No byte passes any more, and no connection breaks: the worker ends its runners and sends nothing, its tasks run
    elsewhere; when the way is open again it goes on working."""
    site, client = whole.site, await whole.site.client("api")
    held = await whole.fill(client, "cut", type="BLOCK")
    runner, theirs = site.at("worker-1", *held)
    whole.cable.cut()
    try:
        await wait_until(lambda: not running(runner), 30, what="the runner is gone")
        site.open("cut")
        await whole.completed(client, held)
    finally:
        whole.cable.mend()
    again = await whole.fill(client, "mended")  # every slot, so those of worker-1 too
    site.open("mended")
    assert (await client.drained(60))["completed"] == len(held + again)
    verdict = await site.judge(client)
    assert len(theirs) == SLOTS
    assert all(verdict.runs(task)[:1] == ["LEASE_LOST"] for task in theirs)
    sent = bytes(whole.cable.sent)
    assert any(written(sent, task, 1) for task in again)
    named = [task for task in theirs if written(sent, task, 1)]
    assert named == [], "it has written something for runs that it had given up"


def written(sent: bytes, task: str, fence: int) -> bool:
    """Whether a renewal or an outcome of this run is among what was sent: batches name (id, fence) in JSON, which the
    driver quotes or sql/hot.py writes as hexadecimal."""
    text = f'{UUID(task).hex}",{fence},'.encode()
    return any(form in sent for form in (text, text.replace(b'"', b'\\"'), text.hex().encode()))


async def stopped_between_transactions(site: Site, role: str) -> None:
    """SIGSTOP, and not while it holds a row's lock: a server keeps that for as long as the connection is open."""
    query = sa.text(
        "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p"
        " ON t.trx_mysql_thread_id = p.id WHERE p.db = :db AND t.trx_rows_locked + t.trx_rows_modified > 0"
    )
    name = urlsplit(site.url).path.strip("/")
    part = site.parts[role]
    database = await open_database(SqlOptions(url=site.url))

    async def stopped() -> bool:
        part.signal(signal.SIGSTOP)
        for _ in range(10):  # what others hold is over in a moment
            await asyncio.sleep(0.03)
            with suppress(
                exc.OperationalError
            ):  # MySQL does not convert each statement that it would show here
                if not await database.read(lambda c: c.execute(query, {"db": name}).scalar_one()):
                    return True
        part.signal(signal.SIGCONT)
        return False

    try:
        await wait_until(stopped, 20, every=0.05)
    finally:
        await database.close()


async def test_stopped_worker(whole: Outage) -> None:
    """SIGSTOP for longer than a lease, while its runner works on: when it goes on it ends that runner first of all, and
    does not even try to write what came of its runs."""
    site, client = whole.site, await whole.site.client("api")
    held = await whole.fill(client, "stopped", type="BLOCK")
    runner, theirs = site.at("worker-1", *held)
    client.history.paused |= set(theirs)
    before = await stale(site, "worker-1")
    await stopped_between_transactions(site, "worker-1")

    async def taken() -> bool:
        return all([await client.status(task) != "PROCESSING" for task in theirs])

    try:
        await wait_until(taken, 60, every=0.1, what="the leases have run out")
        assert running(runner)
    finally:
        site.parts["worker-1"].signal(signal.SIGCONT)
    await wait_until(lambda: not running(runner), 30, what="the runner is gone")
    assert await stale(site, "worker-1") == before
    site.open("stopped")
    await whole.completed(client, held)
    verdict = await site.judge(client)
    assert len(theirs) == SLOTS
    assert all(verdict.runs(task)[:1] == ["LEASE_LOST"] for task in theirs)


async def test_whole_record(whole: Outage) -> None:
    """After all of it, everything stopped with exit 0: the whole record holds."""
    await whole.site.judge()


# -- an evicting server, in production -------------------------------------------------------------------


def production(private_redis: RedisServer, folder: Path) -> dict[str, str]:
    return {
        "APP_ENV": "production",
        "JWT_SECRET": secrets.token_hex(32),
        "REDIS_URL": private_redis.url,
        "TASKMILL_DATA": str(folder / "data"),
        "TASKMILL_APP": "taskmill.handlers:app",
        "TASKMILL_HOST": "127.0.0.1",
    }


def set_policy(server: RedisServer, policy: str) -> None:
    import redis as sync

    with sync.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", policy)


async def test_evicting_redis_is_refused(
    processes: Processes, private_redis: RedisServer, tmp_path: Path
) -> None:
    """In production a process does not start on it: exit 3, and one line that says what to set."""
    set_policy(private_redis, "allkeys-lru")
    part = processes.taskmill("up", env=production(private_redis, tmp_path) | {"PORT": str(free_port())})
    assert part.wait(60) == 3
    [line] = [line for line in part.output().splitlines() if line.startswith("taskmill: ")]
    assert "maxmemory-policy is allkeys-lru" in line
    assert "noeviction" in line
    assert "Traceback" not in part.output()


async def test_evicting_redis_that_comes_later(
    processes: Processes, private_redis: RedisServer, tmp_path: Path
) -> None:
    """In production a process starts while Redis is down; an evicting one that comes then is not used until it is put
    right, and health says why."""
    private_redis.kill()
    private_redis.arguments = ("--maxmemory-policy", "allkeys-lru")
    url = f"sqlite:///{tmp_path / 'data' / 'taskmill.db'}"
    site = Site(processes, tmp_path, url, **production(private_redis, tmp_path))
    site.start("up")
    await site.ready(timeout=60)

    async def queue() -> str:
        response = await site.get("up", "/health/queue")
        return "" if response is None else json.dumps(response.json())

    assert "degraded" in await queue()
    private_redis.start()

    async def refused() -> bool:
        found = await queue()
        return "degraded" in found and "maxmemory-policy is allkeys-lru" in found

    await wait_until(refused, 30, every=0.1)
    set_policy(private_redis, "noeviction")

    async def used() -> bool:
        return '"status": "up"' in await queue()

    await wait_until(used, 30, every=0.1)
    await site.close()
