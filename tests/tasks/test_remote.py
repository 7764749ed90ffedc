"""Remote workers' writes on every engine: whose run it is, and what the same write does when it comes again."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from datetime import timedelta

import pytest

from taskmill.errors import Stale
from taskmill.model.clock import boottime
from taskmill.model.ids import new_id, new_op
from taskmill.model.state import Status, Verb
from taskmill.model.task import Claimed, Ended, Outcome, Renewal
from taskmill.sql import schema
from taskmill.tasks import workers
from taskmill.tasks.cancel import cancel
from taskmill.tasks.claim import Note
from taskmill.tasks.claimer import Claimer
from taskmill.tasks.fleet import live_workers, queues
from taskmill.tasks.redrive import redrive
from taskmill.tasks.remote import (
    Brought,
    Settled,
    claimed_before,
    operation,
    owners,
    renew_remote,
    settle_remote,
    submit_remote,
    worker_id,
)
from taskmill.upkeep.rescue import expire_leases
from tests.tasks.kit import ANN, BOB, DONE, FAILED, LEASE, REGISTRY, World, new

WORKER, OTHER = worker_id(ANN, b"1" * 16), worker_id(BOB, b"1" * 16)


def brings(run: Claimed, outcome: Outcome = DONE, *, worker: bytes = WORKER, said: str = "") -> Brought:
    op = operation(worker, run.id, run.fence, said, outcome.ended.value, outcome.result)
    return Brought(worker, run.id, run.fence, outcome, op)


async def settle(world: World, *batch: Brought) -> list[Settled]:
    return await settle_remote(world.mill, batch, patience=10.0)


async def register(world: World, worker: bytes = WORKER, name: str = "r1") -> None:
    await world.db.write(
        lambda c: workers.register(
            c, worker, name=name, host="h", queues=["default"], types=["T"], slots=2, version="1"
        )
    )


def test_a_worker_is_its_boot_id_and_its_key() -> None:
    """Who knows a worker's boot id, and has another key, is another worker."""
    assert WORKER != OTHER
    assert len(WORKER) == 16
    assert worker_id(ANN, b"1" * 16) == WORKER


async def test_a_settle_of_the_run_that_goes_on(world: World) -> None:
    """It is recorded with the worker's name, an attempt's failure in `runs`; stats follow."""
    await register(world)
    done, failed = await world.running(n=2, worker=WORKER)
    assert await settle(world, brings(done), brings(failed, FAILED)) == [Settled.RECORDED] * 2
    assert (await world.row(done.id)).status is Status.COMPLETED
    assert (await world.row(done.id)).result == '"done"'
    assert (await world.row(failed.id)).status is Status.PENDING
    [ran] = await world.runs(failed.id)
    assert (ran.worker, ran.outcome, ran.error_type, ran.traceback) == ("r1", "FAILED", "ValueError", "tb")
    await world.exact()


@pytest.mark.parametrize("outcome", [DONE, FAILED, Outcome(Ended.RELEASED), Outcome(Ended.CRASHED)], ids=str)
async def test_the_same_settle_again_is_the_same_answer(world: World, outcome: Outcome) -> None:
    """RECORDED once more, nothing is written; another outcome of the same run is a CONFLICT."""
    [run] = await world.running(worker=WORKER)
    first = brings(run, outcome)
    assert await settle(world, first) == [Settled.RECORDED]
    before, journal = await world.row(run.id), await world.journal()
    assert await settle(world, first) == [Settled.RECORDED]
    other = brings(run, dataclasses.replace(DONE, result='"other"'))
    assert await settle(world, other) == [Settled.CONFLICT]
    assert (await world.row(run.id), await world.journal()) == (before, journal)


async def test_the_same_settle_after_the_next_run_began(world: World) -> None:
    """Still RECORDED: its row in `runs` tells. The run that goes on is not touched."""
    [run] = await world.running(worker=WORKER)
    first = brings(run, FAILED)
    await settle(world, first)
    again = await world.again(run.id)
    assert await settle(world, first) == [Settled.RECORDED]
    assert (await world.row(run.id)).fence == again.fence
    assert (await world.row(run.id)).status is Status.PROCESSING


async def test_the_same_settle_after_a_redrive(world: World) -> None:
    """The fence does not grow by it, and the run that failed is not the one that is to come."""
    [run] = await world.running(new(max_retries=0), worker=WORKER)
    first = brings(run, FAILED)
    await settle(world, first)
    await redrive(world.mill, run.id, ANN)
    assert await settle(world, first) == [Settled.RECORDED]
    assert await settle(world, brings(run)) == [Settled.CONFLICT]
    assert (await world.row(run.id)).status is Status.QUEUED


async def test_what_is_stale_changes_nothing(world: World) -> None:
    """Another worker's run, an old fence, one that is to come, a task that is not there, one never claimed: counted."""
    [run] = await world.running(worker=WORKER)
    [queued] = await world.submit()
    before = await world.rows()
    batch = [
        brings(run, worker=OTHER),
        brings(dataclasses.replace(run, fence=run.fence + 1)),
        brings(dataclasses.replace(run, fence=2**40)),
        brings(dataclasses.replace(run, id=new_id())),
        brings(dataclasses.replace(run, id=queued.id)),
    ]
    assert await settle(world, *batch) == [Settled.STALE] * 5
    assert await world.rows() == before
    counted = world.mill.probes.stale_writes.labels(verb=Verb.SETTLE.value)
    assert counted._value.get() == 5


async def test_a_run_that_was_rescued_is_stale(world: World) -> None:
    """What its worker brings later is not taken, whatever it is."""
    [run] = await world.running(worker=WORKER)
    lost = brings(run, Outcome(Ended.LEASE_LOST), worker=WORKER, said="rescue")
    assert await settle(world, lost) == [Settled.RECORDED]  # as rescue writes it
    assert await settle(world, brings(run)) == [Settled.STALE]


async def test_one_batch_holds_a_run_twice(world: World) -> None:
    """The same twice is one write; two that differ: the first stands."""
    one, two = await world.running(n=2, worker=WORKER)
    same, other = brings(one), brings(two, FAILED)
    assert await settle(world, same, same) == [Settled.RECORDED] * 2
    assert await settle(world, brings(two), other) == [Settled.RECORDED, Settled.CONFLICT]
    assert (await world.row(two.id)).status is Status.COMPLETED


async def test_a_cancel_decides(world: World) -> None:
    """Whatever the run brought, its task ends CANCELLED, and the same settle again is RECORDED."""
    [run] = await world.running(worker=WORKER)
    await cancel(world.mill, run.id, ANN)
    assert await settle(world, brings(run)) == [Settled.RECORDED]
    assert (await world.row(run.id)).status is Status.CANCELLED
    assert await settle(world, brings(run)) == [Settled.RECORDED]


async def test_two_that_settle_the_same_at_once(world: World) -> None:
    """As after a time-out of the first: both are answered RECORDED, one transition is written."""
    [run] = await world.running(worker=WORKER)
    one = brings(run)
    answers = await asyncio.gather(settle(world, one), settle(world, one), settle(world, one))
    assert list(answers) == [[Settled.RECORDED]] * 3
    assert len(await world.journal(Verb.SETTLE)) == 1


async def test_an_unknown_type_is_known_elsewhere(world: World) -> None:
    """No attempt is spent when another live worker of the queue has a handler, else it is a failed one."""
    [run] = await world.running(worker=WORKER)
    unknown = Outcome(Ended.UNKNOWN_TYPE)
    await settle(world, brings(run, unknown))
    assert (await world.row(run.id)).attempts == 1
    await register(world, OTHER)
    [run] = await world.running(worker=WORKER)
    await settle(world, brings(run, unknown))
    row = await world.row(run.id)
    assert (row.attempts, row.releases, row.status) == (0, 1, Status.PENDING)


async def test_renew_is_for_the_runs_of_the_worker(world: World) -> None:
    """Held, cancelled or lost; another worker's run is lost to this one and keeps its lease."""
    await register(world)
    held, cancelled, foreign = await world.running(n=3, worker=WORKER)
    await world.set(foreign.id, worker_id=OTHER)
    await cancel(world.mill, cancelled.id, ANN)
    for run in (held, cancelled, foreign):
        await world.age(run.id, 20)
    leases = [Renewal(r.id, r.fence, 0.5) for r in (held, cancelled, foreign)]
    leases.append(Renewal(held.id, held.fence + 1))
    renewed = await renew_remote(world.mill, WORKER, leases, seen=True)
    assert renewed.held == {(held.id, held.fence)}
    assert renewed.cancelled == {(cancelled.id, cancelled.fence)}
    assert renewed.lost == {(foreign.id, foreign.fence), (held.id, held.fence + 1)}
    assert renewed.deadline > boottime() + LEASE - 5
    assert await world.due_in(held.id) > LEASE - 5
    assert await world.due_in(foreign.id) < LEASE - 15
    assert (await world.row(held.id)).progress == 0.5
    assert (await world.row(foreign.id)).progress is None


async def test_a_claim_that_was_not_heard_is_found_again(world: World) -> None:
    """The same operation gets the runs that it claimed, as long as they are its own; another one claims anew."""
    await register(world)
    rows = await world.submit(n=5)
    op = new_op()
    claimer = Claimer(world.mill, WORKER, ["default"], REGISTRY)
    claimed = await claimer.claim(3, suspects=0, note=Note(op))
    await world.age(claimed[0].id, 20)
    lost = claimed[2]
    await world.set(lost.id, fence=lost.fence + 1, worker_id=OTHER)

    async def again(op: bytes, worker: bytes = WORKER) -> list[Claimed] | None:
        return await world.db.write(lambda c: claimed_before(c, worker, op, LEASE))

    found = await again(op)
    assert found is not None
    assert [(r.id, r.fence, r.payload) for r in found] == [(r.id, r.fence, r.payload) for r in claimed[:2]]
    assert await world.due_in(claimed[0].id) > LEASE - 5, "its lease began anew"
    assert await again(new_op()) is None
    assert await again(op, OTHER) is None
    rest = await claimer.claim(5, suspects=0, note=Note(new_op()))
    assert {r.id for r in claimed} | {r.id for r in rest} == {r.id for r in rows}
    assert await again(op) is None, "a later claim was heard, so this one was too"
    await claimer.close()


async def test_a_claim_that_brings_nothing_leaves_no_note(world: World) -> None:
    """Asked again, it claims."""
    await register(world)
    op = new_op()
    claimer = Claimer(world.mill, WORKER, ["default"], REGISTRY)
    assert await claimer.claim(3, suspects=0, note=Note(op)) == []
    assert await world.db.read(lambda c: workers.noted_claim(c, WORKER, op)) == []
    await claimer.close()


async def test_whose_run_it_is(world: World) -> None:
    """The user of the task, for a run that goes on and is the worker's."""
    mine, done = await world.running(n=2, worker=WORKER)
    [foreign] = await world.running(worker=OTHER)
    await settle(world, brings(done))
    ids = [mine.id, done.id, foreign.id]
    found = await world.db.read(lambda c: owners(c, WORKER, ids))
    assert {key: row.user_id for key, row in found.items()} == {(mine.id, mine.fence): ANN}


async def test_what_a_run_submits(world: World) -> None:
    """Once for an operation, however often and at once it is sent, in the name of the task's user; journalled, counted."""
    [run] = await world.running(worker=WORKER)
    lease, op = (run.id, run.fence), new_op()
    later = (await world.now()) + timedelta(hours=1)
    tasks = [new("a", user_id=b"", queue="mail"), new("b", user_id=b"", scheduled_at=later)]

    async def submit(op: bytes = op, worker: bytes = WORKER) -> list[bytes]:
        return await submit_remote(world.mill, worker, lease, op, tasks)

    first, second = await asyncio.gather(submit(), submit())
    assert first == second == await submit()
    assert [uuid.UUID(bytes=id_).version for id_ in first] == [7, 7]
    rows = await world.rows(*first)
    assert [(r.title, r.queue, r.status, r.user_id) for r in rows] == [
        ("a", "mail", Status.QUEUED, ANN),
        ("b", "default", Status.PENDING, ANN),
    ]
    assert await world.payload(first[0]) == '{"n":1}'
    assert len(await world.rows()) == 3
    assert await submit(new_op()) != first
    await world.exact()
    for stale in (submit(new_op(), OTHER), submit(new_op(), b"x" * 16)):
        with pytest.raises(Stale):
            await stale
    await settle(world, brings(run))
    with pytest.raises(Stale):
        await submit(new_op())


async def test_a_worker_changes_what_it_knows(world: World) -> None:
    """Its row follows; one that is not there is not made by being seen."""
    await register(world, name="old")
    await register(world, name="new")
    [row] = await world.table(schema.workers)
    assert row.name == "new"
    await world.db.write(lambda c: workers.touch(c, OTHER))
    assert len(await world.table(schema.workers)) == 1


async def test_live_workers_and_what_they_hold(world: World) -> None:
    """By id, in pages; one that was not seen for long is not among them."""
    for worker in sorted((WORKER, OTHER)):
        await register(world, worker)
    await world.running(n=3, worker=WORKER)
    found = await world.db.read(lambda c: live_workers(c, 60.0, limit=10))
    assert [w.boot_id for w in found] == sorted((WORKER, OTHER))
    assert {w.boot_id: w.running for w in found} == {WORKER: 3, OTHER: 0}
    assert (found[0].queues, found[0].types, found[0].slots) == (("default",), ("T",), 2)
    second = await world.db.read(lambda c: live_workers(c, 60.0, limit=10, after=found[0].boot_id))
    assert second == found[1:]
    assert await world.db.read(lambda c: live_workers(c, -60.0, limit=10)) == []


async def test_queues_are_counted_for_a_user_or_for_all(world: World) -> None:
    """Exact numbers, the oldest that waits, and who serves; an empty queue is there when somebody serves it."""
    await register(world, name="serves default")
    first, _ = await world.submit(new(queue="mail"), new(queue="mail", user_id=BOB))
    await world.submit(new(queue="video", user_id=BOB))
    [run] = await world.running(new(queue="mail"))
    await world.age(first.id, 100)

    async def seen(owner: bytes | None, **page: str) -> dict[str, tuple[int, int, int]]:
        rows = await world.db.snapshot(lambda c: queues(c, 60.0, owner, limit=10, **page))
        assert [r.name for r in rows] == sorted(r.name for r in rows)
        return {r.name: (r.numbers[Status.QUEUED], r.numbers[Status.PROCESSING], r.workers) for r in rows}

    assert await seen(None) == {"default": (0, 0, 1), "mail": (2, 1, 0), "video": (1, 0, 0)}
    assert await seen(ANN) == {"default": (0, 0, 1), "mail": (1, 1, 0)}
    assert await seen(None, after="mail") == {"video": (1, 0, 0)}
    rows = await world.db.snapshot(lambda c: queues(c, 60.0, None, limit=10))
    oldest = {r.name: r.oldest for r in rows}
    assert oldest["mail"] == (await world.row(first.id)).check_at
    assert oldest["default"] is None
    assert run.id != first.id


async def test_a_restart_leaves_remote_runs_alone(world: World) -> None:
    """`up` ends the leases of its own past at its start; a remote worker lives on, and its lease with it."""
    await register(world)
    [row] = await world.submit()
    claimer = Claimer(world.mill, WORKER, ["default"], REGISTRY)
    [run] = await claimer.claim(1, suspects=0, note=Note(new_op()))
    await claimer.close()
    [local] = await world.running(worker=OTHER)
    await expire_leases(world.mill)
    assert run.id == row.id
    assert await world.due_in(run.id) > LEASE - 10
    assert await world.due_in(local.id) <= 0
