"""Workers and queues through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from taskmill.client import Client, NewTask
from tests.api.kit import PASSWORD, Api, running

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


@pytest.fixture
async def api(store_url: str) -> AsyncIterator[Api]:
    async with running(store_url, first_admin=True) as api:
        yield api


async def test_workers_and_queues_are_seen(api: Api) -> None:
    """A remote worker that registers is listed for an ADMIN; queues come by name, page by page, with their counts."""
    async with Client(api.base) as client:
        await client.register("ann@example.com", PASSWORD, "Ann")
        await client.create_tasks([NewTask(title="t", queue=f"q{n:03}") for n in range(120)])
        key = await client.create_api_key("worker", "WORKER")
        await api.ok(
            "mutation($i: RegisterWorkerInput!) { registerWorker(input: $i) { leaseSeconds } }",
            token=key.key,
            i={"worker": str(uuid4()), "name": "robot", "queues": ["q000"], "types": ["A"]},
        )
        [worker] = [worker async for worker in client.workers()]
        assert (worker.name, worker.queues, worker.types, worker.running) == ("robot", ["q000"], ["A"], 0)
        queues = [queue async for queue in client.queues()]
        assert [queue.name for queue in queues] == [f"q{n:03}" for n in range(120)]
        assert (queues[0].queued, queues[0].workers, queues[1].workers) == (1, 1, 0)
