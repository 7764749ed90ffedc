"""Schedules through the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from taskmill.client import Client
from taskmill.errors import BadUserInput, NotFound
from tests.api.kit import PASSWORD, running

pytestmark = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Client]:
    async with running(store_url) as api, Client(api.base) as client:
        await client.register("ann@example.com", PASSWORD, "Ann")
        yield client


async def test_the_life_of_a_schedule(client: Client) -> None:
    """Made, looked at, changed, paused, run at once, removed."""
    made = await client.create_schedule(
        "report",
        "0 9 * * MON",
        timezone="Europe/Berlin",
        type="REPORT",
        payload={"weekly": True},
        priority="HIGH",
        misfire="SKIP",
        starts_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert (made.timezone, made.priority, made.misfire, made.payload) == (
        "Europe/Berlin",
        "HIGH",
        "SKIP",
        {"weekly": True},
    )
    assert await client.schedule(made.id) == made
    assert [plan.id async for plan in client.schedules()] == [made.id]
    fires = await client.next_fires(made.id, 3)
    assert [fire.at.weekday() for fire in fires] == [0, 0, 0]
    assert fires[0].at == made.next_fire
    changed = await client.update_schedule(made.id, cron="30 8 * * *", starts_at=None)
    assert (changed.cron, changed.starts_at) == ("30 8 * * *", None)
    assert not (await client.pause_schedule(made.id)).enabled
    assert (await client.resume_schedule(made.id)).enabled
    task = await client.run_schedule_now(made.id)
    assert (task.type, task.payload) == ("REPORT", {"weekly": True})
    assert [(fire.outcome, fire.task_id) for fire in await client.history(made.id)] == [("RUN_NOW", task.id)]
    await client.delete_schedule(made.id)
    assert await client.schedule(made.id) is None


async def test_what_is_wrong_is_told(client: Client) -> None:
    """A cron that is none, a schedule that is not there, an option that a schedule does not have."""
    with pytest.raises(BadUserInput, match="cron"):
        await client.create_schedule("report", "every monday")
    with pytest.raises(NotFound):
        await client.history("nothing")
    with pytest.raises(TypeError, match="colour"):
        await client.update_schedule("x", colour="red")  # type: ignore[call-arg]  # that is what is tested
