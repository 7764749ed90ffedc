"""Remote workers as processes: they have a URL and a key, and neither a database nor a Redis."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from taskmill.model.state import Verb
from tests.e2e.kit import Client, Site
from tests.support import ROOT, Process, Processes, running, wait_until

NODE = shutil.which("node")
KEY = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }"
SLOTS = 5
NODE_LEASE = 4


async def key_of(client: Client) -> str:
    data = await client.call(KEY, i={"name": "workers", "role": "WORKER"})
    return str(data["createApiKey"]["key"])


async def start(site: Site, *roles: str, lease: str = "2") -> Client:
    """`up`, whose own worker serves another queue, and remote workers; its ADMIN."""
    site.start("up", TASKMILL_QUEUES="local", TASKMILL_LEASE=lease)
    await site.ready()
    client = await site.client("up")
    key = await key_of(client)
    for role in roles:
        site.start(
            role,
            # Were they used, this would not work.
            DATABASE_URL="",
            REDIS_URL="redis://127.0.0.1:1/0",
            TASKMILL_DATA=str(site.data.parent / role),
            TASKMILL_API_URL=client.base,
            TASKMILL_API_KEY=key,
            TASKMILL_LEASE="600",
            TASKMILL_DRAIN="0.1",
        )
    await site.ready()
    return client


async def test_remote_workers_that_end(embedded: Site) -> None:
    """SIGKILL: what it was doing is rescued. SIGTERM: it is given back, without a spent attempt. All is completed, once,
    by whoever is left."""
    client = await start(embedded, "worker-1", "worker-2")
    held = await client.create(*({"n": i, "gate": "go"} for i in range(2 * SLOTS)))
    await embedded.running(*held)
    workers = (await client.call("{ workers { name running } }"))["workers"]
    assert sorted(w["running"] for w in workers) == [0, SLOTS, SLOTS]
    runner, killed = embedded.at("worker-1", *held)
    embedded.parts["worker-1"].kill()
    await embedded.end("worker-2", timeout=20)
    await wait_until(lambda: not running(runner), what="the runner is gone")
    embedded.parts.pop("worker-1")
    embedded.open("go")
    embedded.start("worker-2")
    assert (await client.drained())["completed"] == len(held)
    names = {w["name"] for w in (await client.call("{ workers { name } }"))["workers"]}
    assert "worker-2" in names
    verdict = await embedded.judge()
    assert len(killed) == SLOTS
    for task in held:
        assert verdict.runs(task) == (["LEASE_LOST"] if task in killed else ["RELEASED"])
        assert verdict.dump.tasks[task].attempts == (2 if task in killed else 1)


async def test_api_restarted_while_a_remote_worker_runs(embedded: Site) -> None:
    """SIGKILL to the API: handlers go on, their outcomes wait, and are recorded once when it is back."""
    client = await start(embedded, "worker-1", lease="60")
    held = await client.create(*({"n": i, "gate": "go"} for i in range(SLOTS)))
    await embedded.running(*held)
    embedded.parts["up"].kill()
    embedded.open("go")
    await wait_until(
        lambda: all(e.ended for e in embedded.executions(*held).values()), what="handlers have ended"
    )
    embedded.start("up")
    await embedded.ready("up")
    later = await client.create_each(50)
    assert (await client.drained())["completed"] == len(held) + len(later)
    verdict = await embedded.judge()
    assert verdict.verbs()[Verb.RESCUE] == 0
    assert Counter(len(verdict.executions(task)) for task in (*held, *later)) == {1: SLOTS + 50}


class Nodes:
    """Workers of examples/worker.mjs on one installation, each test on a queue of its own."""

    def __init__(self, site: Site, client: Client, key: str) -> None:
        self.site, self.client, self.key = site, client, key
        self.queue = ""

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


@pytest.fixture(scope="module")
async def node_site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    """`up` for all tests with Node: to start it takes longer than they do."""
    if NODE is None:
        pytest.skip("node is not on PATH")
    folder = tmp_path_factory.mktemp("node")
    site = Site(Processes(folder), folder, f"sqlite:///{folder / 'data' / 'taskmill.db'}")
    try:
        client = await start(site, lease=str(NODE_LEASE))
        yield Nodes(site, client, await key_of(client))
    finally:
        await site.close()


@pytest.fixture
async def nodes(node_site: Nodes, request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    """A failed test shows what the processes wrote."""
    await node_site.site.heal()
    request.node.funcargs["processes"] = node_site.site.processes
    node_site.queue = f"q{secrets.token_hex(4)}"
    yield node_site
    for process in node_site.site.processes.started:
        if process.name.startswith("node"):
            process.kill()


async def test_a_worker_in_node(nodes: Nodes) -> None:
    """Results, logs, errors, an unknown type, a run that is longer than a lease, a cancel."""
    await nodes.start()
    long = await nodes.create("WAIT", seconds=NODE_LEASE + 1)
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


async def test_a_worker_in_node_that_ends(nodes: Nodes) -> None:
    """SIGTERM: exit 0, its task is given back without a spent attempt. SIGKILL: it is rescued, and another completes it."""
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


async def test_a_worker_in_node_outlives_its_api(nodes: Nodes) -> None:
    """The API is killed and started again: the worker claims on by itself."""
    process = await nodes.start()
    await nodes.until(await nodes.create("ECHO", n=1), "COMPLETED")
    nodes.site.parts["up"].kill()
    await asyncio.to_thread(process.wait_for_output, "claim failed")
    await nodes.site.heal()
    assert (await nodes.until(await nodes.create("ECHO", n=2), "COMPLETED"))["result"] == {"n": 2}
    lines = [json.loads(text) for text in process.output().splitlines()]
    assert sum(line["event"] == "settled" for line in lines) == 2
