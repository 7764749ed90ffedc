"""The scheduler as a service: its jobs come by themselves, and what it measures is what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from taskmill.model.ids import new_id
from taskmill.model.state import Priority, Status
from taskmill.runtime.probes import LABEL_LIMIT
from taskmill.sql import schema
from taskmill.tasks import workers
from taskmill.upkeep.fold import fold_journal
from taskmill.upkeep.leader import Leadership
from taskmill.upkeep.measure import measure, report
from taskmill.upkeep.options import UpkeepOptions
from taskmill.upkeep.retain import note_retained
from taskmill.upkeep.scheduler import Scheduler
from tests.support import wait_until
from tests.tasks.kit import DONE, FAILED, World, new

QUICK = UpkeepOptions(poll=0.05, rescue=0.05, fold=0.02, leader_ttl=0.6)


@asynccontextmanager
async def working(*schedulers: Scheduler) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(s.run()) for s in schedulers]
    try:
        yield
    finally:
        for scheduler in schedulers:
            scheduler.stop()
        await asyncio.gather(*tasks)


async def seen(world: World, *queues: str) -> bytes:
    boot = new_id()
    await world.db.write(
        lambda c: workers.register(
            c, boot, name="n", host="h", queues=queues, types=["T"], slots=1, version="0"
        )
    )
    return boot


async def test_two_schedulers_do_all_there_is_to_do_once(world: World) -> None:
    """Due, lost and unfolded: promoted, rescued and folded by themselves, each once, with two schedulers running."""
    due, lost = await world.running(n=2)
    await world.settle((due, FAILED))
    await world.age(lost.id, 31)
    schedulers = [Scheduler(world.mill, QUICK) for _ in range(2)]
    async with working(*schedulers):
        await wait_until(lambda: any(s.leadership.held for s in schedulers))

        async def done() -> bool:
            # None for a moment: a short term, a busy machine.
            assert sum(s.leadership.held for s in schedulers) <= 1
            rows = await world.rows(due.id, lost.id)
            return all(r.status is Status.QUEUED for r in rows) and not await unfolded(world)

        await wait_until(done)
    assert [v for v, *_ in await world.steps(lost.id)] == ["submit", "claim", "rescue", "promote"]
    await world.exact()


async def unfolded(world: World) -> int:
    return sum(not r.folded for r in await world.table(schema.journal))


async def test_a_scheduler_that_stops_lets_the_next_lead_at_once(world: World) -> None:
    """It resigns: the other need not wait for the end of a long term."""
    slow = replace(QUICK, leader_ttl=3.0)
    first, second = Scheduler(world.mill, slow), Scheduler(world.mill, slow)
    async with working(first):
        await wait_until(lambda: first.leadership.held)
    async with working(second):
        await wait_until(lambda: second.leadership.held, timeout=2.5)


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_retention_comes_when_its_hour_has_come_and_once(world: World) -> None:
    """Not at a first start in the middle of the day; batch after batch until nothing is left, and not again that day."""

    async def old() -> bytes:
        [run] = await world.running()
        await world.settle((run, DONE))
        await world.age(run.id, 86400 * 31)
        return run.id

    scheduler = Scheduler(world.mill, replace(QUICK, batch=2))
    tasks = [await old() for _ in range(3)]
    await scheduler._retain()
    assert len(await world.rows(*tasks)) == 3
    today = scheduler._retained
    assert today is not None
    await world.db.write(lambda c: note_retained(c, today - timedelta(days=1)))
    missed = Scheduler(world.mill, replace(QUICK, batch=2))
    missed._low = 7
    async with working(missed):
        await wait_until(lambda: missed._retained == today)
    assert await world.rows() == []
    assert missed._low == 0
    later = await old()
    for late in (missed, Scheduler(world.mill, QUICK)):
        await late._retain()
    assert (await world.row(later)).status is Status.COMPLETED


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_the_journal_is_trimmed_by_itself(world: World) -> None:
    """Batch after batch, down to the window."""
    for _ in range(6):
        await world.submit()
    await fold_journal(world.mill, 100)
    newest = [r.seq for r in await world.table(schema.journal)][-2:]
    async with working(Scheduler(world.mill, replace(QUICK, batch=1, journal_rows=2))):

        async def trimmed() -> bool:
            return [r.seq for r in await world.table(schema.journal)] == newest

        await wait_until(trimmed)
    await world.exact()


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_queue_health_is_reported_by_itself(world: World) -> None:
    """As a log line and as metrics."""
    await world.submit(n=3)
    value = world.mill.probes.registry.get_sample_value
    with capture_logs() as logs:
        async with working(Scheduler(world.mill, replace(QUICK, measure=0.05, report=0.1))):
            await wait_until(lambda: any(line.get("queued") == 3 for line in logs))
    assert value("queue_size", {"queue": "default", "priority": "NORMAL"}) == 3


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_failures_and_fires_are_counted_from_zero(world: World) -> None:
    """Each loop and each outcome has its series before the first time, so that a rate sees the first one."""
    scheduler = Scheduler(world.mill, QUICK)
    value = world.mill.probes.registry.get_sample_value
    async with working(scheduler):
        await wait_until(lambda: value("loop_failures_total", {"loop": "measure"}) == 0)
    assert value("schedule_fires_total", {"outcome": "MISSED"}) == 0


async def test_who_does_not_lead_measures_nothing(world: World) -> None:
    """The gauges of the whole installation have no value before the first lead, and none after the last."""
    await world.submit()
    value = world.mill.probes.registry.get_sample_value
    assert value("workers_live") is None
    scheduler = Scheduler(world.mill, replace(QUICK, measure=0.05))
    async with working(scheduler):
        await wait_until(lambda: value("journal_lag_rows") is not None)
        assert value("scheduler_leading") == 1
        scheduler.leadership = Leadership(world.mill.db, new_id(), 60)
        await wait_until(lambda: value("workers_live") is None)
        size = value("queue_size", {"queue": "default", "priority": "NORMAL"})
        assert (size, value("journal_lag_rows")) == (None, None)
        assert value("scheduler_leading") == 0


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
async def test_a_thousand_queues_share_a_bounded_number_of_series(world: World) -> None:
    """Beyond the limit they are one: their sizes added up, and the age of the oldest of all of them."""
    rows = await world.submit(*(new(queue=f"q{n:03}") for n in range(1000)))
    await world.age(rows[500].id, 500)
    await measure(world.mill)
    probes = world.mill.probes
    [sizes], [ages] = probes.queue_size.collect(), probes.queue_oldest_seconds.collect()
    assert len({s.labels["queue"] for s in sizes.samples}) == LABEL_LIMIT + 1
    assert sum(s.value for s in sizes.samples) == 1000
    assert len(ages.samples) == LABEL_LIMIT + 1
    assert max(s.value for s in ages.samples) > 499


async def test_the_gauges_are_exact(world: World) -> None:
    """Sizes by queue and priority from counts and journal, the oldest age, the journal's lag, live workers."""
    await world.submit(new(), new(), new(priority=Priority.HIGH), new(queue="mail"))
    await fold_journal(world.mill, 10)
    [row] = await world.submit(new(queue="mail"))
    await world.age(row.id, 500)
    await seen(world, "default")
    health = await measure(world.mill)
    assert health.sizes == {
        ("default", Priority.NORMAL): 2,
        ("default", Priority.HIGH): 1,
        ("mail", Priority.NORMAL): 2,
    }
    assert 499 < health.oldest["mail"] < 600
    value = world.mill.probes.registry.get_sample_value
    assert value("queue_size", {"queue": "mail", "priority": "NORMAL"}) == 2
    assert value("queue_size", {"queue": "default", "priority": "LOW"}) == 0
    assert value("queue_size", {"queue": "mail", "priority": "LOW"}) is None
    assert value("journal_lag_rows") == 1
    assert value("workers_live") == 1
    with capture_logs() as logs:
        report(health)
    assert logs[0]["queued"] == 5


async def test_a_worker_is_known_while_it_is_seen(world: World) -> None:
    """Its types and queues count until it leaves or was not seen for its time to live; then its row can go."""
    boot = await seen(world, "default", "mail")
    again = await seen(world, "default")
    read = world.db.read
    assert await read(lambda c: workers.queues_of_workers(c, 60.0)) == {"default", "mail"}
    assert await read(lambda c: workers.known_types(c, 60.0)) == {("default", "T"), ("mail", "T")}
    await world.db.write(lambda c: workers.leave(c, boot))
    assert await read(lambda c: workers.count_live(c, 60.0)) == 1
    assert await read(lambda c: workers.count_live(c, -1.0)) == 0
    await world.db.write(
        lambda c: workers.register(c, again, name="n", host="h", queues=[], types=[], slots=1, version="0")
    )
    assert await read(lambda c: workers.count_live(c, 60.0)) == 1
    assert await world.db.write(lambda c: workers.forget_dead(c, 60.0)) == 0
    assert await world.db.write(lambda c: workers.forget_dead(c, -1.0)) == 1
