"""promote, rescue and retain: what time does to tasks, by anyone, at any time, twice without harm."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from taskmill.model.backoff import Backoff
from taskmill.model.decide import Policy
from taskmill.model.ids import new_id
from taskmill.model.state import Priority, Status, Verb
from taskmill.model.task import LogLine, Renewal
from taskmill.sql import schema
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.engine import Database
from taskmill.tasks.cancel import cancel
from taskmill.tasks.log import log
from taskmill.tasks.redrive import redrive
from taskmill.tasks.renew import renew_leases
from taskmill.tasks.scan import due_ids, next_due
from taskmill.tasks.update import TaskChanges, update
from taskmill.upkeep.options import UpkeepOptions
from taskmill.upkeep.promote import promote, promote_due
from taskmill.upkeep.rescue import expire_leases, rescue, rescue_lost
from taskmill.upkeep.retain import retain, retain_batch
from taskmill.upkeep.scheduler import retain_once
from tests.tasks.kit import ANN, DONE, FAILED, POLICY, World, new

NO_RETRY = replace(FAILED, retry=False)


async def scheduled(world: World, seconds: float, **changes: Any) -> bytes:
    """A task that is due in so many seconds."""
    at = await world.now() + timedelta(seconds=seconds)
    [row] = await world.submit(new(scheduled_at=at, **changes))
    return row.id


# ---- promote ------------------------------------------------------------------------------------------------------


async def test_what_is_due_is_queued_and_what_is_not_waits(world: World) -> None:
    """Due tasks become QUEUED and eligible now; none is early."""
    due, early = await scheduled(world, 3600), await scheduled(world, 3600)
    await world.age(due, 3601)
    assert await promote_due(world.mill, 10, 1.0) == 0.0
    rows = await world.rows(due, early)
    assert [r.status for r in rows] == [Status.QUEUED, Status.PENDING]
    assert await world.due_in(due) <= 0
    assert (await world.steps(due))[-1] == ("promote", Status.PENDING, Status.QUEUED, 0)
    await world.exact()


async def test_promote_tells_when_to_look_again(world: World) -> None:
    """Seconds until the next due task, at most the poll; the poll when nothing waits."""
    assert await promote_due(world.mill, 10, 1.0) == 1.0
    await scheduled(world, 3600)
    assert await promote_due(world.mill, 10, 1.0) == 1.0
    await scheduled(world, 30)
    assert 20 < await promote_due(world.mill, 10, 60.0) <= 30


async def test_promote_checks_again_under_the_lock(world: World) -> None:
    """Between the scan and the lock it was cancelled, or planned for later: it is not queued."""
    gone, later = await scheduled(world, 3600), await scheduled(world, 3600)
    for task in (gone, later):
        await world.age(task, 3601)
    ids = await world.db.read(lambda c: due_ids(c, Status.PENDING, 10))
    assert set(ids) == {gone, later}
    await cancel(world.mill, gone, ANN)
    plan = await world.now() + timedelta(hours=1)
    await update(world.mill, later, ANN, TaskChanges(scheduled_at=plan))
    assert await world.db.write(lambda c: promote(c, ids)) == []
    assert [r.status for r in await world.rows(gone, later)] == [Status.CANCELLED, Status.PENDING]


async def test_two_schedulers_promote_once(world: World) -> None:
    """Both found the same ids: each task is promoted, journalled and told to one of them."""
    tasks = [await scheduled(world, 3600) for _ in range(20)]
    for task in tasks:
        await world.age(task, 3601)
    answers = await asyncio.gather(*(world.db.write(lambda c: promote(c, tasks)) for _ in range(3)))
    assert sorted(r.id for rows in answers for r in rows) == sorted(tasks)
    assert sum(len(changes) for _, changes in await world.journal(Verb.PROMOTE)) == 20


async def test_a_foreign_transactions_plan_is_set_at_its_first_promotion(world: World) -> None:
    """Recorded PENDING with check_at now and a plan ahead: it gets its true time, and is journalled again."""
    task = await scheduled(world, 3600)
    await world.set(task, check_at=await world.now() - timedelta(seconds=1))
    assert await world.promote() == []
    row = await world.row(task)
    assert (row.status, row.check_at) == (Status.PENDING, row.scheduled_at)
    assert (await world.steps(task))[-1] == ("promote", Status.PENDING, Status.PENDING, 0)
    await world.exact()


async def test_the_urgent_are_promoted_first(world: World) -> None:
    """More is due than a batch takes: CRITICAL goes before LOW, whatever their age."""
    low = await scheduled(world, 3600, priority=Priority.LOW)
    urgent = await scheduled(world, 3600, priority=Priority.CRITICAL)
    await world.age(low, 8000)
    await world.age(urgent, 3601)
    assert await world.db.read(lambda c: due_ids(c, Status.PENDING, 1)) == [urgent]


async def test_next_due_of_nothing_is_none(world: World) -> None:
    """No row in the state: None; else seconds, also when it is over."""
    assert await world.db.read(lambda c: next_due(c, Status.PENDING)) is None
    task = await scheduled(world, 3600)
    await world.age(task, 3700)
    wait = await world.db.read(lambda c: next_due(c, Status.PENDING))
    assert wait is not None
    assert -110 < wait <= -100


# ---- rescue -------------------------------------------------------------------------------------------------------


async def test_a_lease_that_ran_out_is_rescued(world: World) -> None:
    """The attempt is spent, the task is a suspect and goes on at once; its run is kept as LEASE_LOST."""
    worker = new_id()
    lost, alive = await world.running(n=2, worker=worker)
    await world.age(lost.id, 31)
    assert await rescue_lost(world.mill, 10) == 1
    row = await world.row(lost.id)
    assert (row.status, row.attempts, row.suspect, row.crashes) == (Status.PENDING, 1, True, 0)
    assert await world.due_in(lost.id) <= 0
    [run] = await world.runs(lost.id)
    assert (run.outcome, run.worker) == ("LEASE_LOST", worker.hex())
    assert (await world.row(alive.id)).status is Status.PROCESSING
    assert (await world.steps(lost.id))[-1] == ("rescue", Status.PROCESSING, Status.PENDING, 1)
    await world.exact()


async def test_leases_of_the_dead_end_at_once_where_they_are_known_to_be_dead(world: World) -> None:
    """The owner of a SQLite file's lock need not wait for the leases of the process before it."""
    [run] = await world.running()
    assert await rescue_lost(world.mill, 10) == 0
    await expire_leases(world.mill)
    assert await rescue_lost(world.mill, 10) == 1
    assert (await world.row(run.id)).status is Status.PENDING


async def test_a_rescued_run_is_stale(world: World) -> None:
    """The fence has not grown, but the state has moved: the late worker's settle and renew are refused."""
    [run] = await world.running()
    await world.age(run.id, 31)
    await rescue_lost(world.mill, 10)
    assert await world.settle((run, DONE)) == [False]
    assert (await renew_leases(world.mill, [Renewal(run.id, 1)])).lost == {(run.id, 1)}
    assert (await world.row(run.id)).status is Status.PENDING


async def test_rescue_looks_again_under_the_lock(world: World) -> None:
    """Renewed or settled between scan and lock: it is left alone."""
    renewed, settled = await world.running(n=2)
    for run in (renewed, settled):
        await world.age(run.id, 31)
    ids = await world.db.read(lambda c: due_ids(c, Status.PROCESSING, 10))
    assert len(ids) == 2
    await renew_leases(world.mill, [Renewal(renewed.id, 1)])
    await world.settle((settled, DONE))
    rescued = await world.db.write(lambda c: rescue(c, ids, POLICY, world.mill.rng))
    assert rescued == []
    assert [r.status for r in await world.rows(renewed.id, settled.id)] == [
        Status.PROCESSING,
        Status.COMPLETED,
    ]


async def test_a_lost_suspect_counts_a_crash_and_waits(database: Database) -> None:
    """It ran alone: crashes + 1 and a backoff; the third one is POISON."""
    world = World(database, Policy(max_retries=10, backoff=Backoff(100.0, 100.0)))
    [run] = await world.running()
    crashes = []
    for _ in range(4):
        await world.age(run.id, 31)
        await rescue_lost(world.mill, 10)
        row = await world.row(run.id)
        crashes.append(row.crashes)
        if row.status is Status.FAILED:
            break
        await world.age(run.id, 101)
        run = await world.again(run.id)
    assert crashes == [0, 1, 2, 3]
    assert (await world.runs(run.id))[-1].error_type == "POISON"


async def test_the_last_attempt_lost_is_failed(world: World) -> None:
    """max_retries 0: a lost lease ends the task FAILED."""
    [run] = await world.running(new(max_retries=0))
    await world.age(run.id, 31)
    await rescue_lost(world.mill, 10)
    assert (await world.row(run.id)).status is Status.FAILED


async def test_a_lost_run_that_was_to_be_cancelled_is_cancelled(world: World) -> None:
    """Cancel was requested and the worker died: CANCELLED, not another run."""
    [run] = await world.running()
    await cancel(world.mill, run.id, ANN)
    await world.age(run.id, 31)
    assert await rescue_lost(world.mill, 10) == 1
    assert (await world.row(run.id)).status is Status.CANCELLED
    await world.exact()


async def test_two_schedulers_rescue_once(world: World) -> None:
    """One attempt is spent, one run kept, one journal step written for each task."""
    runs = await world.running(n=15)
    for run in runs:
        await world.age(run.id, 31)
    done = await asyncio.gather(*(rescue_lost(world.mill, 50) for _ in range(3)))
    assert sum(done) == 15
    assert len(await world.table(schema.runs)) == 15
    assert sum(len(changes) for _, changes in await world.journal(Verb.RESCUE)) == 15


# ---- retain -------------------------------------------------------------------------------------------------------


async def finished(world: World) -> dict[str, bytes]:
    """One task in each state, all of them 40 days old."""
    queued, waiting, running, done, failed, cancelled = await world.submit(n=6)
    runs = (await world.take([waiting.id, running.id, done.id, failed.id])).claimed
    by_id = {r.id: r for r in runs}
    await world.db.write(
        lambda c: log(c, [(new_id(), LogLine(done.id, 1, "info", "m", None, done.created_at))])
    )
    await world.settle((by_id[waiting.id], FAILED), (by_id[done.id], DONE), (by_id[failed.id], NO_RETRY))
    await cancel(world.mill, cancelled.id, ANN)
    names = ("queued", "waiting", "running", "done", "failed", "cancelled")
    tasks = dict(zip(names, (r.id for r in (queued, waiting, running, done, failed, cancelled)), strict=True))
    for task in tasks.values():
        await world.age(task, 40 * 86400)
    return tasks


async def test_old_finished_tasks_go_with_all_they_have(world: World) -> None:
    """COMPLETED and CANCELLED of 40 days go, with payload, runs and logs; live and FAILED ones stay."""
    tasks = await finished(world)
    assert await retain_once(world.mill, UpkeepOptions()) == 2
    left = {r.id for r in await world.rows()}
    assert left == {tasks[n] for n in ("queued", "waiting", "running", "failed")}
    assert {r.id for r in await world.table(schema.task_payloads)} == left
    assert {r.task_id for r in await world.table(schema.runs)} <= left
    assert await world.table(schema.logs) == []
    assert (await world.steps(tasks["done"]))[-1] == ("retain", Status.COMPLETED, None, 1)
    await world.exact()


async def test_failed_tasks_go_only_by_their_own_setting(world: World) -> None:
    """retain_failed_days set: they go after so many days."""
    tasks = await finished(world)
    assert await retain_once(world.mill, UpkeepOptions(retain_failed_days=50)) == 2
    assert await retain_once(world.mill, UpkeepOptions(retain_failed_days=39)) == 1
    assert tasks["failed"] not in {r.id for r in await world.rows()}
    await world.exact()


async def test_young_tasks_are_kept_and_batches_are_bounded(world: World) -> None:
    """29 days are not 30; what is old goes a batch at a time."""
    runs = await world.running(n=6)
    await world.settle(*((r, DONE) for r in runs))
    for run in runs:
        await world.age(run.id, 86400 * (29 if run is runs[0] else 31))
    gone = [await retain_batch(world.mill, Status.COMPLETED, 30, batch=2) for _ in range(4)]
    assert gone == [2, 2, 1, 0]
    assert [r.id for r in await world.rows()] == [runs[0].id]


async def test_retain_looks_again_under_the_lock(world: World) -> None:
    """A task redriven after the scan lives on."""
    [run] = await world.running()
    await world.settle((run, NO_RETRY))
    await world.age(run.id, 86400 * 40)
    ids = await world.db.read(lambda c: due_ids(c, Status.FAILED, 10, 86400.0))
    assert ids == [run.id]
    await redrive(world.mill, run.id, ANN)
    assert await world.db.write(lambda c: retain(c, ids, Status.FAILED, 86400.0)) == 0
    assert (await world.row(run.id)).status is Status.QUEUED


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_time_is_the_databases_to_the_microsecond(world: World) -> None:
    """`later` moves a time by fractions and into the past, on the engine that has no such function of its own."""
    query = sa.select(db_now(), from_now(1.5), from_now(-0.000001))
    now, ahead, back = await world.db.read(lambda c: c.execute(query).one())
    assert (ahead - now, now - back) == (timedelta(seconds=1.5), timedelta(microseconds=1))
