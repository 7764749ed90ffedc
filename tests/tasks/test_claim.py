"""claim: SQL decides who runs a task, whatever proposed it."""

from __future__ import annotations

import asyncio

import pytest

from taskmill.model.ids import new_id
from taskmill.model.state import Priority, Status, Verb
from taskmill.model.task import HandlerSpec, Registry
from taskmill.sql.engine import Database, open_database
from taskmill.tasks.claim import PAGE, PAGES, Scan
from taskmill.tasks.claimer import Claimer
from tests.databases import patient
from tests.tasks.kit import ANN, CRASHED, FAILED, LEASE, REGISTRY, World, new


async def test_a_claim_takes_fence_attempt_and_lease(world: World) -> None:
    """QUEUED becomes PROCESSING: fence + 1, attempts + 1, worker, start and the lease on the row."""
    [row] = await world.submit(new(payload='{"x":"🎉"}'))
    worker = new_id()
    before = await world.now()
    [run] = (await world.take([row.id], worker=worker)).claimed
    after = await world.row(row.id)
    assert (run.id, run.fence, run.attempts, run.payload) == (row.id, 1, 1, '{"x":"🎉"}')
    assert (run.user_id, run.queue, run.type, run.title) == (ANN, "default", "T", "t")
    assert (after.status, after.fence, after.attempts) == (Status.PROCESSING, 1, 1)
    assert after.worker_id == worker
    assert after.started_at is not None
    assert after.started_at >= before
    assert (after.check_at - after.started_at).total_seconds() == LEASE
    assert (await world.steps(row.id))[-1] == ("claim", Status.QUEUED, Status.PROCESSING, 1)


async def test_every_run_has_a_higher_fence(world: World) -> None:
    """The fence grows with each claim, also over a redrive; attempts count the runs since."""
    [run] = await world.running()
    for fence in (2, 3):
        await world.settle((run, FAILED))
        run = await world.again(run.id)
        assert (run.fence, run.attempts) == (fence, fence)


async def test_a_batch_is_one_journal_row(world: World) -> None:
    """Many tasks in one claim: one transaction, one row of the journal."""
    rows = await world.submit(n=20)
    taken = await world.take([r.id for r in reversed(rows)])
    assert len(taken.claimed) == 20
    [(_, changes)] = await world.journal(Verb.CLAIM)
    assert {c.task for c in changes} == {r.id for r in rows}


async def test_what_cannot_be_claimed_is_told_apart(world: World) -> None:
    """busy: another's run (confirm); dead: cancelled, waiting or gone (drop); nothing of them is changed."""
    [mine, busy, waiting, dead] = await world.submit(n=4)
    await world.take([busy.id])
    await world.set(waiting.id, status=int(Status.PENDING))
    await world.set(dead.id, status=int(Status.CANCELLED))
    gone = new_id()
    taken = await world.take([mine.id, busy.id, waiting.id, dead.id, gone])
    assert [c.id for c in taken.claimed] == [mine.id]
    assert taken.busy == {busy.id}
    assert taken.dead == {waiting.id, dead.id, gone}
    assert not taken.parked | taken.moved
    assert (await world.row(busy.id)).fence == 1


async def test_suspects_are_limited_and_the_rest_parked(world: World) -> None:
    """Of three suspects one is claimed when there is room for one; the others stay QUEUED and are named."""
    rows = await world.submit(n=4)
    for row in rows[:3]:
        await world.set(row.id, suspect=1)
    ids = [r.id for r in rows]
    taken = await world.take(ids, suspects=1)
    assert [c.id for c in taken.claimed if not c.suspect] == [rows[3].id]
    assert len([c for c in taken.claimed if c.suspect]) == 1
    assert len(taken.parked) == 2
    assert {r.status for r in await world.rows(*taken.parked)} == {Status.QUEUED}


async def test_without_room_no_suspect_is_claimed(world: World) -> None:
    """suspects=0 leaves them all, and spends nothing of them."""
    [row] = await world.submit()
    await world.set(row.id, suspect=1)
    taken = await world.take([row.id], suspects=0)
    assert (taken.claimed, taken.parked) == ([], {row.id})
    assert (await world.row(row.id)).attempts == 0


async def test_max_retries_is_filled_from_the_registry(world: World) -> None:
    """NULL becomes the handler's own number, else the default of the installation, at the first claim."""
    registry = Registry((HandlerSpec("A", max_retries=9), HandlerSpec("B"), HandlerSpec(None, max_retries=1)))
    rows = await world.submit(
        new(type="A"), new(type="B"), new(type=None), new(type="STRANGE"), new(type="A", max_retries=2)
    )
    ids = [r.id for r in rows]
    taken = await world.take(ids, registry=registry)
    by_id = {c.id: c.max_retries for c in taken.claimed}
    assert [by_id[i] for i in ids] == [9, 3, 1, None, 2]
    assert [r.max_retries for r in await world.rows(*ids)] == [9, 3, 1, None, 2]


async def test_types_compare_byte_by_byte(world: World) -> None:
    """Type "t" is not type "T": the handler's number of retries is not taken."""
    [row] = await world.submit(new(type="t"))
    [run] = (await world.take([row.id], registry=Registry((HandlerSpec("T", max_retries=9),)))).claimed
    assert run.max_retries is None


async def test_the_progress_of_the_last_run_is_gone(world: World) -> None:
    """A new run starts without the progress of the one before."""
    [row] = await world.submit()
    await world.set(row.id, progress=0.7)
    await world.take([row.id])
    assert (await world.row(row.id)).progress is None


async def test_the_wait_until_the_first_start_is_told_once(world: World) -> None:
    """Seconds from eligible to started for a first run; a retry does not count as waiting."""
    [row] = await world.submit()
    taken = await world.take([row.id])
    assert len(taken.waits) == 1
    assert taken.waits[0] >= 0
    await world.settle((taken.claimed[0], FAILED))
    await world.promote()
    assert (await world.take([row.id])).waits == []


async def test_two_claimers_never_get_the_same_task(world: World, store_url: str) -> None:
    """Many claims at once over the same ids: each task goes to exactly one of them."""
    rows = await world.submit(n=60)
    ids = [r.id for r in rows]
    other: Database | None = None
    if world.db.kind != "sqlite":
        other = await open_database(patient(store_url))
    answers = await asyncio.gather(
        *(world.take(ids[k : k + 40], db=other if k % 2 else None) for k in range(0, 21, 4)),
        *(world.scan(15) for _ in range(4)),
    )
    claimed = [c.id for taken in answers for c in taken.claimed]
    assert len(claimed) == len(set(claimed)) == 60
    assert {(r.fence, r.attempts) for r in await world.rows()} == {(1, 1)}
    if other is not None:
        await other.close()
    await world.exact()


# ---- straight from SQL ------------------------------------------------------------------------------------------


async def test_a_scan_takes_the_most_urgent_first(world: World) -> None:
    """CRITICAL before HIGH before NORMAL before LOW, and the oldest first within each."""
    urgency = [Priority.LOW, Priority.NORMAL, Priority.CRITICAL, Priority.NORMAL, Priority.HIGH]
    rows = [(await world.submit(new(priority=p)))[0] for p in urgency]
    order = [(await world.scan(1)).claimed[0].id for _ in rows]
    assert order == [rows[k].id for k in (2, 4, 1, 3, 0)]


async def test_a_scan_keeps_to_its_queues(world: World) -> None:
    """Rows of other queues are left alone, also a name that differs in case only."""
    await world.submit(new(queue="mail"), new(queue="Default"))
    [ours] = await world.submit(new(queue="default"))
    taken = await world.scan(10, Scan(["default"]))
    assert [c.id for c in taken.claimed] == [ours.id]


async def test_another_queues_rows_ahead_are_walked_past(world: World) -> None:
    """Hundreds of rows of another queue stand before ours: the position is kept from call to call, none is missed."""
    ahead = PAGE * PAGES * 2 + 3
    await world.submit(*(new(queue="other") for _ in range(ahead)))
    [ours] = await world.submit()
    scan = Scan(["default"])
    found = [(await world.scan(5, scan)).claimed for _ in range(4)]
    assert [[c.id for c in claimed] for claimed in found] == [[], [], [ours.id], []]
    # At the end it starts over: what is written ahead of where it was is found too.
    [late] = await world.submit()
    await world.age(late.id, 3600)
    taken = [c.id for _ in range(4) for c in (await world.scan(5, scan)).claimed]
    assert taken == [late.id]


async def test_a_scan_parks_suspects_too(world: World) -> None:
    """No room for suspects: the scan goes on to plain tasks; with room it brings just as many."""
    rows = await world.submit(n=4)
    for row in rows[:3]:
        await world.set(row.id, suspect=1)
    assert [c.id for c in (await world.scan(4)).claimed] == [rows[3].id]
    assert len((await world.scan(4, suspects=2)).claimed) == 2


async def test_an_empty_scan_writes_nothing(world: World) -> None:
    """Nothing to claim: no journal row."""
    assert (await world.scan(5)).claimed == []
    assert await world.journal() == []


# ---- the claimer without an index -------------------------------------------------------------------------------


async def test_without_an_index_the_claimer_asks_sql(world: World) -> None:
    """`taskmill up` with no Redis at all: the claimer brings tasks from SQL, none twice."""
    rows = await world.submit(n=7)
    claimer = Claimer(world.mill, new_id(), ["default"], REGISTRY)
    first = await claimer.claim(5, suspects=0)
    second = await claimer.claim(5, suspects=0)
    assert [len(first), len(second)] == [5, 2]
    assert {c.id for c in first + second} == {r.id for r in rows}


async def test_a_crashed_task_goes_on_as_a_suspect(world: World) -> None:
    """The runner died: after its settle the task is claimed only where there is room for a suspect."""
    [run] = await world.running()
    await world.settle((run, CRASHED))
    await world.promote()
    claimer = Claimer(world.mill, new_id(), ["default"], REGISTRY)
    assert await claimer.claim(5, suspects=0) == []
    [again] = await claimer.claim(5, suspects=1)
    assert (again.id, again.suspect, again.attempts) == (run.id, True, 2)


@pytest.mark.parametrize("n", [1, 200])
async def test_a_claim_is_bounded_by_its_slots(world: World, n: int) -> None:
    """Never more than asked for: a worker does not hoard."""
    await world.submit(n=210)
    claimer = Claimer(world.mill, new_id(), ["default"], REGISTRY)
    assert len(await claimer.claim(n, suspects=0)) == n
