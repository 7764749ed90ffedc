"""Schedules over GraphQL: every operation, who may use it, and every bad input."""

from __future__ import annotations

from typing import Any

from taskmill.tasks.fire import Late
from taskmill.upkeep.fire import fire_due
from tests.api.kit import Api, every_engine
from tests.tasks.schedule_kit import put

FIELDS = """id name cron timezone type title description payload priority queue maxRetries misfire overlap enabled
startsAt endsAt nextFire lastFire waiting declaredBy lastTask { id status scheduledAt }"""


async def create(api: Api, fields: str = FIELDS, *, token: str | None = None, **given: Any) -> Any:
    data = await api.ok(
        f"mutation($i: CreateScheduleInput!) {{ createSchedule(input: $i) {{ {fields} }} }}",
        token=token,
        i={"name": "s", "cron": "* * * * *", **given},
    )
    return data["createSchedule"]


async def do(api: Api, what: str, id: str, fields: str = FIELDS, *, token: str | None = None) -> Any:
    return (await api.ok(f"mutation($id: ID!) {{ {what}(id: $id) {{ {fields} }} }}", token=token, id=id))[
        what
    ]


async def get(api: Api, id: str, fields: str = FIELDS, *, token: str | None = None) -> Any:
    return (await api.ok(f"query($id: ID!) {{ schedule(id: $id) {{ {fields} }} }}", token=token, id=id))[
        "schedule"
    ]


@every_engine
async def test_a_schedule_is_created_fires_and_shows_what_it_made(api: Api) -> None:
    """createSchedule, the scheduler's turn, and then its task, its history and its next fire."""
    await api.register("ann")
    made = await create(api, type="T", payload={"n": 1}, priority="HIGH", queue="reports", maxRetries=2)
    assert (made["title"], made["misfire"], made["overlap"], made["enabled"]) == ("s", "ONCE", "ALLOW", True)
    assert (made["payload"], made["timezone"], made["lastTask"]) == ({"n": 1}, "UTC", None)
    assert made["nextFire"] is not None
    await lapse(api, made["id"])
    await fire_due(api.mill, Late(3600.0), 1.0)
    after = await get(api, made["id"], f"{FIELDS} history {{ nominalAt at outcome taskId }}")
    [fire] = after["history"]
    assert (fire["outcome"], fire["taskId"]) == ("SUBMITTED", after["lastTask"]["id"])
    assert fire["nominalAt"] == after["lastFire"] == after["lastTask"]["scheduledAt"]
    assert after["nextFire"] > after["lastFire"]
    [task] = (await api.ok("{ tasks { title type payload priority queue maxRetries status } }"))["tasks"]
    assert task == {
        "title": "s", "type": "T", "payload": {"n": 1}, "priority": "HIGH", "queue": "reports", "maxRetries": 2,
        "status": "QUEUED",
    }  # fmt: skip


async def lapse(api: Api, id: str) -> None:
    """Let one of its times pass."""
    import uuid
    from datetime import timedelta

    from taskmill.tasks import schedules

    raw = uuid.UUID(id).bytes
    row = await api.db.read(lambda c: schedules.one_schedule(c, raw, None))
    assert row is not None and row.next_at is not None
    await put(api, raw, next_at=row.next_at - timedelta(minutes=1))  # type: ignore[arg-type]
