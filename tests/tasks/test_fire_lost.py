"""The reply to a COMMIT of a fire, or of a change to a schedule, is lost: it is applied once, and answered rightly."""

from __future__ import annotations

import pytest

from taskmill.model.cron import Misfire
from taskmill.tasks import schedules
from taskmill.tasks.run_now import run_now
from taskmill.tasks.schedules import Fired, ScheduleChanges
from tests.proxy import When
from tests.tasks.kit import ANN
from tests.tasks.schedule_kit import fire_all, fired, look, make, one_task_per_fire, outcomes, schedule
from tests.tasks.test_lost import Lossy, each_cut
from tests.tasks.test_lost import lossy as lossy  # noqa: PLC0414

pytestmark = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)


@each_cut
async def test_fire(lossy: Lossy, when: When) -> None:
    """One task for each time, whether the first try stood or not."""
    row = await make(lossy.direct, schedule(misfire=Misfire.ALL), overdue=3)
    lossy.proxy.cut(when)
    await fire_all(lossy.far)
    assert lossy.proxy.happened == 1
    rows = await fired(lossy.direct, row.id)
    assert outcomes(rows)[:3] == [Fired.SUBMITTED] * 3
    assert rows[0].nominal_at == row.next_at
    await one_task_per_fire(lossy.direct)


@each_cut
async def test_run_now(lossy: Lossy, when: When) -> None:
    """One task, the one that was answered."""
    row = await make(lossy.direct)
    lossy.proxy.cut(when)
    task = await run_now(lossy.far.mill, row.id, ANN)
    assert lossy.proxy.happened == 1
    assert [f.task_id for f in await fired(lossy.direct, row.id)] == [task.id]
    await one_task_per_fire(lossy.direct)


@each_cut
async def test_create(lossy: Lossy, when: When) -> None:
    """One schedule, and no CONFLICT with itself."""
    lossy.proxy.cut(when)
    row = await schedules.create(lossy.far.mill, schedule())
    assert lossy.proxy.happened == 1
    assert (await look(lossy.direct, row.id)).name == "s"


@each_cut
async def test_change(lossy: Lossy, when: When) -> None:
    """The same again: one version more, not two."""
    row = await make(lossy.direct)
    lossy.proxy.cut(when)
    after = await schedules.change(lossy.far.mill, row.id, ANN, ScheduleChanges(title="x"))
    assert lossy.proxy.happened == 1
    assert (after.title, after.version) == ("x", row.version + 1)


@each_cut
async def test_delete(lossy: Lossy, when: When) -> None:
    """Gone, and the answer is not NOT_FOUND."""
    row = await make(lossy.direct)
    lossy.proxy.cut(when)
    gone = await schedules.delete(lossy.far.mill, row.id, ANN)
    assert (lossy.proxy.happened, gone.id) == (1, row.id)
    assert await lossy.direct.db.read(lambda c: schedules.one_schedule(c, row.id, None)) is None
