"""fold, trim and the leader row."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.ids import new_id
from taskmill.model.state import Priority, Status
from taskmill.sql import schema
from taskmill.sql.dialect import from_now
from taskmill.tasks.update import TaskChanges, update
from taskmill.upkeep import fold as fold_module
from taskmill.upkeep.fold import fold, fold_journal, journal_lag, trim_journal
from taskmill.upkeep.leader import Leadership, hold, vacate
from tests.tasks.kit import ANN, BOB, DONE, FAILED, World, new, numbers


async def folded(world: World) -> dict[tuple[str, int, int], int]:
    rows = await world.table(schema.counts)
    return {(r.queue, r.priority, r.status): r.n for r in rows if r.n}


async def test_rows_with_many_changes_are_fewer_a_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction is bounded by the changes in it: the rest is for the next one, and every count is right at the end."""
    monkeypatch.setattr(fold_module, "FIRST", 1)
    monkeypatch.setattr(fold_module, "CHANGES", 20)
    for _ in range(6):
        await world.submit(n=10)
    assert await fold_journal(world.mill, 500) == 500  # there may be more
    count, _ = await journal_lag(world.mill)
    assert count == 3
    assert await fold_journal(world.mill, 500) == 500
    assert (await journal_lag(world.mill))[0] == 0
    assert await fold_journal(world.mill, 500) == 0
    assert sum(row.n for row in await world.table(schema.counts)) == 60


async def test_the_journal_becomes_counts(world: World) -> None:
    """After a fold the counts alone are the recount, in every state and priority; a second fold changes nothing."""
    runs = await world.running(new(), new(priority=Priority.LOW), new(queue="mail"), new())
    await world.settle((runs[0], DONE), (runs[1], FAILED))
    [row] = await world.submit()
    await update(world.mill, row.id, ANN, TaskChanges(priority=Priority.CRITICAL))
    await world.exact()
    assert await fold_journal(world.mill, 500) == 5
    await world.exact()
    assert await folded(world) == {
        ("default", Priority.NORMAL, Status.COMPLETED): 1,
        ("default", Priority.LOW, Status.PENDING): 1,
        ("default", Priority.NORMAL, Status.PROCESSING): 1,
        ("mail", Priority.NORMAL, Status.PROCESSING): 1,
        ("default", Priority.CRITICAL, Status.QUEUED): 1,
    }
    assert await fold_journal(world.mill, 500) == 0
    await world.exact()


async def test_a_fold_takes_a_bounded_batch(world: World) -> None:
    """The oldest rows first, n at a time; the sum is exact in between."""
    for _ in range(5):
        await world.submit()
    assert [await fold_journal(world.mill, 2) for _ in range(4)] == [2, 2, 1, 0]
    await world.exact()


async def test_two_folds_at_once_fold_each_row_once(world: World) -> None:
    """Rows that another fold holds are passed over: nothing is counted twice, nothing is missed."""
    for _ in range(12):
        await world.submit(new(), new(user_id=BOB, queue="mail"))
    done = await asyncio.gather(*(fold_journal(world.mill, 4) for _ in range(6)))
    while await fold_journal(world.mill, 4):
        pass
    assert sum(done) <= 12
    assert sum((await folded(world)).values()) == 24
    await world.exact()


async def test_counts_are_exact_in_every_snapshot_while_writers_run(world: World) -> None:
    """Counts plus unfolded rows equal a recount of the tasks in the same snapshot, at any moment."""
    stop = asyncio.Event()

    async def write(n: int) -> None:
        for _ in range(6):
            runs = await world.running(n=3)
            await world.settle(*((r, DONE if n % 2 else FAILED) for r in runs))

    async def folds() -> None:
        while not stop.is_set():
            await fold_journal(world.mill, 3)
            await asyncio.sleep(0)

    async def look() -> int:
        looks = 0
        while not stop.is_set():
            counted, recounted = await world.db.snapshot(numbers)
            assert counted == recounted
            looks += 1
        return looks

    folding, looking = asyncio.create_task(folds()), asyncio.create_task(look())
    await asyncio.gather(*(write(n) for n in range(3)))
    stop.set()
    await folding
    assert await looking > 3
    await world.exact()


async def test_a_fold_that_fails_changes_nothing(world: World) -> None:
    """Marks and counts are one transaction."""
    await world.submit(n=3)

    class Stop(Exception):
        pass

    def work(c: Connection) -> None:
        assert fold(c, 10, world.db.kind) == 1
        raise Stop

    with pytest.raises(Stop):
        await world.db.write(work)
    assert await world.table(schema.counts) == []
    await world.exact()


async def test_the_lag_is_what_is_not_folded(world: World) -> None:
    """Rows and the age of the oldest; 0 when all is folded."""
    assert await journal_lag(world.mill) == (0, 0.0)
    await world.submit()
    await world.db.write(lambda c: c.execute(sa.update(schema.journal).values(at=from_now(-60.0))))
    rows, seconds = await journal_lag(world.mill)
    assert rows == 1
    assert 59 < seconds < 120


async def test_old_folded_rows_go_and_no_others(world: World) -> None:
    """Folded and older than the window: deleted, a batch at a time. Unfolded ones stay whatever their age."""
    for _ in range(6):
        await world.submit()
    await fold_journal(world.mill, 4)
    seqs = [r.seq for r in await world.table(schema.journal)]
    old = sa.update(schema.journal).where(schema.journal.c.seq != seqs[3])
    await world.db.write(lambda c: c.execute(old.values(at=from_now(-7200.0))))
    low = await trim_journal(world.mill, 0, age=3600, rows=1000, n=2)
    assert low is not None
    assert low == seqs[1]
    assert await trim_journal(world.mill, low, age=3600, rows=1000, n=2) == seqs[2]
    assert await trim_journal(world.mill, seqs[2], age=3600, rows=1000, n=2) is None
    assert [r.seq for r in await world.table(schema.journal)] == seqs[3:]
    await world.exact()


async def test_too_many_folded_rows_go_whatever_their_age(world: World) -> None:
    """More than the window's rows behind the newest: deleted."""
    for _ in range(6):
        await world.submit()
    await fold_journal(world.mill, 500)
    seqs = [r.seq for r in await world.table(schema.journal)]
    await trim_journal(world.mill, 0, age=3600, rows=2, n=100)
    assert [r.seq for r in await world.table(schema.journal)] == seqs[4:]
    await world.exact()


# ---- the leader ---------------------------------------------------------------------------------------------------


async def expire(world: World) -> None:
    await world.db.write(lambda c: c.execute(sa.update(schema.leader).values(expires_at=from_now(-1.0))))


async def test_one_holds_the_term_and_terms_grow(world: World) -> None:
    """The first takes term 1 and keeps it; another gets it when it ran out, with the next number."""
    one, two = new_id(), new_id()

    async def ask(who: bytes) -> int | None:
        return await world.db.write(lambda c: hold(c, who, 15.0))

    assert [await ask(one), await ask(two), await ask(one)] == [1, None, 1]
    await expire(world)
    assert [await ask(two), await ask(one)] == [2, None]


async def test_its_own_term_that_ran_out_is_a_new_one(world: World) -> None:
    """A leader that comes back late gets a higher term: what it did meanwhile was without one."""
    one = new_id()
    assert await world.db.write(lambda c: hold(c, one, 15.0)) == 1
    await expire(world)
    assert await world.db.write(lambda c: hold(c, one, 15.0)) == 2


async def test_many_asking_at_once_give_one_leader(world: World) -> None:
    """An empty table, and a term that ran out: one holder each time."""
    for term in (1, 2):
        leaders = [Leadership(world.db, new_id(), 15.0) for _ in range(5)]
        await asyncio.gather(*(leader.run_once() for leader in leaders))
        assert [leader.term for leader in leaders if leader.held] == [term]
        await expire(world)


async def test_a_resigned_term_is_free_at_once(world: World) -> None:
    """The next one need not wait for the lease."""
    one, two = (Leadership(world.db, new_id(), 15.0) for _ in range(2))
    await one.run_once()
    await one.resign()
    await asyncio.sleep(0.001)
    await two.run_once()
    assert (one.held, two.held) == (False, True)


async def test_a_leader_trusts_its_term_for_a_part_of_it_only(world: World) -> None:
    """At 0.8 of the term, on its own clock from before it asked, it concedes by itself."""
    one = Leadership(world.db, new_id(), 0.25)
    assert await one.run_once() < 0.25 * 0.8
    assert one.held
    await asyncio.sleep(0.21)
    assert not one.held
    [row] = await world.table(schema.leader)
    assert row.expires_at - await world.now() < timedelta(seconds=0.25)


async def test_a_vacated_term_is_taken_at_once(world: World) -> None:
    """Who knows that the leader is gone does not wait for its term, and the next term is higher."""
    gone, next_one = Leadership(world.db, new_id(), 15.0), Leadership(world.db, new_id(), 15.0)
    await gone.run_once()
    await next_one.run_once()
    assert not next_one.held
    await vacate(world.db)
    await next_one.run_once()
    assert next_one.held
    assert next_one.term == 2
