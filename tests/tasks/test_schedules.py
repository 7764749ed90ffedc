"""Schedules as rows: what a change does to the next fire, names, the quota, and those that an app declares."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskmill.errors import BadUserInput, Conflict, Forbidden, NotFound
from taskmill.model.cron import CronSpec, Misfire, Overlap
from taskmill.model.ids import new_id
from taskmill.sql import schema
from taskmill.tasks import declared, schedules
from taskmill.tasks.declared import Synced
from taskmill.tasks.schedules import ScheduleChanges
from taskmill.tasks.service import service_user
from tests.tasks.kit import ANN, BOB, World
from tests.tasks.schedule_kit import fire_all, fired, look, make, put, schedule

APP, SERVICE = "shop:app", "service"


async def change(world: World, schedule_id: bytes, owner: bytes | None = ANN, **given: Any) -> Any:
    return await schedules.change(world.mill, schedule_id, owner, ScheduleChanges(**given))


# ---- one by one ----------------------------------------------------------------------------------------------------


async def test_a_new_schedule_is_read_back_as_it_was_given(world: World) -> None:
    """All columns, on each engine; the page leaves the payload out."""
    now = await world.now()
    new = schedule(
        "Täglich ☕",
        cron="30 2 * * *",
        timezone="Europe/Berlin",
        description="d",
        misfire=Misfire.ALL,
        overlap=Overlap.QUEUE,
        max_retries=4,
        starts_at=now + timedelta(days=1),
        ends_at=now + timedelta(days=9),
    )
    made = await schedules.create(world.mill, new)
    found = await look(world, made.id)
    assert found == replace(made, payload=None, created_at=found.created_at, updated_at=found.updated_at)
    assert await world.db.read(lambda c: schedules.payloads(c, [made.id])) == {made.id: new.payload}


@pytest.mark.parametrize(
    "given", [{"title": "x"}, {"payload": "{}"}, {"misfire": Misfire.SKIP}, {"queue": "q"}, {"name": "n"}]
)
async def test_what_says_nothing_of_times_leaves_the_next_fire(world: World, given: dict[str, Any]) -> None:
    """Also one that is due: it is made with what the change says."""
    row = await make(world, overdue=1)
    after = await change(world, row.id, **given)
    assert (after.next_at, after.version) == (row.next_at, row.version + 1)


async def test_a_change_to_what_it_is_changes_nothing(world: World) -> None:
    """No new version: a plan for it still holds, and a resend does nothing."""
    row = await make(world)
    assert (await change(world, row.id, title="t", cron="* * * * *")).version == row.version


async def test_another_time_counts_from_now_on(world: World) -> None:
    """And a pause makes up for nothing."""
    row = await make(world, overdue=5)
    paused = await change(world, row.id, enabled=False)
    assert (paused.enabled, paused.next_at) == (False, None)
    await fire_all(world)
    resumed = await change(world, row.id, enabled=True)
    assert resumed.next_at is not None
    assert resumed.next_at > resumed.updated_at
    far = await change(world, row.id, starts_at=resumed.next_at + timedelta(days=400))
    assert far.next_at == resumed.next_at + timedelta(days=400)
    ended = await change(world, row.id, starts_at=None, ends_at=row.created_at - timedelta(days=1))
    assert ended.next_at is None
    with pytest.raises(BadUserInput, match="endsAt"):
        await change(world, row.id, starts_at=resumed.next_at)
    assert await fired(world, row.id) == []


async def test_after_a_clock_that_stepped_back_no_time_comes_again(world: World) -> None:
    """The next fire lies behind the last one, too."""
    row = await make(world)
    ahead = (await world.now()).replace(second=0, microsecond=0) + timedelta(days=2)
    await put(world, row.id, last_at=ahead)
    after = await change(world, row.id, cron="*/5 * * * *")
    assert after.next_at is not None
    assert after.next_at > ahead


async def test_a_foreign_schedule_is_as_an_absent_one(world: World) -> None:
    """For each verb."""
    row = await make(world)
    for schedule_id, owner in ((row.id, BOB), (new_id(), ANN)):
        with pytest.raises(NotFound) as changing:
            await change(world, schedule_id, owner, title="x")
        with pytest.raises(NotFound) as deleting:
            await schedules.delete(world.mill, schedule_id, owner)
        assert changing.value.message == deleting.value.message == schedules.ABSENT
        assert await world.db.read(lambda c, s=schedule_id, o=owner: schedules.one_schedule(c, s, o)) is None  # type: ignore[misc]


async def test_a_name_is_taken_once_by_each_user(world: World) -> None:
    """By creation and by change; case counts; another user may have it."""
    row = await make(world, schedule("a"))
    await make(world, schedule("A"))
    await make(world, schedule("a", user_id=BOB))
    with pytest.raises(Conflict, match="'a'"):
        await make(world, schedule("a"))
    with pytest.raises(Conflict, match="'A'"):
        await change(world, row.id, name="A")
    await change(world, row.id, name="a")


async def test_two_creations_at_once_of_one_name_make_one(world: World) -> None:
    """The other gets a CONFLICT, never a server error."""
    answers = await asyncio.gather(*(make(world, schedule("a")) for _ in range(4)), return_exceptions=True)
    assert sorted(type(a).__name__ for a in answers) == ["Conflict", "Conflict", "Conflict", "ScheduleRow"]


async def test_a_user_has_no_more_schedules_than_the_quota(world: World) -> None:
    """Row 62: CONFLICT, also when many come at once; another user is not concerned."""
    now = await world.now()
    values = {"id": ANN, "email": "a@b.c", "name": "a", "password_hash": "x", "role": 1, "created_at": now}
    await world.db.write(lambda c: c.execute(sa.insert(schema.users).values(**values)))

    async def create(n: int) -> Any:
        return await world.db.write(
            lambda c: schedules.create_schedule(c, new_id(), schedule(f"s{n}"), quota=3)
        )

    answers = await asyncio.gather(*(create(n) for n in range(8)), return_exceptions=True)
    refused = [a for a in answers if isinstance(a, Conflict)]
    assert (len(answers) - len(refused), len(refused)) == (3, 5)
    assert "3 is the most" in refused[0].message
    await make(world, schedule("s", user_id=BOB))


async def test_pages_are_newest_first_and_of_the_owner(world: World) -> None:
    """`after` goes on behind the last one; None sees all."""
    made = [await make(world, schedule(f"s{n}", user_id=ANN if n % 2 else BOB)) for n in range(5)]

    async def page(owner: bytes | None, after: bytes | None = None) -> list[str]:
        rows = await world.db.read(lambda c: schedules.page(c, owner, limit=2, after=after))
        return [r.name for r in rows]

    assert await page(None) == ["s4", "s3"]
    assert await page(ANN) == ["s3", "s1"]
    assert await page(BOB, made[4].id) == ["s2", "s0"]


# ---- declared by an app --------------------------------------------------------------------------------------------


async def sync(world: World, *specs: CronSpec, app: str = APP, quota: int = 100) -> Synced:
    return await declared.sync(world.db, SERVICE, app, specs, quota)


async def by_name(world: World) -> dict[str, Any]:
    return {r.name: r for r in await world.db.read(lambda c: schedules.page(c, None, limit=100, after=None))}


NIGHT, DAY = CronSpec("night", "0 3 * * *", type="T"), CronSpec("day", "0 9 * * mon", type="T", title="Day")


async def test_sync_makes_the_record_say_what_the_app_says(world: World) -> None:
    """Created, changed, deleted, left alone; twice is once."""
    assert await sync(world, NIGHT, DAY) == Synced(created=("night", "day"))
    before = await by_name(world)
    assert (before["night"].declared, before["night"].title, before["day"].cron) == (
        APP,
        "night",
        "0 9 * * MON",
    )
    assert await sync(world, NIGHT, DAY) == Synced(same=("night", "day"))
    assert await by_name(world) == before
    changed = replace(NIGHT, payload='{"n":2}', cron="0 4 * * *")
    assert await sync(world, changed) == Synced(changed=("night",), deleted=("day",))
    after = await by_name(world)
    assert set(after) == {"night"}
    assert after["night"].id == before["night"].id
    assert after["night"].next_at.hour == 4
    assert await sync(world) == Synced(deleted=("night",))


async def test_sync_gives_the_room_of_what_is_gone_to_what_is_new(world: World) -> None:
    """An app with as many schedules as the quota may rename them; one more is a CONFLICT, and nothing is deleted then."""
    await sync(world, NIGHT, DAY, quota=2)
    renamed = replace(NIGHT, name="evening")
    with pytest.raises(Conflict, match="2 is the most"):
        await sync(world, renamed, DAY, replace(DAY, name="noon"), quota=2)
    assert set(await by_name(world)) == {"night", "day"}
    assert await sync(world, renamed, DAY, quota=2) == Synced(("evening",), (), ("night",), ("day",))


async def test_sync_keeps_what_an_operator_paused_and_what_is_due(world: World) -> None:
    """A deploy does not resume it, and drops no fire."""
    await sync(world, NIGHT, DAY)
    made = await by_name(world)
    await change(world, made["night"].id, None, enabled=False)
    due = await world.now() - timedelta(minutes=1)
    await put(world, made["day"].id, next_at=due)
    await sync(world, replace(NIGHT, title="x"), replace(DAY, title="y"))
    after = await by_name(world)
    assert (after["night"].enabled, after["night"].next_at, after["night"].title) == (False, None, "x")
    assert (after["day"].next_at, after["day"].title) == (due, "y")


async def test_sync_leaves_the_schedules_of_others(world: World) -> None:
    """Another app's, and a person's; one of the same name is a CONFLICT, and then nothing is changed."""
    await sync(world, NIGHT, app="other:app")
    await make(world, schedule("night"))
    with pytest.raises(Conflict, match="other:app"):
        await sync(world, DAY, NIGHT)
    assert "day" not in await by_name(world)
    assert await sync(world, DAY) == Synced(created=("day",))
    assert await sync(world) == Synced(deleted=("day",))
    assert set(await by_name(world)) == {"night"}


async def test_an_app_that_declares_nothing_leaves_no_trace(world: World) -> None:
    """Not even the service user."""
    assert await sync(world) == Synced()
    assert await world.table(schema.users) == []


async def test_the_tasks_of_declared_schedules_are_the_service_users(world: World) -> None:
    """And nothing is declared for one that was disabled."""
    await sync(world, NIGHT)
    user = await world.db.write(lambda c: service_user(c, SERVICE))
    assert (await by_name(world))["night"].user_id == user
    u = schema.users
    now = await world.now()
    await world.db.write(lambda c: c.execute(sa.update(u).values(disabled_at=now)))
    with pytest.raises(Forbidden, match="service"):
        await sync(world, NIGHT, DAY)


async def test_two_syncs_at_once_make_each_schedule_once(world: World) -> None:
    """Two deploys of the same code: the second finds it done."""
    await sync(world, CronSpec("first", "0 1 * * *"))
    first = CronSpec("first", "0 1 * * *")
    done = await asyncio.gather(*(sync(world, first, NIGHT, DAY) for _ in range(3)))
    assert sorted(len(d.created) for d in done) == [0, 0, 2]
    assert set(await by_name(world)) == {"first", "night", "day"}
