"""cancel, redrive and update: one task, under its row's lock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from taskmill.errors import Conflict, NotFound
from taskmill.model.backoff import Backoff
from taskmill.model.decide import Policy
from taskmill.model.ids import new_id, new_op
from taskmill.model.state import Priority, Status, Verb
from taskmill.sql.engine import Database
from taskmill.tasks.cancel import cancel, read_signal, signal
from taskmill.tasks.redrive import redrive, redrive_task
from taskmill.tasks.update import TaskChanges, update
from tests.tasks.kit import ANN, BOB, CRASHED, DONE, FAILED, World, new

NO_RETRY = replace(FAILED, retry=False)


# ---- cancel -------------------------------------------------------------------------------------------------------


async def test_what_has_not_started_is_cancelled_at_once(world: World) -> None:
    """PENDING and QUEUED become CANCELLED, finished now; no run comes any more."""
    later = await world.now() + timedelta(hours=1)
    for task in (new(), new(scheduled_at=later)):
        [row] = await world.submit(task)
        answer = await cancel(world.mill, row.id, ANN)
        assert answer == await world.row(row.id)
        assert answer.status is Status.CANCELLED
        assert answer.completed_at is not None
        assert (await world.take([row.id])).dead == {row.id}
    await world.exact()


async def test_a_run_is_asked_to_stop(world: World) -> None:
    """PROCESSING stays PROCESSING with cancel_requested_at; the worker's bell gets the (id, fence)."""
    worker = new_id()
    [run] = await world.running(worker=worker)
    async with world.mill.bell.listen(f"worker:{worker.hex()}") as bell:
        answer = await cancel(world.mill, run.id, ANN)
        assert read_signal(await bell.wait(5) or b"") == (run.id, 1)
    assert answer.status is Status.PROCESSING
    assert answer.cancel_requested_at is not None
    assert (await world.steps(run.id))[-1] == ("cancel", Status.PROCESSING, Status.PROCESSING, 1)


@pytest.mark.parametrize("state", ["queued", "running", "failed"])
async def test_cancelling_twice_is_cancelling_once(world: World, state: str) -> None:
    """The second answer is the first; nothing is written, nothing journalled again."""
    [row] = await world.submit()
    if state != "queued":
        run = (await world.take([row.id])).claimed[0]
        if state == "failed":
            await world.settle((run, NO_RETRY))
    first = await cancel(world.mill, row.id, ANN)
    assert await cancel(world.mill, row.id, ANN) == first
    assert len(await world.journal(Verb.CANCEL)) == 1


async def test_a_completed_task_can_not_be_cancelled(world: World) -> None:
    """COMPLETED is CONFLICT and stays; a FAILED task becomes CANCELLED."""
    done, failed = await world.running(n=2)
    await world.settle((done, DONE), (failed, NO_RETRY))
    with pytest.raises(Conflict, match="COMPLETED"):
        await cancel(world.mill, done.id, ANN)
    assert (await cancel(world.mill, failed.id, ANN)).status is Status.CANCELLED
    assert (await world.row(done.id)).status is Status.COMPLETED


@pytest.mark.parametrize("verb", ["cancel", "redrive", "update"])
async def test_a_foreign_task_is_an_absent_one(world: World, verb: str) -> None:
    """Another user's task and one that does not exist: the same error, the same words, nothing written."""
    [row] = await world.submit()
    calls = {
        "cancel": lambda t, o: cancel(world.mill, t, o),
        "redrive": lambda t, o: redrive(world.mill, t, o),
        "update": lambda t, o: update(world.mill, t, o, TaskChanges(title="mine")),
    }
    said = set()
    for task, owner in ((row.id, BOB), (new_id(), BOB), (new_id(), None)):
        with pytest.raises(NotFound) as caught:
            await calls[verb](task, owner)
        said.add(str(caught.value))
    assert len(said) == 1
    assert await world.row(row.id) == row


async def test_an_admin_cancels_anyones_task(world: World) -> None:
    """owner None: any user's task."""
    [row] = await world.submit(new(user_id=BOB))
    assert (await cancel(world.mill, row.id, None)).status is Status.CANCELLED


def test_a_signal_is_told_apart_from_a_queue() -> None:
    """(id, fence) survives the bell; any other ring is no signal."""
    task = new_id()
    assert read_signal(signal(task, 2**40)) == (task, 2**40)
    assert read_signal(b"default") is None
    assert read_signal(b"x" * 25) is None


# ---- redrive ------------------------------------------------------------------------------------------------------


async def test_a_failed_task_starts_over(world: World) -> None:
    """QUEUED with every counter, error, result and cancel request cleared; the fence keeps growing."""
    [run] = await world.running(new(max_retries=0))
    await world.settle((run, CRASHED))
    await world.set(run.id, crashes=2, releases=4, progress=0.5, result="1")
    before = await world.row(run.id)
    assert (before.status, before.suspect) == (Status.FAILED, True)
    answer = await redrive(world.mill, run.id, ANN)
    assert answer == await world.row(run.id)
    assert (answer.status, answer.fence) == (Status.QUEUED, 1)
    assert (answer.attempts, answer.crashes, answer.suspect, answer.releases) == (0, 0, False, 0)
    assert (answer.error, answer.result, answer.progress, answer.completed_at) == (None, None, None, None)
    assert answer.max_retries == 0
    assert (await world.again(run.id)).fence == 2
    await world.exact()


async def test_a_cancelled_run_can_be_redriven_and_completes(world: World) -> None:
    """The cancel request is gone with the redrive: the next run's result counts."""
    [run] = await world.running()
    await cancel(world.mill, run.id, ANN)
    await world.settle((run, DONE))
    assert (await redrive(world.mill, run.id, ANN)).cancel_requested_at is None
    await world.settle((await world.again(run.id), DONE))
    assert (await world.row(run.id)).status is Status.COMPLETED


async def test_a_redrive_waits_for_its_plan(world: World) -> None:
    """scheduledAt still ahead: PENDING until then."""
    at = await world.now() + timedelta(hours=1)
    [row] = await world.submit(new(scheduled_at=at))
    await cancel(world.mill, row.id, ANN)
    answer = await redrive(world.mill, row.id, ANN)
    assert (answer.status, answer.check_at) == (Status.PENDING, at)


async def test_only_failed_and_cancelled_are_redriven(world: World) -> None:
    """QUEUED, PENDING, PROCESSING, COMPLETED: CONFLICT that names the state, and nothing changes."""
    queued, waiting, done, running = await world.submit(n=4)
    runs = (await world.take([waiting.id, done.id, running.id])).claimed
    by_id = {r.id: r for r in runs}
    await world.settle((by_id[waiting.id], FAILED), (by_id[done.id], DONE))
    before = await world.rows()
    for row, state in (
        (queued, "QUEUED"),
        (waiting, "PENDING"),
        (done, "COMPLETED"),
        (running, "PROCESSING"),
    ):
        with pytest.raises(Conflict, match=state):
            await redrive(world.mill, row.id, ANN)
    assert await world.rows() == before


async def test_a_resent_redrive_is_done_once(world: World) -> None:
    """The same operation again: the row as it is, no CONFLICT, no second journal row."""
    [run] = await world.running()
    await world.settle((run, NO_RETRY))
    op = new_op()
    first = await world.db.write(lambda c: redrive_task(c, run.id, ANN, op))
    assert await world.db.write(lambda c: redrive_task(c, run.id, ANN, op)) == first
    assert len(await world.journal(Verb.REDRIVE)) == 1


async def test_two_redrives_at_once_are_one(world: World) -> None:
    """The row's lock orders them: one redrives, the other is told CONFLICT."""
    [run] = await world.running()
    await world.settle((run, NO_RETRY))
    answers = await asyncio.gather(
        *(redrive(world.mill, run.id, ANN) for _ in range(4)), return_exceptions=True
    )
    assert sorted(isinstance(a, Conflict) for a in answers) == [False, True, True, True]
    assert len(await world.journal(Verb.REDRIVE)) == 1


# ---- update -------------------------------------------------------------------------------------------------------


async def test_each_field_is_changed_and_the_others_are_not(world: World) -> None:
    """Title, description, priority and payload of a QUEUED task; what is not given stays."""
    [row] = await world.submit(new(description="d"))
    await update(world.mill, row.id, ANN, TaskChanges(title="new"))
    after = await world.row(row.id)
    assert after == replace(row, title="new", updated_at=after.updated_at)
    await update(world.mill, row.id, ANN, TaskChanges(description=None, payload="[1]", priority=Priority.LOW))
    after = await world.row(row.id)
    assert (after.title, after.description, after.priority) == ("new", None, Priority.LOW)
    assert await world.payload(row.id) == "[1]"
    await world.exact()


async def test_a_new_priority_moves_the_line_and_the_counts(world: World) -> None:
    """The journal has both priorities, and check_at is now: verify would offer the new score too."""
    [row] = await world.submit()
    await update(world.mill, row.id, ANN, TaskChanges(priority=Priority.CRITICAL))
    after = await world.row(row.id)
    assert after.check_at > row.check_at
    [(_, [change])] = await world.journal(Verb.UPDATE)
    assert (change.priority_before, change.priority_after) == (Priority.NORMAL, Priority.CRITICAL)
    assert (change.source, change.target) == (Status.QUEUED, Status.QUEUED)
    await world.exact()


async def test_a_plan_moves_between_pending_and_queued(world: World) -> None:
    """scheduledAt ahead: PENDING until then; null or past: QUEUED now."""
    [row] = await world.submit()
    now = await world.now()
    at = now + timedelta(hours=1)
    after = await update(world.mill, row.id, ANN, TaskChanges(scheduled_at=at))
    assert (after.status, after.check_at, after.scheduled_at) == (Status.PENDING, at, at)
    after = await update(world.mill, row.id, ANN, TaskChanges(scheduled_at=None))
    assert (after.status, after.scheduled_at) == (Status.QUEUED, None)
    assert after.check_at >= now
    await update(world.mill, row.id, ANN, TaskChanges(scheduled_at=at))
    past = now - timedelta(days=1)
    after = await update(world.mill, row.id, ANN, TaskChanges(scheduled_at=past))
    assert after.status is Status.QUEUED
    assert after.check_at >= now
    await world.exact()


async def test_a_task_that_waits_for_a_retry_keeps_its_time(database: Database) -> None:
    """Only the title changes: still PENDING, due when the backoff said."""
    world = World(database, Policy(backoff=Backoff(600.0, 600.0)))
    [run] = await world.running()
    await world.settle((run, replace(FAILED, after=600.0)))
    before = await world.row(run.id)
    after = await update(world.mill, run.id, ANN, TaskChanges(title="new", priority=Priority.HIGH))
    assert (after.status, after.check_at) == (Status.PENDING, before.check_at)
    after = await update(world.mill, run.id, ANN, TaskChanges(scheduled_at=None))
    assert after.status is Status.QUEUED


async def test_only_waiting_tasks_are_changed(world: World) -> None:
    """PROCESSING, COMPLETED, FAILED, CANCELLED: CONFLICT that names the state, also for the payload."""
    running, done, failed = await world.running(n=3)
    await world.settle((done, DONE), (failed, NO_RETRY))
    [cancelled] = await world.submit()
    await cancel(world.mill, cancelled.id, ANN)
    tasks: dict[str, Any] = {
        "PROCESSING": running,
        "COMPLETED": done,
        "FAILED": failed,
        "CANCELLED": cancelled,
    }
    for state, task in tasks.items():
        with pytest.raises(Conflict, match=state):
            await update(world.mill, task.id, ANN, TaskChanges(payload="[]"))
        assert await world.payload(task.id) == '{"n":1}'


async def test_no_change_writes_nothing(world: World) -> None:
    """An empty update answers with the row and journals nothing."""
    [row] = await world.submit()
    assert await update(world.mill, row.id, ANN, TaskChanges()) == row
    assert await world.journal(Verb.UPDATE) == []
