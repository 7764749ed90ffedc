"""The leases of all runs, buffered outcomes included: renewed in one call, every quarter of a lease.

Progress rides on a renewal, at most once a second. The worker fences itself: four fifths of a lease after the last renewal
that succeeded was sent, its run is over here. SQL decides by its own clock when another worker may have the task, and the
handler must have stopped by then; what is left is for it to stop, and for clocks that do not run alike. A quarter, so
that an outage of half a lease costs nothing, wherever it falls between two renewals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

import structlog

from taskmill.errors import TaskmillError
from taskmill.model.clock import boottime
from taskmill.model.task import Renewal, Renewed
from taskmill.worker.run import Book, Run
from taskmill.worker.source import Source

FENCE: Final = 0.8
"""Of a lease, from before its last renewal (or its claim) was sent: then its run is stopped, and nothing is sent for it."""
LOOK: Final = 0.25
"""Seconds between two looks at the clock: it goes on while this process is stopped or the machine sleeps."""
PROGRESS_EVERY: Final = 1.0
"""Seconds."""

log = structlog.get_logger(__name__)


class Leases:
    """`lost(run, why)` and `cancelled(run)` are called for what a renewal told, `fenced(runs)` for those that no renewal
    has reached in time."""

    def __init__(
        self,
        source: Source,
        lease: float,
        book: Book,
        rng: Random,
        *,
        lost: Callable[[Run, str], None],
        cancelled: Callable[[Run], None],
        fenced: Callable[[list[Run]], None],
    ) -> None:
        self._source = source
        self._lease = lease
        self._book = book
        self._rng = rng
        self._lost = lost
        self._cancelled = cancelled
        self._fenced = fenced
        self._failures = 0

    async def run(self) -> None:
        """Renews, until it is cancelled."""
        tick = min(PROGRESS_EVERY, self._lease / 12)
        due = boottime() + self._interval()
        while True:
            await asyncio.sleep(max(0.0, min(tick, due - boottime())))
            self.give_up()
            now = boottime()
            everything = now >= due
            runs = [
                r
                for r in self._book.runs.values()
                if not r.closed and not self.over(r.deadline) and (everything or r.progress is not None)
            ]
            if everything:
                due = now + self._interval()
            if runs and not await self._renew(runs):
                due = min(due, boottime() + tick)

    async def watch(self) -> None:
        """Stops runs in time, whatever a renewal waits for. Until it is cancelled."""
        look = min(LOOK, self._lease / 20)
        while True:
            self.give_up()
            open_runs = [run for run in self._book.runs.values() if not run.closed and not run.settling]
            first = min((self.left(run) for run in open_runs), default=look)
            await asyncio.sleep(min(look, max(first, 0.001)))

    def left(self, run: Run) -> float:
        """Seconds until it is fenced."""
        return run.deadline - (1 - FENCE) * self._lease - boottime()

    def over(self, deadline: float) -> bool:
        """Whether a lease until then is as good as over."""
        return deadline - (1 - FENCE) * self._lease <= boottime()

    def expired(self, run: Run) -> bool:
        """Whether its lease is over. Then the run is lost."""
        if not self.over(run.deadline):
            return False
        self._fenced([run])
        return True

    def give_up(self) -> None:
        """Fences what is over. An outcome that is being sent is not stopped here: the settler bounds that by `left`."""
        runs = [run for run in self._book.runs.values() if not run.closed and not run.settling]
        over = [run for run in runs if self.over(run.deadline)]
        if over:
            self._fenced(over)

    def _interval(self) -> float:
        return self._lease / 4 * self._rng.uniform(0.9, 1.0)

    async def _renew(self, runs: list[Run]) -> bool:
        renewals = []
        for run in runs:
            renewals.append(Renewal(run.claimed.id, run.claimed.fence, run.progress))
            run.progress = None
        # Never longer than the first of them holds: what is sent later may prolong a lease that is given up here.
        patience = self._lease / (8 if self._failures else 4)
        patience = max(0.0, min(patience, *(self.left(run) for run in runs)))
        try:
            renewed = await asyncio.wait_for(self._source.renew(renewals), patience)
        except Exception as error:  # noqa: BLE001 (whatever it is, the old deadlines stand, and the runs go on)
            self._failed(error, len(runs))
            for run, renewal in zip(runs, renewals, strict=True):
                run.progress = renewal.progress if run.progress is None else run.progress
            return False
        if self._failures:
            log.info("renew works again", failures=self._failures)
            self._failures = 0
        self._apply(renewed)
        return True

    def _failed(self, error: Exception, leases: int) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning(
                "renew is not possible now",
                leases=leases,
                error=str(error) or type(error).__name__,
                exc_info=None if isinstance(error, TaskmillError | TimeoutError) else error,
            )

    def _apply(self, renewed: Renewed) -> None:
        for run in self._book.find(renewed.held):
            run.deadline = max(run.deadline, renewed.deadline)
        for run in self._book.find(renewed.cancelled):
            run.deadline = max(run.deadline, renewed.deadline)
            self._cancelled(run)
        for run in self._book.find(renewed.lost):
            if not run.settling:  # settled while the renewal was on its way: the answer to the settle tells
                self._lost(run, "another run has it, or it is finished")
