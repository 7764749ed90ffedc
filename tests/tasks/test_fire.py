"""fire: one task for each time of a schedule, whatever its policies and whoever gets in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskmill.errors import NotFound
from taskmill.model.cron import ZONES_VERSION, Misfire, Overlap, parse
from taskmill.model.ids import new_id
from taskmill.model.state import Status
from taskmill.sql import schema
from taskmill.tasks import fire as firing
from taskmill.tasks import schedules
from taskmill.tasks.fire import Plan, fire
from taskmill.tasks.run_now import run_now
from taskmill.tasks.schedules import Fired, ScheduleChanges
from taskmill.tasks.submit import submit
from taskmill.upkeep import fire as turning
from taskmill.upkeep.fire import fire_due, retain_fires, retime
from tests.tasks.kit import ANN, BOB, World
from tests.tasks.schedule_kit import (
    EASY,
    MINUTE,
    STRICT,
    YEARLY,
    Killed,
    fire_all,
    fired,
    kill_at,
    lapse,
    look,
    make,
    one_task_per_fire,
    outcomes,
    put,
    schedule,
)

S, M, PASSED, W = Fired.SUBMITTED, Fired.MISSED, Fired.OVERLAPPED, Fired.WAITING
servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
sqlite_only = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


async def test_a_fire_is_a_task_and_a_row_and_the_next_time(world: World) -> None:
    """The task has all that the schedule says, and the time that it is for."""
    row = await make(world, schedule(cron=YEARLY), overdue=1)
    await fire_all(world)
    [fire_row] = await fired(world, row.id)
    assert (fire_row.nominal_at, fire_row.outcome) == (row.next_at, S)
    [task] = await world.rows()
    assert (task.id, task.status, task.title, task.type) == (fire_row.task_id, Status.QUEUED, "t", "T")
    assert task.scheduled_at == row.next_at
    assert await world.payload(task.id) == '{"n":1}'
    after = await look(world, row.id)
    assert after.next_at is not None
    assert after.next_at > await world.now()
    assert (after.last_at, after.last_task_id, after.version) == (row.next_at, task.id, row.version)
    await one_task_per_fire(world)


async def test_nothing_is_due_before_its_time(world: World) -> None:
    """The loop sleeps until the next one, and not longer than its poll."""
    assert await fire_due(world.mill, EASY, 7.0) == 7.0
    row = await make(world, schedule(cron="0 0 1 1 *"))
    assert await fire_due(world.mill, EASY, 7.0) == 7.0
    assert await fired(world, row.id) == []


# ---- one task per fire, killed anywhere ----------------------------------------------------------------------------

POINTS = [(module, name, when) for module, name in (
    (turning, "due_schedules"), (turning, "fire"), (firing, "select_schedules"), (firing, "live_tasks"),
    (firing, "cancel_task"), (firing, "_move"), (firing, "record"), (firing, "submit"), (turning, "_announce"),
) for when in ("before", "after")]  # fmt: skip


def at_each(points: list[Any]) -> Any:
    ids = [f"{when} {name}" for _, name, when in points]
    return pytest.mark.parametrize(("module", "name", "when"), points, ids=ids)


@sqlite_only
@at_each(POINTS)
async def test_three_schedulers_one_killed_at_any_point_one_task_a_fire(
    world: World, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, when: str
) -> None:
    """The others make what the dead one did not, and nothing twice: for each overlap policy."""
    await killed_at(world, monkeypatch, module, name, when)


@servers
@at_each([p for p in POINTS if p[1] in ("_move", "submit", "_announce")])
async def test_the_same_where_they_really_work_at_the_same_time(
    world: World, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, when: str
) -> None:
    """On the servers, around each write."""
    await killed_at(world, monkeypatch, module, name, when)


async def killed_at(world: World, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, when: str) -> None:
    made = []
    for overlap in Overlap:
        row = await make(world, schedule(overlap.name, overlap=overlap, misfire=Misfire.ALL))
        await run_now(world.mill, row.id, None)
        made.append(await lapse(world, row.id, 3))
    with monkeypatch.context() as patch:
        died = kill_at(patch, module, name, when)
        with pytest.raises(Killed):
            await fire_all(world)
        assert died == [name]
    now = await world.now()
    await asyncio.gather(*(fire_all(world) for _ in range(3)))
    expected = {
        Overlap.ALLOW: [S, S, S],
        Overlap.SKIP: [PASSED, PASSED, PASSED],
        Overlap.QUEUE: [W, W, W],
        Overlap.CANCEL_RUNNING: [PASSED, PASSED, S],
    }
    for row in made:
        assert row.next_at is not None
        rows = [
            f for f in await fired(world, row.id) if f.outcome is not Fired.RUN_NOW and f.nominal_at <= now
        ]
        assert [f.nominal_at for f in rows] == [row.next_at + n * MINUTE for n in range(len(rows))]
        assert outcomes(rows)[:3] == expected[row.overlap]
    await one_task_per_fire(world)


@servers
async def test_schedulers_that_work_at_the_same_time_make_each_task_once(world: World) -> None:
    """Five of them, with plans of the same moment: each fire is one of them's."""
    made = [await make(world, schedule(f"s{n}", misfire=Misfire.ALL), overdue=5) for n in range(12)]
    await asyncio.gather(*(fire_all(world) for _ in range(5)))
    for row in made:
        rows = await fired(world, row.id)
        assert len(rows) >= 5
        assert [f.nominal_at for f in rows] == [rows[0].nominal_at + n * MINUTE for n in range(len(rows))]
        assert rows[0].nominal_at == row.next_at
        assert set(outcomes(rows)) == {S}
    await one_task_per_fire(world)


async def test_a_plan_holds_once(world: World) -> None:
    """The second scheduler with the same plan finds the schedule moved."""
    row = await make(world, schedule(cron=YEARLY), overdue=1)
    [(due, active, now)] = await world.db.read(firing.due_schedules)
    plan = firing.plan(due, active, now, EASY)
    first = await world.db.write(lambda c: fire(c, [plan]))
    second = await world.db.write(lambda c: fire(c, [plan]))
    assert (len(first.rows), first.moved, second.rows, second.moved) == (1, 1, [], 0)
    assert len(await fired(world, row.id)) == 1


async def test_a_time_that_was_fired_is_not_fired_again_when_the_clock_steps_back(world: World) -> None:
    """The row of the fire stands in the way, and the schedule goes on behind it."""
    row = await make(world, overdue=2)
    other = await make(world, schedule("other"), overdue=1)
    await fire_all(world)
    before = await fired(world, row.id)
    await put(world, row.id, next_at=row.next_at)
    await put(world, other.id, next_at=(await look(world, row.id)).last_at)
    await fire_all(world)
    assert [f for f in await fired(world, row.id) if f.nominal_at <= before[-1].nominal_at] == before
    after = await look(world, row.id)
    assert after.next_at is not None
    assert after.next_at > before[-1].nominal_at
    await one_task_per_fire(world)


# ---- an edit at the time of a fire (row 63) ------------------------------------------------------------------------


async def planned(world: World) -> Plan:
    [(row, active, now)] = await world.db.read(firing.due_schedules)
    return firing.plan(row, active, now, EASY)


async def test_deleted_between_plan_and_fire_nothing_is_made(world: World) -> None:
    """Row 63: zero fires."""
    row = await make(world, overdue=1)
    plan = await planned(world)
    await schedules.delete(world.mill, row.id, ANN)
    assert (await world.db.write(lambda c: fire(c, [plan]))).rows == []
    assert await world.rows() == []


async def test_changed_between_plan_and_fire_it_is_planned_again(world: World) -> None:
    """Row 63: one fire, with what the change says; the old plan does nothing."""
    row = await make(world, schedule(cron=YEARLY), overdue=1)
    plan = await planned(world)
    await schedules.change(world.mill, row.id, ANN, ScheduleChanges(payload='{"n":2}'))
    assert (await world.db.write(lambda c: fire(c, [plan]))).moved == 0
    await fire_all(world)
    [task] = await world.rows()
    assert await world.payload(task.id) == '{"n":2}'


async def test_another_time_given_between_plan_and_fire_counts_from_now_on(world: World) -> None:
    """Row 63: zero fires of the old expression, and none of the new one in the past."""
    row = await make(world, overdue=3)
    plan = await planned(world)
    after = await schedules.change(world.mill, row.id, ANN, ScheduleChanges(cron="*/2 * * * *"))
    assert (await world.db.write(lambda c: fire(c, [plan]))).moved == 0
    assert after.next_at is not None
    assert after.next_at > await world.now() - MINUTE
    assert [f.nominal_at for f in await fired(world, row.id) if f.nominal_at < after.next_at] == []


async def test_paused_between_plan_and_fire_nothing_is_made(world: World) -> None:
    """Row 63: a pause that was answered is a pause."""
    row = await make(world, overdue=1)
    plan = await planned(world)
    await schedules.change(world.mill, row.id, ANN, ScheduleChanges(enabled=False))
    assert (await world.db.write(lambda c: fire(c, [plan]))).moved == 0
    await fire_all(world)
    assert await world.rows() == []


@pytest.mark.parametrize("what", ["change", "delete"])
async def test_an_edit_at_the_same_time_as_the_fire_comes_before_or_after(world: World, what: str) -> None:
    """Row 63, at once: zero or one fire for each time, never two."""
    made = [await make(world, schedule(f"s{n}"), overdue=1) for n in range(8)]

    async def edit(n: int) -> None:
        row = made[n]
        if what == "delete":
            await schedules.delete(world.mill, row.id, None)
        else:
            await schedules.change(world.mill, row.id, None, ScheduleChanges(cron=f"*/{n + 2} * * * *"))

    await asyncio.gather(fire_all(world), *(edit(n) for n in range(8)), fire_all(world))
    for n, row in enumerate(made):
        assert len([f for f in await fired(world, row.id) if f.nominal_at == row.next_at]) <= 1
        if what == "change":
            moved = (await look(world, row.id)).next_at
            assert moved is not None
            assert moved.minute % (n + 2) == 0, "a fire put back what the edit had set"
    await one_task_per_fire(world)


# ---- now -----------------------------------------------------------------------------------------------------------


async def test_run_now_makes_a_task_and_leaves_the_schedule(world: World) -> None:
    """Paused, overlapping, whatever: one task each time; its next fire stays."""
    row = await make(world, schedule(overlap=Overlap.SKIP))
    await schedules.change(world.mill, row.id, ANN, ScheduleChanges(enabled=False))
    tasks = [await run_now(world.mill, row.id, ANN) for _ in range(3)]
    rows = await fired(world, row.id)
    assert [f.task_id for f in rows] == [t.id for t in tasks]
    assert set(outcomes(rows)) == {Fired.RUN_NOW}
    assert all(f.nominal_at.microsecond for f in rows), "a whole minute belongs to the schedule"
    after = await look(world, row.id)
    assert (after.next_at, after.last_task_id) == (None, tasks[-1].id)
    await one_task_per_fire(world)


async def test_run_now_of_a_foreign_schedule_is_as_of_an_absent_one(world: World) -> None:
    """Nothing is made."""
    row = await make(world)
    for schedule_id, owner in ((row.id, BOB), (new_id(), ANN)):
        with pytest.raises(NotFound):
            await run_now(world.mill, schedule_id, owner)
    assert await world.rows() == []


# ---- what cannot be fired ------------------------------------------------------------------------------------------


async def test_a_schedule_that_is_not_understood_any_more_holds_up_no_other(world: World) -> None:
    """Its zone is gone: REFUSED, it fires no more; the others fire."""
    bad = await make(world, schedule("bad"), overdue=1)
    await put(world, bad.id, timezone="Mars/Phobos")
    good = await make(world, schedule("good"), overdue=1)
    await fire_all(world)
    assert outcomes(await fired(world, bad.id)) == [Fired.REFUSED]
    assert (await look(world, bad.id)).next_at is None
    assert outcomes(await fired(world, good.id))[0] is S
    await one_task_per_fire(world)


async def test_a_schedule_whose_task_the_record_refuses_holds_up_no_other(world: World) -> None:
    """Each alone then: REFUSED, and the others fire."""
    bad = await make(world, schedule("bad"), overdue=1)
    good = await make(world, schedule("good"), overdue=1)
    await put(world, bad.id, payload='"\\ud800"')

    def refuse(connection: Any, new: Any) -> Any:
        if any(task.payload == '"\\ud800"' for _, task in new):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return submit(connection, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firing, "submit", refuse)
        await fire_all(world)
    assert outcomes(await fired(world, bad.id)) == [Fired.REFUSED]
    assert outcomes(await fired(world, good.id))[0] is S


# ---- age, and newer zones ------------------------------------------------------------------------------------------


async def test_old_fires_go(world: World) -> None:
    """In batches, and no younger ones."""
    row = await make(world, schedule(misfire=Misfire.ALL), overdue=6)
    await fire_all(world, STRICT)
    f = schema.fires
    old = [r.nominal_at for r in await fired(world, row.id)][:4]
    long_ago = await world.now() - timedelta(days=31)
    await world.db.write(lambda c: c.execute(sa.update(f).where(f.c.nominal_at.in_(old)).values(at=long_ago)))
    gone = [await world.db.write(lambda c: retain_fires(c, 30.0, batch=3)) for _ in range(3)]
    assert gone == [3, 1, 0]
    assert not set(old) & {r.nominal_at for r in await fired(world, row.id)}


async def test_newer_rules_of_the_zones_move_the_next_fires_once(world: World) -> None:
    """Those in the future; what is due fires first. An older process changes nothing."""
    ahead = await make(world, schedule("ahead", cron="0 9 1 1 *", timezone="Europe/Berlin"))
    due = await make(world, schedule("due"), overdue=1)
    right = ahead.next_at
    assert right is not None
    await put(world, ahead.id, next_at=right + timedelta(hours=1))
    assert await retime(world.mill) == 1
    assert ((await look(world, ahead.id)).next_at, (await look(world, due.id)).next_at) == (
        right,
        due.next_at,
    )
    await put(world, ahead.id, next_at=right + timedelta(hours=1))
    assert await retime(world.mill) == 0
    zones = [m.value for m in await world.table(schema.meta) if m.name == "zones"]
    assert zones == [ZONES_VERSION]


async def test_bounds_are_inside(world: World) -> None:
    """startsAt and endsAt themselves count, when the expression has them."""
    now = await world.now()
    start = (now + timedelta(days=2)).replace(hour=0, minute=0, second=0, microsecond=0)
    row = await make(world, schedule(cron="0 * * * *", starts_at=start, ends_at=start + timedelta(hours=1)))
    assert row.next_at == start
    assert row.after(start) == start + timedelta(hours=1)
    assert row.after(start + timedelta(hours=1)) is None
    assert parse(row.cron).after(start + timedelta(hours=1)) is not None
