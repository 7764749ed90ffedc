"""Submitting through the port, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from taskmill.client import Client
from taskmill.client.port import ClientPort
from taskmill.errors import BadUserInput, NotFound
from taskmill.model.port import Draft, Port
from taskmill.model.state import Priority, Status
from tests.api.kit import PASSWORD, running

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Client]:
    async with running(store_url) as api, Client(api.base) as client:
        await client.register("ann@example.com", PASSWORD, "Ann")
        yield client


async def test_drafts_become_tasks(client: Client) -> None:
    """Every field of a draft arrives; the ids come in order."""
    port: Port = ClientPort(client)
    at = datetime.utcnow().replace(microsecond=0) + timedelta(hours=1)  # noqa: DTZ003 (naive UTC, as drafts are)
    draft = Draft("first", '{"n": 1e2}', "A_TYPE", "bulk", Priority.LOW, at, 5, "why")
    ids = await port.submit([draft, Draft("second", "{}")])
    task = await client.task(ids[0])
    assert task is not None
    assert task.scheduled_at is not None
    given = (task.title, task.type, task.queue, task.priority, task.max_retries, task.description)
    assert given == ("first", "A_TYPE", "bulk", "LOW", 5, "why")
    assert task.payload == {"n": 100}
    assert task.scheduled_at.replace(tzinfo=None) == at
    second = await client.task(ids[1])
    assert second is not None
    assert second.title == "second"
    assert await port.submit([]) == []


async def test_a_bad_draft_takes_the_others_with_it(client: Client) -> None:
    """All or none: a refusal, or more than 1,000, submits nothing."""
    port = ClientPort(client)
    with pytest.raises(BadUserInput):
        await port.submit([Draft("good", "{}"), Draft("", "{}")])
    with pytest.raises(BadUserInput, match="1,001"):
        await port.submit([Draft("t", "{}")] * 1001)
    assert (await client.stats()).total == 0


async def test_looking_and_cancelling(client: Client) -> None:
    """`look` tells the state, `cancel` ends a task; what is absent is NotFound."""
    port = ClientPort(client)
    [task_id] = await port.submit([Draft("t", "{}")])
    seen = await port.look(task_id)
    assert (seen.id, seen.status, seen.result, seen.attempts) == (task_id, Status.QUEUED, None, 0)
    await port.cancel(task_id)
    assert (await port.look(task_id)).status is Status.CANCELLED
    with pytest.raises(NotFound):
        await port.look("nothing")
    with pytest.raises(NotFound):
        await port.cancel("nothing")
