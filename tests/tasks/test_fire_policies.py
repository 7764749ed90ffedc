"""What fires that come late, or while an earlier one still runs, make of it: the policies."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskmill.model.cron import Misfire, Overlap
from taskmill.model.ids import new_id
from taskmill.model.state import Status
from taskmill.sql import schema
from taskmill.tasks import fire as firing
from taskmill.tasks import schedules
from taskmill.tasks.cancel import signal
from taskmill.tasks.fire import BATCH, NEWEST, WAITING
from taskmill.tasks.schedules import Fired, ScheduleChanges, ScheduleRow
from taskmill.tasks.submit import submit
from taskmill.upkeep.fire import fire_due, release_waiting
from tests.tasks.kit import ANN, DONE, World
from tests.tasks.schedule_kit import (
    MINUTE,
    STRICT,
    Killed,
    fire_all,
    fire_at,
    fired,
    kill_at,
    look,
    make,
    one_task_per_fire,
    outcomes,
    put,
    schedule,
)

S, M, PASSED, W = Fired.SUBMITTED, Fired.MISSED, Fired.OVERLAPPED, Fired.WAITING
sqlite_only = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)


# ---- misfire -------------------------------------------------------------------------------------------------------


async def test_skip_makes_nothing_of_what_was_missed(world: World) -> None:
    """And goes on with the next."""
    row = await make(world, schedule(misfire=Misfire.SKIP), overdue=3)
    await fire_all(world, STRICT)
    rows = await fired(world, row.id)
    assert set(outcomes(rows)) == {M}
    assert len(rows) >= 3
    assert await world.rows() == []


async def test_once_makes_one_task_for_the_latest_that_was_missed(world: World) -> None:
    """Within the grace; and none when that is over."""
    row = await make(world, overdue=4)
    await fire_due(world.mill, STRICT, 1.0)
    assert outcomes(await fired(world, row.id))[-2:] == [M, S]
    old = await make(world, schedule("old", cron="0 0 1 1 *"), overdue=1)
    await fire_due(world.mill, replace(STRICT, grace=60.0), 1.0)
    assert outcomes(await fired(world, old.id)) == [M]
    await one_task_per_fire(world)


async def test_all_makes_a_task_for_each_and_a_bounded_number_at_a_time(world: World) -> None:
    """Oldest first; what does not go into one transaction stays due."""
    row = await make(world, schedule(misfire=Misfire.ALL), overdue=BATCH + 5)
    await fire_due(world.mill, STRICT, 1.0)
    assert len(await fired(world, row.id)) == BATCH
    await fire_all(world, STRICT)
    rows = await fired(world, row.id)
    assert [f.nominal_at for f in rows][: BATCH + 5] == [row.next_at + n * MINUTE for n in range(BATCH + 5)]  # type: ignore[operator]
    assert set(outcomes(rows)) == {S}
    await one_task_per_fire(world)


@pytest.mark.parametrize("misfire", list(Misfire))
async def test_more_than_a_hundred_missed_fires_never_wedge_a_schedule(
    world: World, misfire: Misfire
) -> None:
    """The newest hundred count, and the next fire lies ahead."""
    row = await make(world, schedule(misfire=misfire), overdue=350)
    await fire_all(world, STRICT)
    rows = await fired(world, row.id)
    ran = outcomes(rows).count(S)
    assert ran == {Misfire.SKIP: 0, Misfire.ONCE: 1, Misfire.ALL: len(rows)}[misfire]
    assert NEWEST <= len(rows) <= NEWEST + 2  # a minute may pass meanwhile
    after = await look(world, row.id)
    assert after.next_at is not None
    assert after.next_at > rows[-1].nominal_at
    await one_task_per_fire(world)


@sqlite_only
async def test_a_schedule_that_slept_for_ten_years_goes_on(world: World) -> None:
    """It is not walked through minute by minute."""
    row = await make(world)
    await put(
        world, row.id, next_at=(await world.now()).replace(second=0, microsecond=0) - timedelta(days=3650)
    )
    await fire_all(world, STRICT)
    rows = await fired(world, row.id)
    assert outcomes(rows[:NEWEST]) == [M] * (NEWEST - 1) + [S]
    assert len(rows) <= NEWEST + 2, "a minute may pass meanwhile"


async def test_a_user_who_was_disabled_fires_nothing(world: World) -> None:
    """The times pass as missed, whatever the policy."""
    now = await world.now()
    values = {"id": ANN, "email": "a@b.c", "name": "a", "password_hash": "x", "role": 1, "created_at": now}
    await world.db.write(lambda c: c.execute(sa.insert(schema.users).values(disabled_at=now, **values)))
    row = await make(world, schedule(misfire=Misfire.ALL), overdue=2)
    await fire_all(world)
    assert set(outcomes(await fired(world, row.id))) == {M}
    assert await world.rows() == []


# ---- overlap -------------------------------------------------------------------------------------------------------


async def test_skip_makes_no_task_while_one_has_not_ended(world: World) -> None:
    """And makes one again when it has."""
    row = await make(world, schedule(overlap=Overlap.SKIP))
    await fire_at(world, row.id, 0)
    [task] = await world.rows()
    taken = await world.take([task.id])
    await fire_at(world, row.id, 1)
    await world.settle((taken.claimed[0], DONE))
    await fire_at(world, row.id, 2)
    assert outcomes(await fired(world, row.id)) == [S, PASSED, S]
    await one_task_per_fire(world)


async def test_queue_waits_for_its_turn(world: World) -> None:
    """One after the other, oldest first; the rows of the fires say which task each got."""
    row = await make(world, schedule(overlap=Overlap.QUEUE))
    await fire_at(world, row.id, 0)
    for n in (1, 2):
        await fire_at(world, row.id, n)
    assert outcomes(await fired(world, row.id)) == [S, W, W]
    assert (await look(world, row.id)).waiting == 2
    for turn in (1, 2, 3):
        live = [t for t in await world.rows() if t.status is Status.QUEUED]
        assert len(live) == 1
        assert live[0].scheduled_at == (await fired(world, row.id))[turn - 1].nominal_at
        await release_waiting(world.mill, 1.0)
        assert len(await world.rows()) == turn
        await world.settle(((await world.take([live[0].id])).claimed[0], DONE))
        await asyncio.gather(*(release_waiting(world.mill, 1.0) for _ in range(3)))
    assert outcomes(await fired(world, row.id)) == [S, S, S]
    after = await look(world, row.id)
    assert (after.waiting, len(await world.rows())) == (0, 3)
    await one_task_per_fire(world)


async def test_no_more_than_a_hundred_wait(world: World) -> None:
    """The rest is passed over, as with SKIP."""
    row = await make(world, schedule(overlap=Overlap.QUEUE, misfire=Misfire.ALL))
    await fire_at(world, row.id, 0)
    await put(world, row.id, waiting=WAITING - 1)
    for n in (1, 2):
        await fire_at(world, row.id, n)
    assert outcomes(await fired(world, row.id)) == [S, W, PASSED]


@pytest.mark.parametrize("point", ["_record", "submit"])
async def test_killed_while_a_waiting_fire_gets_its_task(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """It waits on, and gets exactly one."""
    row = await make(world, schedule(overlap=Overlap.QUEUE))
    await fire_at(world, row.id, 0)
    await fire_at(world, row.id, 1)
    [task] = await world.rows()
    await world.settle(((await world.take([task.id])).claimed[0], DONE))
    with monkeypatch.context() as patch:
        kill_at(patch, firing, "submit", "before" if point == "_record" else "after")
        with pytest.raises(Killed):
            await release_waiting(world.mill, 1.0)
    await asyncio.gather(*(release_waiting(world.mill, 1.0) for _ in range(3)))
    assert outcomes(await fired(world, row.id)) == [S, S]
    await one_task_per_fire(world)


async def test_a_paused_schedule_keeps_what_waits(world: World) -> None:
    """Until it is resumed."""
    row = await make(world, schedule(overlap=Overlap.QUEUE))
    await fire_at(world, row.id, 0)
    await fire_at(world, row.id, 1)
    [task] = await world.rows()
    await world.settle(((await world.take([task.id])).claimed[0], DONE))
    await schedules.change(world.mill, row.id, None, ScheduleChanges(enabled=False))
    await release_waiting(world.mill, 1.0)
    assert len(await world.rows()) == 1
    await schedules.change(world.mill, row.id, None, ScheduleChanges(enabled=True))
    await release_waiting(world.mill, 1.0)
    assert len(await world.rows()) == 2


async def one_waits(world: World, name: str = "s", **changes: Any) -> ScheduleRow:
    """A schedule with a fire that waits and no task that it waits for."""
    row = await make(world, schedule(name, overlap=Overlap.QUEUE, **changes))
    for n in (0, 1):
        await fire_at(world, row.id, n)
    [first, _] = await fired(world, row.id)
    assert first.task_id is not None
    await world.settle(((await world.take([first.task_id])).claimed[0], DONE))
    return row


async def test_what_waits_of_a_disabled_user_waits_on(world: World) -> None:
    """Until the user is enabled."""
    now = await world.now()
    values = {"id": ANN, "email": "a@b.c", "name": "a", "password_hash": "x", "role": 1, "created_at": now}
    await world.db.write(lambda c: c.execute(sa.insert(schema.users).values(disabled_at=now, **values)))
    row = await one_waits(world)
    await release_waiting(world.mill, 1.0)
    assert outcomes(await fired(world, row.id)) == [S, W]
    await world.db.write(lambda c: c.execute(sa.update(schema.users).values(disabled_at=None)))
    await release_waiting(world.mill, 1.0)
    assert outcomes(await fired(world, row.id)) == [S, S]


async def test_what_waits_and_is_refused_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record does not take its task: REFUSED, nothing of it waits any more; the others get theirs."""
    bad, good = await one_waits(world, "bad", title="refused"), await one_waits(world, "good")

    def refuse(connection: Any, new: Any) -> Any:
        if any(task.title == "refused" for _, task in new):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return submit(connection, new)

    monkeypatch.setattr(firing, "submit", refuse)
    await release_waiting(world.mill, 1.0)
    assert outcomes(await fired(world, bad.id)) == [S, Fired.REFUSED]
    assert (await look(world, bad.id)).waiting == 0
    assert outcomes(await fired(world, good.id)) == [S, S]
    await one_task_per_fire(world)


async def test_cancel_running_ends_the_one_before(world: World) -> None:
    """A run is asked to stop, and its worker hears of it; a task that waits is CANCELLED; the new one does not wait."""
    row = await make(world, schedule(overlap=Overlap.CANCEL_RUNNING))
    await fire_at(world, row.id, 0)
    [first] = await world.rows()
    worker = new_id()
    [run] = (await world.take([first.id], worker=worker)).claimed
    async with world.mill.bell.listen(f"worker:{worker.hex()}") as bell:
        await fire_at(world, row.id, 1)
        assert await bell.wait(5.0) == signal(run.id, run.fence)
    assert (await world.row(first.id)).cancel_requested_at is not None
    await fire_at(world, row.id, 2)
    await world.settle((run, DONE))
    statuses = [t.status for t in await world.rows()]
    assert sorted(statuses) == [Status.QUEUED, Status.CANCELLED, Status.CANCELLED]
    assert outcomes(await fired(world, row.id)) == [S, S, S]
    await one_task_per_fire(world)
