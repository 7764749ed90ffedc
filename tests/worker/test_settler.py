"""Outcomes on their way to the record."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from random import Random

import pytest

from taskmill.model.clock import boottime
from taskmill.model.task import Claimed, Ended, HandlerSpec, Outcome
from taskmill.worker import settler
from taskmill.worker.run import Book, Run
from taskmill.worker.settler import BATCH, REFUSALS, Settler
from tests.support import wait_until
from tests.worker.kit import FakeSource


class Desk:
    """A settler, and runs with their outcomes for it."""

    def __init__(self, source: FakeSource) -> None:
        self.source = source
        self.book = Book(10_000, asyncio.Event())
        self.over: set[int] = set()
        self.until: dict[int, float] = {}
        """Run → when its lease is over by `boottime()`, for those of which that is near."""
        self.settler = Settler(source, Random(1), left=self.left, expired=self.expired, closed=self.closed)

    def left(self, run: Run) -> float:
        return self.until.get(run.key, boottime() + 60) - boottime()

    def expired(self, run: Run) -> bool:
        run.closed = run.key in self.over
        return run.closed

    def closed(self, run: Run) -> None:
        run.closed = True
        self.book.leave(run)

    def put(self, *, expired: bool = False) -> Run:
        self.source.add("T")
        claimed: Claimed = dataclasses.replace(self.source.ready.pop(), fence=1)
        self.source.held[claimed.id] = claimed
        run = self.book.open(claimed, HandlerSpec("T"), threaded=False)
        run.outcome = Outcome(Ended.SUCCEEDED, result="1")
        if expired:
            self.over.add(run.key)
        self.settler.put(run)
        return run


@pytest.fixture
async def desk(source: FakeSource) -> Desk:
    return Desk(source)


async def test_an_outcome_whose_lease_is_over_is_never_sent(desk: Desk) -> None:
    """Another run may have the task; those beside it are settled."""
    late, fine = desk.put(expired=True), desk.put()
    assert await desk.settler.flush(5)
    assert [claimed.id for claimed, _ in desk.source.outcomes] == [fine.claimed.id]
    assert late.closed


async def test_one_turn_of_the_loop_is_one_batch(desk: Desk) -> None:
    """However many outcomes a frame brings, up to the bound."""
    for _ in range(BATCH + 20):
        desk.put()
    assert await desk.settler.flush(5)
    assert desk.source.batches == [BATCH, 20]
    assert not desk.book.runs


async def test_at_most_two_settles_are_in_flight(desk: Desk) -> None:
    """What comes meanwhile gathers into the next one."""
    desk.source.settle_gate = asyncio.Event()
    for n in range(5):
        desk.put()
        await wait_until(lambda n=n: len(desk.source.batches) == min(n + 1, 2))  # type: ignore[misc]
    assert desk.source.batches == [1, 1]
    assert not await desk.settler.flush(0.01)
    desk.source.settle_gate.set()
    assert await desk.settler.flush(5)
    assert desk.source.batches == [1, 1, 3]


async def test_an_outage_keeps_the_outcomes_in_line(desk: Desk) -> None:
    """They are sent again, and one that was lost meanwhile is left out."""
    desk.source.down = True
    runs = [desk.put() for _ in range(3)]
    await wait_until(lambda: desk.source.calls["settle"] >= 2)
    desk.over.add(runs[1].key)
    desk.source.down = False
    assert await desk.settler.flush(5)
    assert [claimed.id for claimed, _ in desk.source.outcomes] == [runs[0].claimed.id, runs[2].claimed.id]
    assert desk.settler.settled == 2


async def test_a_settle_on_its_way_ends_with_the_lease(desk: Desk) -> None:
    """The record does not answer: the outcome whose lease is over is not sent again, the one beside it is."""
    gate = desk.source.settle_gate = asyncio.Event()
    late, fine = desk.put(), desk.put()
    desk.until[late.key] = boottime() + 0.2
    await wait_until(lambda: desk.source.batches == [2])
    desk.over.add(late.key)
    await wait_until(lambda: desk.source.batches == [2, 1])
    assert desk.source.outcomes == []
    gate.set()
    assert await desk.settler.flush(5)
    assert [claimed.id for claimed, _ in desk.source.outcomes] == [fine.claimed.id]


# -- an outcome that is refused, which is no outage ---------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settler, "loop_delay", lambda failures, rng: 0.001)


def refuse(source: FakeSource, run: Run, times: int, error: Exception) -> None:
    """So many batches with the result of this run fail."""
    settle, left = source.settle, iter(range(times))

    async def refusing(batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        if any(c.id == run.claimed.id and o.result for c, o in batch) and next(left, None) is not None:
            raise error
        return await settle(batch)

    source.settle = refusing  # type: ignore[method-assign]


async def test_a_success_stays_one_after_an_error_that_is_not_its_fault(desk: Desk, at_once: None) -> None:
    """Whatever fails in between: it is sent again as it is."""
    run = desk.put()
    refuse(desk.source, run, REFUSALS - 1, RuntimeError("a mistake of ours"))
    assert await desk.settler.flush(20)
    assert [(c.id, o.ended) for c, o in desk.source.outcomes] == [(run.claimed.id, Ended.SUCCEEDED)]


async def test_what_can_never_be_recorded_is_given_up(desk: Desk, at_once: None) -> None:
    """After so many tries its slot is free, and rescue has the task; nothing false is recorded."""
    run = desk.put()
    refuse(desk.source, run, 10**6, RuntimeError("a mistake of ours"))
    assert await desk.settler.flush(20)
    assert (run.closed, run.failures, desk.source.outcomes) == (True, REFUSALS, [])


async def test_others_do_not_wait_for_what_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are lanes, resting for a minute: the one behind is settled."""
    monkeypatch.setattr(settler, "loop_delay", lambda failures, rng: 60.0)
    for _ in range(3):
        refuse(desk.source, desk.put(), 10**6, RuntimeError("a mistake of ours"))
    fine = desk.put()
    await wait_until(lambda: fine.closed)
    assert [c.id for c, _ in desk.source.outcomes] == [fine.claimed.id]
    desk.settler.stop()
