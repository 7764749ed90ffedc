"""Remote workers as processes: they have a URL and a key, and neither a database nor a Redis."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from taskmill.model.state import Verb
from tests.e2e.check import Verdict, check
from tests.e2e.kit import Client, Site
from tests.support import ROOT, Process, Processes, running, wait_until

pytestmark = pytest.mark.timeout(180)
NODE = shutil.which("node")
KEY = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }"
SLOTS = 5
SHORT, LONG = "2.5", "60"
"""Seconds that leases hold at the API: short, where a test waits for their end; long, while it is restarted."""


async def key_of(client: Client) -> str:
    data = await client.call(KEY, i={"name": "workers", "role": "WORKER"})
    return str(data["createApiKey"]["key"])


@dataclass
class Place:
    """`up`, whose own worker serves another queue, for all tests: to start it takes longer than they do. What it tells of
    leases changes with a restart."""

    site: Site
    admin: Client
    key: str
    lease: str
    claims: list[tuple[Client, Callable[[Verdict], None]]] = field(default_factory=list)
    """What must hold of the record of each user, which nobody else can read before `up` has ended."""

    def up(self, lease: str) -> None:
        self.lease = lease
        self.site.start("up", TASKMILL_QUEUES="local", TASKMILL_LEASE=lease)

    async def ready(self, lease: str) -> None:
        """It runs with such leases, and no worker from before does."""
        for role in [role for role in self.site.parts if role != "up"]:
            self.site.parts.pop(role).kill()
        if self.lease != lease or self.site.parts["up"].returncode is not None:
            self.site.parts["up"].kill()
            self.up(lease)
        await self.site.ready()

    async def workers(self, *roles: str) -> None:
        for role in roles:
            self.site.start(
                role,
                # Were they used, this would not work.
                DATABASE_URL="",
                REDIS_URL="redis://127.0.0.1:1/0",
                TASKMILL_DATA=str(self.site.data.parent / role),
                TASKMILL_API_URL=self.admin.base,
                TASKMILL_API_KEY=self.key,
                TASKMILL_LEASE="600",
                TASKMILL_DRAIN="0.1",
            )
        await self.site.ready()


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("remote")
    site = Site(Processes(folder), folder, f"sqlite:///{folder / 'data' / 'taskmill.db'}")
    try:
        site.start("up", TASKMILL_QUEUES="local", TASKMILL_LEASE=LONG)
        await site.ready()
        admin = await site.client("up")
        yield Place(site, admin, await key_of(admin), LONG)
    finally:
        await site.close()


@pytest.fixture
async def remote(place: Place, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A failed test shows what the processes wrote."""
    request.node.funcargs["processes"] = place.site.processes
    yield place
    for process in place.site.processes.started:
        if process.name.startswith("node"):
            process.kill()


class Nodes:
    """Workers of examples/worker.mjs on one installation, each test on a queue of its own."""

    def __init__(self, site: Site, client: Client, key: str, queue: str) -> None:
        self.site, self.client, self.key, self.queue = site, client, key, queue

    async def start(self, **settings: str) -> Process:
        env = {
            "TASKMILL_API_URL": self.client.base,
            "TASKMILL_API_KEY": self.key,
            "TASKMILL_QUEUES": self.queue,
        }
        command = [str(NODE), str(ROOT / "examples" / "worker.mjs")]
        process = self.site.processes.start(command, env=env | settings, name="node")
        await asyncio.to_thread(process.wait_for_output, '"ready"')
        return process

    async def create(self, type: str, **payload: Any) -> str:
        data = await self.client.call(
            "mutation($i: CreateTaskInput!) { createTask(input: $i) { id } }",
            i={"title": type, "type": type, "payload": payload, "maxRetries": 1, "queue": self.queue},
        )
        return str(data["createTask"]["id"])

    async def task(self, task: str) -> Any:
        fields = "status attempts progress result error runs { outcome errorType traceback } logs { message fields }"
        return await self.client.task(task, fields)

    async def until(self, task: str, status: str) -> Any:
        async def there() -> Any:
            with suppress(httpx2.TransportError):
                found = await self.task(task)
                return found if found["status"] == status else None
            return None

        return await wait_until(there, 30, every=0.05, what=f"{task} is {status}")


@pytest.fixture
async def nodes(remote: Place) -> Nodes:
    if NODE is None:
        pytest.skip("node is not on PATH")
    return Nodes(remote.site, remote.admin, remote.key, f"q{secrets.token_hex(4)}")


async def test_api_restarted_while_remote_workers_run(remote: Place, nodes: Nodes) -> None:
    """SIGKILL to the API: handlers go on, their outcomes wait, and are recorded once when it is back; one in Node that
    waits for work claims on by itself."""
    await remote.ready(LONG)
    await remote.workers("worker-1")
    node = await nodes.start()
    await nodes.until(await nodes.create("ECHO", n=1), "COMPLETED")
    site, client = remote.site, await remote.site.client("up")
    held = await client.create(*({"n": i, "gate": "back"} for i in range(SLOTS)))
    await site.running(*held)
    site.parts["up"].kill()
    site.open("back")
    await wait_until(
        lambda: all(e.ended for e in site.executions(*held).values()), what="handlers have ended"
    )
    await asyncio.to_thread(node.wait_for_output, "claim failed")
    remote.up(LONG)
    await site.ready("up")
    later = await client.create_each(50)
    assert (await client.drained())["completed"] == len(held) + len(later)

    def once(verdict: Verdict) -> None:
        assert verdict.verbs()[Verb.RESCUE] == 0
        assert Counter(len(verdict.executions(task)) for task in (*held, *later)) == {1: SLOTS + 50}

    remote.claims.append((client, once))
    assert (await nodes.until(await nodes.create("ECHO", n=2), "COMPLETED"))["result"] == {"n": 2}
    lines = [json.loads(text) for text in node.output().splitlines()]
    assert sum(line["event"] == "settled" for line in lines) == 2


async def test_remote_workers_that_end(remote: Place) -> None:
    """SIGKILL: what it was doing is rescued. SIGTERM: it is given back, without a spent attempt. All is completed, once,
    by whoever is left."""
    await remote.ready(SHORT)
    await remote.workers("worker-2", "worker-3")
    site, client = remote.site, await remote.site.client("up")
    held = await client.create(*({"n": i, "gate": "ended"} for i in range(2 * SLOTS)))
    await site.running(*held)
    workers = (await remote.admin.call("{ workers { name running } }"))["workers"]
    busy = {w["name"]: w["running"] for w in workers if w["running"]}
    assert busy == {"worker-2": SLOTS, "worker-3": SLOTS}
    runner, killed = site.at("worker-2", *held)
    site.parts["worker-2"].kill()
    await site.end("worker-3", timeout=20)
    await wait_until(lambda: not running(runner), what="the runner is gone")
    site.parts.pop("worker-2")
    site.open("ended")
    await remote.workers("worker-3")
    assert (await client.drained())["completed"] == len(held)
    names = {w["name"] for w in (await remote.admin.call("{ workers { name } }"))["workers"]}
    assert "worker-3" in names
    assert len(killed) == SLOTS

    def ended(verdict: Verdict) -> None:
        for task in held:
            assert verdict.runs(task) == (["LEASE_LOST"] if task in killed else ["RELEASED"])
            assert verdict.dump.tasks[task].attempts == (2 if task in killed else 1)

    remote.claims.append((client, ended))


async def test_a_worker_in_node(remote: Place, nodes: Nodes) -> None:
    """Results, logs, errors, an unknown type, a run that is longer than a lease, a cancel."""
    await remote.ready(SHORT)
    await nodes.start()
    long = await nodes.create("WAIT", seconds=float(SHORT) + 0.5)
    endless = await nodes.create("WAIT", seconds=600)
    echo = await nodes.create("ECHO", text='é"\\🎉', n=[1, None])
    total = await nodes.create("SUM", numbers=[1, 2, 3.5])
    refused = await nodes.create("REFUSE", why="because")
    unknown = await nodes.create("NOBODY_KNOWS_IT")
    await nodes.until(endless, "PROCESSING")
    await nodes.client.cancel(endless)
    assert (await nodes.until(echo, "COMPLETED"))["result"] == {"text": 'é"\\🎉', "n": [1, None]}
    assert (await nodes.until(total, "COMPLETED"))["result"] == {"sum": 6.5}
    failed = await nodes.until(refused, "FAILED")
    assert (failed["error"], failed["attempts"]) == ("no: because", 1)
    assert failed["runs"][0]["errorType"] == "RangeError"
    assert "worker.mjs" in failed["runs"][0]["traceback"]
    assert "NOBODY_KNOWS_IT" in (await nodes.until(unknown, "FAILED"))["error"]
    assert (await nodes.until(endless, "CANCELLED"))["runs"][0]["outcome"] == "CANCELLED"
    waited = await nodes.until(long, "COMPLETED")
    assert (waited["attempts"], [r["outcome"] for r in waited["runs"]]) == (1, ["SUCCEEDED"])
    assert (await nodes.task(total))["logs"] == [{"message": "summed", "fields": {"count": 3}}]


async def test_a_worker_in_node_that_ends(remote: Place, nodes: Nodes) -> None:
    """SIGTERM: exit 0, its task is given back without a spent attempt. SIGKILL: it is rescued, and another completes it."""
    await remote.ready(SHORT)
    first = await nodes.start(TASKMILL_DRAIN="0.1")
    task = await nodes.create("WAIT", seconds=600)
    await nodes.until(task, "PROCESSING")
    assert await asyncio.to_thread(first.stop) == 0
    second = await nodes.start()
    await nodes.until(task, "PROCESSING")
    second.kill()
    await nodes.until(task, "QUEUED")
    await nodes.client.call(
        "mutation($id: ID!) { updateTask(id: $id, input: {payload: {seconds: 0}}) { id } }", id=task
    )
    await nodes.start()
    done = await nodes.until(task, "COMPLETED")
    assert done["attempts"] == 2
    assert [r["outcome"] for r in done["runs"]] == ["SUCCEEDED", "LEASE_LOST", "RELEASED"]


async def test_the_record(remote: Place) -> None:
    """After all of it, everything stopped with exit 0: the record of each user holds."""
    site = remote.site
    await site.end()
    for client, holds in remote.claims:
        holds(await check(site.url, site.effects, [client.history], user=client.user))
