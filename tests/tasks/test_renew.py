"""renew: the worker lives. One statement for all of its leases, and an answer for each."""

from __future__ import annotations

from taskmill.model.clock import boottime
from taskmill.model.ids import new_id
from taskmill.model.state import Status, Verb
from taskmill.model.task import Renewal
from taskmill.tasks.cancel import cancel
from taskmill.tasks.renew import renew_leases
from tests.tasks.kit import ANN, DONE, FAILED, LEASE, RELEASED, World


async def test_a_lease_is_prolonged_on_the_databases_clock(world: World) -> None:
    """check_at is the lease from now; the worker's own deadline counts from before the call."""
    [run] = await world.running()
    await world.age(run.id, 20)
    sent = boottime()
    answer = await renew_leases(world.mill, [Renewal(run.id, run.fence)])
    assert answer.held == {(run.id, 1)}
    assert sent + LEASE <= answer.deadline <= boottime() + LEASE
    assert LEASE - 5 < await world.due_in(run.id) <= LEASE


async def test_each_lease_is_in_exactly_one_set(world: World) -> None:
    """held, cancelled or lost: ended, given back, claimed by another, gone."""
    held, asked, done, given, taken = await world.running(n=5)
    await cancel(world.mill, asked.id, ANN)
    await world.settle((done, DONE), (given, RELEASED), (taken, FAILED))
    await world.again(taken.id)
    ghost = new_id()
    leases = [Renewal(r.id, r.fence) for r in (taken, held, given, asked, done)] + [Renewal(ghost, 1)]
    answer = await renew_leases(world.mill, leases)
    assert answer.held == {(held.id, 1)}
    assert answer.cancelled == {(asked.id, 1)}
    assert answer.lost == {(done.id, 1), (given.id, 1), (taken.id, 1), (ghost, 1)}


async def test_a_stale_renewal_prolongs_nothing(world: World) -> None:
    """The fence has grown: the other worker's lease is as it was, its progress too."""
    [old] = await world.running()
    await world.settle((old, FAILED))
    newer = await world.again(old.id)
    before = await world.row(old.id)
    await renew_leases(world.mill, [Renewal(old.id, old.fence, progress=0.9)])
    assert await world.row(old.id) == before
    both = await renew_leases(world.mill, [Renewal(old.id, old.fence), Renewal(newer.id, newer.fence)])
    assert both.lost == {(old.id, 1)}
    assert both.held == {(old.id, 2)}


async def test_a_late_renewal_saves_a_run_that_nobody_took(world: World) -> None:
    """Accepted on fence and state, never on time: the lease had run out."""
    [run] = await world.running()
    await world.age(run.id, 3600)
    assert (await renew_leases(world.mill, [Renewal(run.id, 1)])).held == {(run.id, 1)}
    assert await world.due_in(run.id) > 0


async def test_progress_rides_along_and_is_journalled(world: World) -> None:
    """Progress is written with the lease, journalled as PROCESSING → PROCESSING, and kept by a renewal without one."""
    loud, quiet = await world.running(n=2)
    await renew_leases(world.mill, [Renewal(loud.id, 1, 0.25), Renewal(quiet.id, 1)])
    assert [r.progress for r in await world.rows(loud.id, quiet.id)] == [0.25, None]
    [(_, [change])] = await world.journal(Verb.RENEW)
    assert (change.task, change.source, change.target) == (loud.id, Status.PROCESSING, Status.PROCESSING)
    await renew_leases(world.mill, [Renewal(loud.id, 1)])
    assert (await world.row(loud.id)).progress == 0.25
    assert len(await world.journal(Verb.RENEW)) == 1
    await world.exact()


async def test_a_renewal_that_changes_nothing_still_counts(world: World) -> None:
    """Twice in the same microsecond or not: matched rows are asked for, never changed ones."""
    runs = await world.running(n=3)
    leases = [Renewal(r.id, r.fence) for r in runs]
    for _ in range(3):
        assert len((await renew_leases(world.mill, leases)).held) == 3
