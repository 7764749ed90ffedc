"""What the tests of schedules share: short ways to make one, to let its time come, and to see what it fired."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskmill.model.cron import parse
from taskmill.sql import schema
from taskmill.tasks import schedules
from taskmill.tasks.fire import Late, Plan
from taskmill.tasks.schedules import Fired, FireRow, NewSchedule, ScheduleRow
from taskmill.upkeep import fire as turning
from taskmill.upkeep.fire import fire_due
from tests.tasks.kit import ANN, World

MINUTE = timedelta(minutes=1)
YEARLY = "0 0 1 1 *"
"""For a test that counts fires: no other one comes meanwhile."""
EASY = Late(after=1e9, grace=1e9)
"""Nothing that these tests do makes a fire late."""
STRICT = Late(after=0.0, grace=86400.0)
"""Every fire in the past was missed."""


def schedule(name: str = "s", **changes: Any) -> NewSchedule:
    new = NewSchedule(ANN, name, "* * * * *", "UTC", title="t", payload='{"n":1}', type="T")
    return replace(new, **changes)


async def make(world: World, new: NewSchedule | None = None, *, overdue: int = 0) -> ScheduleRow:
    """A schedule; `overdue` n: its last n times have passed (the newest of them at most a minute ago)."""
    row = await schedules.create(world.mill, new or schedule())
    return await lapse(world, row.id, overdue) if overdue else row


async def lapse(world: World, schedule_id: bytes, times: int) -> ScheduleRow:
    """Let its last `times` times pass: `next_at` becomes the oldest of them."""
    row = await look(world, schedule_id)
    now: datetime = await world.now()
    first = parse(row.cron, row.timezone).newest(now - timedelta(days=400), now, times)[0]
    await put(world, schedule_id, next_at=first)
    return await look(world, schedule_id)


async def put(world: World, schedule_id: bytes, **values: Any) -> None:
    """Write columns past the verbs."""
    s = schema.schedules
    await world.db.write(lambda c: c.execute(sa.update(s).where(s.c.id == schedule_id).values(**values)))


async def look(world: World, schedule_id: bytes) -> ScheduleRow:
    found = await world.db.read(lambda c: schedules.one_schedule(c, schedule_id, None))
    assert found is not None
    return found


async def fire_all(world: World, late: Late = EASY) -> None:
    """Turns of the loop until nothing is due."""
    while await fire_due(world.mill, late, 60.0) == 0:
        pass


async def fired(world: World, schedule_id: bytes) -> list[FireRow]:
    """Its fires, oldest first."""
    found = await world.db.read(lambda c: schedules.history(c, [schedule_id], limit=10_000))
    return found[schedule_id][::-1]


def outcomes(rows: Sequence[FireRow]) -> list[Fired]:
    return [row.outcome for row in rows]


async def one_task_per_fire(world: World) -> None:
    """Each fire that made a task has one of its own, and there is no other task."""
    made = [f.task_id for f in await world.table(schema.fires) if f.task_id is not None]
    assert len(made) == len(set(made))
    assert set(made) == {row.id for row in await world.rows()}
    await world.exact()


async def fire_at(world: World, schedule_id: bytes, n: int) -> None:
    """Carry out a fire of the `n`th minute of the last half hour."""
    row = await look(world, schedule_id)
    at = (await world.now()).replace(second=0, microsecond=0) + (n - 30) * MINUTE
    await put(world, schedule_id, next_at=at)
    await turning._carry_out(world.mill, [Plan(row.id, row.version, at, (at,), next=at + MINUTE)])


# ---- kills --------------------------------------------------------------------------------


class Killed(Exception):
    """What the record sees of a kill: the connection goes, and with it what was not committed."""


def kill_at(patch: pytest.MonkeyPatch, module: Any, name: str, when: str, *, calls: int = 1) -> list[str]:
    """Let the process die in the `calls`th call of this function; a list that says so."""
    real, seen, died = getattr(module, name), [0], []

    def dying(*args: Any, **kw: Any) -> Any:
        seen[0] += 1
        if seen[0] != calls:
            return real(*args, **kw)
        died.append(name)
        if when == "after":
            real(*args, **kw)
        raise Killed

    async def dying_async(*args: Any, **kw: Any) -> Any:
        seen[0] += 1
        if seen[0] == calls:
            died.append(name)
            if when == "after":
                await real(*args, **kw)
            raise Killed
        return await real(*args, **kw)

    patch.setattr(module, name, dying_async if asyncio.iscoroutinefunction(real) else dying)
    return died
