"""fire: one task for each time of a schedule, whatever its policies and whoever gets in between."""

from __future__ import annotations

from taskmill.model.state import Status
from taskmill.tasks.schedules import Fired
from tests.tasks.kit import World
from tests.tasks.schedule_kit import fire_all, fired, look, make, one_task_per_fire


async def test_a_fire_is_a_task_and_a_row_and_the_next_time(world: World) -> None:
    """The task has all that the schedule says, and the time that it is for."""
    row = await make(world, overdue=1)
    await fire_all(world)
    [fire] = await fired(world, row.id)
    assert (fire.nominal_at, fire.outcome) == (row.next_at, Fired.SUBMITTED)
    [task] = await world.rows()
    assert (task.id, task.status, task.title, task.type) == (fire.task_id, Status.QUEUED, "t", "T")
    assert task.scheduled_at == row.next_at
    assert await world.payload(task.id) == '{"n":1}'
    after = await look(world, row.id)
    assert after.next_at is not None and after.next_at > await world.now()
    assert (after.last_at, after.last_task_id, after.version) == (row.next_at, task.id, row.version)
    await one_task_per_fire(world)
