"""`taskmill up`: everything in one process, on SQLite, with the embedded Valkey and without an index."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from taskmill.model.state import Verb
from tests.e2e.kit import LEASE, Site, children
from tests.support import wait_until


async def test_stop_in_the_middle(embedded: Site) -> None:
    """SIGTERM under load: exit 0; the next start, without any index, finishes what was left: no attempt spent, none lost."""
    up = embedded.start("up", TASKMILL_DRAIN="0.5")
    await embedded.ready()
    client = await embedded.client("up")
    held = await client.create(*({"n": i, "gate": "later"} for i in range(3)))
    await embedded.running(*held)
    creating = asyncio.create_task(client.create_each(300))
    while len(embedded.started()) < 30:
        await asyncio.sleep(0.02)
    up.signal(signal.SIGTERM)
    await creating
    assert await asyncio.to_thread(up.wait) == 0
    embedded.open("later")
    embedded.start("up", TASKMILL_INDEX="none")
    await embedded.ready()
    stats = await client.drained()
    assert stats["completed"] == stats["total"] >= len(client.history.created)
    response = await embedded.get("up", "/health")
    assert response is not None
    assert response.json()["status"] == "degraded"
    verdict = await embedded.judge()
    assert verdict.verbs()[Verb.RESCUE] == 0
    assert Counter(row.attempts for row in verdict.dump.tasks.values()) == {1: stats["total"]}
    assert all(verdict.runs(task) == ["RELEASED"] for task in held)


@pytest.mark.timeout(600)
async def test_many_tasks(embedded: Site, many: int) -> None:
    """Thousands of tasks (20,000 with TASKMILL_TEST_LARGE=1) while a handler holds the GIL of the runner for three
    leases: the API answers all the while, nothing is rescued, every task is accounted for."""
    embedded.start("up")
    await embedded.ready()
    client = await embedded.client("up")
    [blocking] = await client.create({"seconds": 3 * LEASE}, type="HOLD_GIL")
    await embedded.running(blocking)
    assert await client.status(blocking) == "PROCESSING", "the API waited for the handler"
    ids = await client.create_many(many)
    assert (await client.drained(400))["completed"] == many + 1
    verdict = await embedded.judge()
    assert verdict.verbs()[Verb.RESCUE] == 0
    assert Counter(len(verdict.executions(task)) for task in (blocking, *ids)) == {1: many + 1}


async def test_embedded_index_killed(embedded: Site) -> None:
    """SIGKILL to the embedded Valkey: it is started again and filled from SQL, and nobody has to do anything."""
    up = embedded.start("up")
    await embedded.ready()
    client = await embedded.client("up")
    held = await client.create(*({"n": i, "gate": "open"} for i in range(10)))
    [valkey] = [pid for pid in children(up.pid) if "valkey" in program(pid)]
    os.kill(valkey, signal.SIGKILL)
    ids = await client.create_each(50)
    embedded.open("open")
    assert (await client.drained())["completed"] == len(held) + len(ids)

    async def whole() -> bool:
        response = await embedded.get("up", "/health")
        return response is not None and response.json()["status"] == "up"

    await wait_until(whole, 20)
    await embedded.judge()


def program(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_ctrl_c(embedded: Site) -> None:
    """Readable by people, `up` says where it is and what to do next; Ctrl-C is how it ends well."""
    up = embedded.start("up", TASKMILL_LOG_FORMAT="console")
    said = await asyncio.to_thread(up.wait_for_output, "Ctrl-C stops")
    assert f"http://localhost:{embedded.ports['up']}/graphql" in said
    assert "The first user becomes ADMIN." in said
    up.signal(signal.SIGINT)
    assert await asyncio.to_thread(up.wait) == 0
