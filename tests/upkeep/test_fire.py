"""The scheduler fires by itself, forgets old fires, and reads what it needs and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.cron import Overlap
from taskmill.model.ids import new_id
from taskmill.sql import schema
from taskmill.sql.dialect import from_now
from taskmill.tasks import fire as firing
from taskmill.tasks import schedules
from taskmill.tasks.fire import Plan, next_due
from taskmill.tasks.schedules import Fired
from taskmill.upkeep import fire as turning
from taskmill.upkeep.fire import retain_fires
from taskmill.upkeep.retain import note_retained
from taskmill.upkeep.scheduler import Scheduler
from tests.sql.kit import counting_conflicts, listening, plan, rows_read
from tests.support import wait_until
from tests.tasks.kit import DONE, World
from tests.tasks.schedule_kit import (
    EASY,
    YEARLY,
    fire_at,
    fired,
    look,
    make,
    one_task_per_fire,
    outcomes,
    schedule,
)
from tests.upkeep.test_scheduler import QUICK, working

sqlite_only = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)


async def test_three_schedulers_fire_by_themselves_and_let_waiting_ones_go(world: World) -> None:
    """What is due makes its task; what waits for it gets its own when it has ended."""
    row = await make(world, schedule(overlap=Overlap.QUEUE), overdue=1)
    async with working(*(Scheduler(world.mill, QUICK) for _ in range(3))):
        await wait_until(lambda: fired(world, row.id))
        [first] = await world.rows()
        await put_waiting(world, row.id)
        await world.settle(((await world.take([first.id])).claimed[0], DONE))

        async def second() -> bool:
            return len(await world.rows()) == 2

        await wait_until(second)
    await one_task_per_fire(world)


async def put_waiting(world: World, schedule_id: bytes) -> None:
    at = (await fired(world, schedule_id))[0].nominal_at - timedelta(minutes=1)
    values = {"schedule_id": schedule_id, "nominal_at": at, "outcome": int(Fired.WAITING), "at": at}

    def work(c: Connection) -> None:
        c.execute(sa.insert(schema.fires).values(**values))
        s = schema.schedules
        c.execute(sa.update(s).where(s.c.id == schedule_id).values(waiting=1))

    await world.db.write(work)


@sqlite_only
async def test_the_daily_retention_takes_old_fires(world: World) -> None:
    """Batch after batch, after the tasks."""
    row = await make(world, overdue=1)
    await fire_at(world, row.id, 0)
    f = schema.fires
    await world.db.write(lambda c: c.execute(sa.update(f).values(at=from_now(-31 * 86400.0))))
    scheduler = Scheduler(world.mill, QUICK)
    await scheduler._retain()
    today = scheduler._retained
    assert today is not None
    await world.db.write(lambda c: note_retained(c, today - timedelta(days=1)))
    kept = Scheduler(world.mill, replace(QUICK, keep_fires_days=40))
    while await kept._retain() < 1:
        pass
    assert len(await fired(world, row.id)) == 1
    await world.db.write(lambda c: note_retained(c, today - timedelta(days=1)))
    missed = Scheduler(world.mill, QUICK)
    while await missed._retain() < 1:
        pass
    assert await fired(world, row.id) == []


@sqlite_only
async def test_the_history_of_what_waits_may_go_with_age(world: World) -> None:
    """A fire that waited longer than history is kept makes no task any more, and holds up nothing."""
    row = await make(world, schedule(overlap=Overlap.QUEUE))
    await fire_at(world, row.id, 0)
    await fire_at(world, row.id, 1)
    [task] = await world.rows()
    f = schema.fires
    await world.db.write(lambda c: c.execute(sa.delete(f).where(f.c.outcome == int(Fired.WAITING))))
    await world.settle(((await world.take([task.id])).claimed[0], DONE))
    await turning.release_waiting(world.mill, 1.0)
    assert (await look(world, row.id)).waiting == 0
    await fire_at(world, row.id, 2)
    assert outcomes(await fired(world, row.id)) == [Fired.SUBMITTED, Fired.SUBMITTED]


async def crowd(world: World, n: int = 400) -> bytes:
    """Many schedules of the future, each with a history; the id of one."""
    first = await make(world, schedule("first"))
    now = await world.now()

    def fill(c: Connection) -> None:
        s, f = schema.schedules, schema.fires
        row = dict(c.execute(sa.select(s)).mappings().one())
        rows = [
            {**row, "id": new_id(), "name": f"s{i}", "next_at": now + timedelta(days=1 + i)} for i in range(n)
        ]
        c.execute(sa.insert(s), rows)
        for k in range(5):
            at = now - timedelta(minutes=k + 1)
            old = {"nominal_at": at, "outcome": 1, "task_id": None, "at": at}
            c.execute(sa.insert(f), [{**old, "schedule_id": r["id"]} for r in rows])

    await world.db.write(fill, timeout=60)
    return first.id


@servers
async def test_a_turn_reads_what_is_due_and_not_the_rest(world: World) -> None:
    """Hundreds of schedules that are not due, thousands of fires that are not old: none of them is read."""
    chosen = await crowd(world)
    units: dict[str, tuple[Callable[[Connection], Any], int]] = {
        "due": (firing.due_schedules, 10),
        "next": (next_due, 5),
        "waiting": (lambda c: firing.idle_waiters(c, b"", 100), 5),
        "retain": (lambda c: retain_fires(c, 30.0), 5),
        "history": (lambda c: schedules.history(c, [chosen], limit=20), 25),
    }

    def read(c: Connection) -> dict[str, int]:
        found = {}
        for name, (unit, _) in units.items():
            before = rows_read(c)
            unit(c)
            found[name] = rows_read(c) - before - 1  # SHOW STATUS reads too, in part
        return found

    await world.db.read(read)
    read_rows = await world.db.read(read)
    idle = await world.db.read(lambda c: -rows_read(c) + rows_read(c))
    assert {n: r for n, r in read_rows.items() if r - idle > units[n][1]} == {}


@servers
async def test_the_fire_goes_by_the_primary_keys(world: World) -> None:
    """Each statement of the transaction, so that it locks the rows that it means and no others."""
    await crowd(world)
    row = await make(world, schedule("one", overlap=Overlap.CANCEL_RUNNING))
    await fire_at(world, row.id, 0)
    row = await look(world, row.id)
    assert row.next_at is not None
    plan_ = Plan(row.id, row.version, row.next_at, (row.next_at,), next=row.next_at + timedelta(minutes=1))

    def work(c: Connection) -> list[str]:
        with listening(c) as sent:
            firing.fire(c, [plan_], careful=True)
        scanned = []
        for one in list(sent):
            if one.text.lstrip().upper().startswith(("SELECT", "UPDATE")):
                scanned += [f"{a.table} {a.how} {a.key}: {a.text}" for a in plan(c, one) if bad(a)]
        return scanned

    def bad(access: Any) -> bool:
        ours = access.table in ("schedules", "fires", "tasks")
        return ours and (access.how == "ALL" or access.key != "PRIMARY")

    assert await world.db.write(work) == []


async def test_a_batch_takes_as_many_statements_as_one_schedule(world: World) -> None:
    """Thousands may be due in the same minute: a round trip for each would make the last of them late."""

    async def statements(names: range) -> int:
        for n in names:
            await make(world, schedule(f"s{n}", cron=YEARLY), overdue=1)
        plans = [firing.plan(*one, EASY) for one in await world.db.read(firing.due_schedules)]
        assert len(plans) == len(names)

        def work(c: Connection) -> int:
            with listening(c) as sent:
                assert firing.fire(c, plans).moved == len(names)
            return len(sent)

        return await world.db.write(work)

    assert await statements(range(1)) == await statements(range(1, 9))


@servers
async def test_fires_that_cancel_meet_settles_without_a_deadlock(world: World) -> None:
    """Many schedules that cancel what runs, while those runs are settled in batches."""
    made = [await make(world, schedule(f"s{n}", overlap=Overlap.CANCEL_RUNNING)) for n in range(12)]
    for row in made:
        await fire_at(world, row.id, 0)
    tasks = [t.id for t in await world.rows()]
    runs = (await world.take(tasks)).claimed
    with counting_conflicts(world.db) as seen:
        await asyncio.gather(
            world.settle(*((run, DONE) for run in runs)),
            *(fire_at(world, row.id, 1) for row in reversed(made)),
        )
    assert seen == []
    await one_task_per_fire(world)
