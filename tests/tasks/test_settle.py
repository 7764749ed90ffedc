"""settle: what becomes of a run, written once, by who owns the task."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from taskmill.model.backoff import Backoff
from taskmill.model.decide import Policy
from taskmill.model.ids import new_id
from taskmill.model.state import Status, Verb
from taskmill.model.task import ERROR_LIMIT, Ended, HandlerSpec, Outcome, Registry, Renewal
from taskmill.sql.engine import Database
from taskmill.tasks import workers
from taskmill.tasks.cancel import cancel
from taskmill.tasks.renew import renew_leases
from taskmill.tasks.settle import RUNS_KEPT, Settlement, prepare, settle_looking
from tests.tasks.kit import ANN, CRASHED, DONE, FAILED, POLICY, RELEASED, World, new

UNKNOWN = Outcome(Ended.UNKNOWN_TYPE, error_type="UNKNOWN_TYPE", message="Unknown task type 'T' (known: U)")
NO_RETRY = replace(FAILED, retry=False)


async def test_success_completes(world: World) -> None:
    """COMPLETED with its result and time; no row in `runs`, one step in the journal."""
    [run] = await world.running()
    assert await world.settle((run, DONE)) == [True]
    row = await world.row(run.id)
    assert (row.status, row.result, row.error) == (Status.COMPLETED, '"done"', None)
    assert row.completed_at == row.check_at == row.updated_at
    assert await world.runs(run.id) == []
    assert (await world.steps(run.id))[-1] == ("settle", Status.PROCESSING, Status.COMPLETED, 1)


async def test_a_completed_task_has_made_all_its_progress(world: World) -> None:
    """The last report of a run may not have ridden on a renewal. A run that never reported has none."""
    reported, silent = await world.running(n=2)
    await renew_leases(world.mill, [Renewal(reported.id, 1, 0.25)])
    await world.settle((reported, DONE), (silent, DONE))
    assert [r.progress for r in await world.rows(reported.id, silent.id)] == [1.0, None]


async def test_failure_with_attempts_left_waits_and_leaves_a_run(world: World) -> None:
    """PENDING again, with the error shown, and a row in `runs` that says what happened."""
    [run] = await world.running()
    assert await world.settle((run, FAILED), worker="host-1") == [True]
    row = await world.row(run.id)
    assert (row.status, row.error, row.attempts) == (Status.PENDING, "no luck", 1)
    assert row.completed_at is None
    [kept] = await world.runs(run.id)
    assert (kept.fence, kept.attempt, kept.outcome, kept.worker) == (1, 1, "FAILED", "host-1")
    assert (kept.error_type, kept.message, kept.traceback) == ("ValueError", "no luck", "tb")
    assert kept.started_at == row.started_at
    assert kept.ended_at >= row.updated_at


async def test_the_backoff_is_on_the_databases_clock(database: Database) -> None:
    """A failed run is due after the delay that was decided, from now."""
    world = World(database, Policy(max_retries=3, backoff=Backoff(1.0, 10.0)))
    [run] = await world.running()
    await world.settle((run, replace(FAILED, after=120.0)))
    assert 110 < await world.due_in(run.id) <= 120


async def test_the_last_failure_is_final(world: World) -> None:
    """max_retries 1: the second failure ends FAILED, with both runs kept."""
    [run] = await world.running(new(max_retries=1))
    await world.settle((run, FAILED))
    run = await world.again(run.id)
    await world.settle((run, FAILED))
    row = await world.row(run.id)
    assert (row.status, row.attempts, row.error) == (Status.FAILED, 2, "no luck")
    assert row.completed_at is not None
    assert [r.fence for r in await world.runs(run.id)] == [1, 2]


@pytest.mark.parametrize("outcome", [NO_RETRY], ids=["Fail"])
async def test_fail_is_final_at_once(world: World, outcome: Outcome) -> None:
    """A failure that may not be retried ends FAILED with attempts left."""
    [run] = await world.running()
    await world.settle((run, outcome))
    assert (await world.row(run.id)).status is Status.FAILED


async def test_given_back_spends_nothing(world: World) -> None:
    """RELEASED: QUEUED again, the attempt returned, eligible now; the fence stays grown."""
    [run] = await world.running()
    await world.settle((run, RELEASED))
    row = await world.row(run.id)
    assert (row.status, row.attempts, row.fence, row.releases) == (Status.QUEUED, 0, 1, 0)
    assert await world.due_in(run.id) <= 0


async def test_an_unknown_type_is_a_failed_attempt_when_nobody_knows_it(world: World) -> None:
    """No live worker has the type: the attempt is spent, and the error says which types are known."""
    [run] = await world.running()
    await world.settle((run, UNKNOWN))
    row = await world.row(run.id)
    assert (row.status, row.attempts, row.error) == (Status.PENDING, 1, UNKNOWN.message)
    assert [r.error_type for r in await world.runs(run.id)] == ["UNKNOWN_TYPE"]


async def seen(world: World, *types: str) -> None:
    await world.db.write(
        lambda c: workers.register(
            c, new_id(), name="n", host="h", queues=["default"], types=types, slots=1, version="0"
        )
    )


async def test_an_unknown_type_waits_for_a_worker_that_knows_it(world: World) -> None:
    """Another live worker has the type: the attempt is returned, due in 1 s, then 2 s; releases count."""
    await seen(world, "T")
    [run] = await world.running()
    for releases, wait in ((1, 1.0), (2, 2.0)):
        await world.settle((run, UNKNOWN))
        row = await world.row(run.id)
        assert (row.status, row.attempts, row.releases) == (Status.PENDING, 0, releases)
        assert wait - 1 < await world.due_in(run.id) <= wait
        await world.age(run.id, 10)
        run = await world.again(run.id)


async def test_a_worker_of_another_queue_does_not_know_the_type(world: World) -> None:
    """It will never claim the task: handing it back for it would go on for ever. A failed attempt."""
    await seen(world, "T")
    [run] = await world.running(new(queue="mail"))
    await world.settle((run, UNKNOWN))
    row = await world.row(run.id)
    assert (row.attempts, row.releases) == (1, 0)


async def test_a_default_handler_does_not_know_a_typed_task(world: World) -> None:
    """A live worker with a default handler takes tasks without a type only."""
    await seen(world, workers.DEFAULT)
    typed, plain = await world.running(new(), new(type=None))
    await world.settle((typed, UNKNOWN), (plain, UNKNOWN))
    rows = await world.rows(typed.id, plain.id)
    assert [r.attempts for r in rows] == [1, 0]


async def test_three_lone_crashes_are_poison(world: World) -> None:
    """One death among others makes a suspect, three alone end the task FAILED as POISON."""
    [run] = await world.running(new(max_retries=10))
    states = []
    for _ in range(4):
        await world.settle((run, CRASHED))
        row = await world.row(run.id)
        states.append((row.status, row.crashes, row.suspect))
        if row.status is Status.PENDING:
            run = await world.again(run.id)
    assert states == [
        (Status.PENDING, 0, True),
        (Status.PENDING, 1, True),
        (Status.PENDING, 2, True),
        (Status.FAILED, 3, True),
    ]
    assert (await world.runs(run.id))[-1].error_type == "POISON"
    assert "POISON" in str((await world.row(run.id)).error)


@pytest.mark.parametrize("outcome", [DONE, FAILED, RELEASED, CRASHED], ids=lambda o: o.ended.value)
async def test_a_cancel_request_wins(world: World, outcome: Outcome) -> None:
    """Cancel was asked for while it ran: every way out ends CANCELLED, with no result, and the run is kept."""
    [run] = await world.running()
    await cancel(world.mill, run.id, ANN)
    assert await world.settle((run, outcome)) == [True]
    row = await world.row(run.id)
    assert (row.status, row.result) == (Status.CANCELLED, None)
    assert row.completed_at is not None
    assert len(await world.runs(run.id)) == 1
    assert (await world.steps(run.id))[-1] == ("settle", Status.PROCESSING, Status.CANCELLED, 1)


async def test_a_stale_fence_changes_nothing(world: World) -> None:
    """The task was taken by another run: the late outcome is refused, counted, and leaves no trace."""
    [old] = await world.running()
    await world.settle((old, FAILED))
    newer = await world.again(old.id)
    before = (await world.row(old.id), await world.runs(old.id), await world.journal())
    assert await world.settle((old, DONE)) == [False]
    assert (await world.row(old.id), await world.runs(old.id), await world.journal()) == before
    assert world.mill.probes.registry.get_sample_value("stale_writes_total", {"verb": "settle"}) == 1
    assert await world.settle((newer, DONE)) == [True]


async def test_a_second_outcome_of_a_run_is_stale(world: World) -> None:
    """The fence is still the row's, but the state has moved: a given-back task cannot be completed any more."""
    [run] = await world.running()
    await world.settle((run, RELEASED))
    assert await world.settle((run, DONE)) == [False]
    assert (await world.row(run.id)).status is Status.QUEUED


async def test_a_task_that_is_gone_is_stale(world: World) -> None:
    """The row does not exist: False, no error."""
    [run, other] = await world.running(n=2)
    ghost = replace(run, id=new_id())
    assert await world.settle((ghost, DONE), (other, DONE)) == [False, True]


async def test_one_stale_outcome_does_not_hold_up_the_others(world: World) -> None:
    """Fewer rows match than were named: rolled back, looked at, and the sound ones are written in one transaction."""
    runs = await world.running(n=5)
    await world.settle((runs[2], RELEASED))
    await cancel(world.mill, runs[4].id, ANN)
    answers = await world.settle(*((r, DONE) for r in runs))
    assert answers == [True, True, False, True, True]
    rows = await world.rows(*(r.id for r in runs))
    done, given_back, cancelled = Status.COMPLETED, Status.QUEUED, Status.CANCELLED
    assert [r.status for r in rows] == [done, done, given_back, done, cancelled]
    assert len(await world.journal(Verb.SETTLE)) == 2
    await world.exact()


async def test_two_fences_of_a_task_in_one_batch(world: World) -> None:
    """A stale and a current run of one task in one batch: only the current one counts, whatever their order."""
    for flip in (False, True):
        [old] = await world.running()
        await world.settle((old, FAILED))
        newer = await world.again(old.id)
        batch = [(old, replace(DONE, result='"old"')), (newer, replace(DONE, result='"new"'))]
        answers = await world.settle(*(batch[::-1] if flip else batch))
        assert answers == ([True, False] if flip else [False, True])
        assert (await world.row(old.id)).result == '"new"'


async def test_every_outcome_in_one_batch(world: World) -> None:
    """A batch of all kinds is one statement and one journal row, each row with its own columns."""
    runs = await world.running(n=5)
    outcomes = [DONE, FAILED, RELEASED, CRASHED, NO_RETRY]
    assert await world.settle(*zip(runs, outcomes, strict=True)) == [True] * 5
    rows = await world.rows(*(r.id for r in runs))
    assert [r.status.name for r in rows] == ["COMPLETED", "PENDING", "QUEUED", "PENDING", "FAILED"]
    assert [r.attempts for r in rows] == [1, 1, 0, 1, 1]
    assert [r.suspect for r in rows] == [False, False, False, True, False]
    [(_, changes)] = await world.journal(Verb.SETTLE)
    assert len(changes) == 5
    await world.exact()


async def test_runs_are_bounded(world: World) -> None:
    """Only the last RUNS_KEPT fences keep their rows: a task that only others know adds none for ever."""
    [run] = await world.running()
    await world.settle((run, FAILED))
    await world.set(run.id, fence=RUNS_KEPT, attempts=0)
    latest = await world.again(run.id)
    await world.settle((latest, FAILED))
    assert [r.fence for r in await world.runs(run.id)] == [RUNS_KEPT + 1]


async def test_texts_that_no_database_takes_are_made_storable(world: World) -> None:
    """A NUL, half a surrogate pair and a too long message of a handler never hold up a batch."""
    nasty = "\0\ud800" + "x" * ERROR_LIMIT
    first, second = await world.running(n=2)
    outcome = Outcome(Ended.FAILED, error_type="E" * 300, message=nasty, traceback=nasty)
    assert await world.settle((first, outcome), (second, DONE)) == [True, True]
    [kept] = await world.runs(first.id)
    assert kept.message.startswith("\\0\\ud800xxx")
    assert len(kept.error_type) == 100


async def test_settle_and_cancel_at_once_agree(world: World) -> None:
    """Whichever commits first decides: the cancel is answered with what the task then is."""
    runs = await world.running(n=12)
    work = [world.settle((r, DONE)) for r in runs], [cancel(world.mill, r.id, ANN) for r in runs]
    answers = await asyncio.gather(
        *(job for pair in zip(*work, strict=True) for job in pair), return_exceptions=True
    )
    for run, answer in zip(runs, answers[1::2], strict=True):
        row = await world.row(run.id)
        # A cancel that came too late is a Conflict and the task COMPLETED; else it is CANCELLED.
        assert row.status is (Status.COMPLETED if isinstance(answer, Exception) else Status.CANCELLED)
        assert (row.result is None) == (row.status is Status.CANCELLED)
    await world.exact()


async def test_looking_finds_what_a_first_send_has_written(world: World) -> None:
    """The resend after a lost COMMIT reply: my op_id on the row, or in `runs`, means done; nothing is written again."""
    registry = Registry((HandlerSpec("T"),))
    done, failed = await world.running(n=2, registry=registry)
    batch: list[Settlement] = [
        prepare(done, DONE, frozenset(), "w", POLICY, world.mill.rng),
        prepare(failed, FAILED, frozenset(), "w", POLICY, world.mill.rng),
    ]
    assert await world.db.write(lambda c: settle_looking(c, batch)) == [True, True]
    await world.again(failed.id)
    before = await world.rows(), await world.journal()
    assert await world.db.write(lambda c: settle_looking(c, batch)) == [True, True]
    assert (await world.rows(), await world.journal()) == before
