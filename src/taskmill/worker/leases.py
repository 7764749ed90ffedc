"""The leases of all runs, buffered outcomes included: renewed in one call, every third of a lease.

Progress rides on a renewal, at most once a second. A lease that could not be renewed for nine tenths of its length is
given up: SQL decides by its own clock when another worker may have the task, and the handler must have stopped by then.
Nine tenths, not less, so that an outage of half a lease costs nothing wherever it falls between two renewals.
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

GIVE_UP: Final = 0.1
"""Of a lease: what is left of it when its handler is told to stop."""
PROGRESS_EVERY: Final = 1.0
"""Seconds."""

log = structlog.get_logger(__name__)


class Leases:
    """`lost(run, why)` and `cancelled(run)` are called for what a renewal told."""

    def __init__(
        self,
        source: Source,
        lease: float,
        book: Book,
        rng: Random,
        *,
        lost: Callable[[Run, str], None],
        cancelled: Callable[[Run], None],
    ) -> None:
        self._source = source
        self._lease = lease
        self._book = book
        self._rng = rng
        self._lost = lost
        self._cancelled = cancelled
        self._failures = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        tick = min(PROGRESS_EVERY, self._lease / 12)
        due = boottime() + self._interval()
        while True:
            await asyncio.sleep(tick)
            self.give_up()
            now = boottime()
            everything = now >= due
            runs = [
                r for r in self._book.runs.values() if not r.closed and (everything or r.progress is not None)
            ]
            if everything:
                due = now + self._interval()
            if runs and not await self._renew(runs):
                due = boottime()

    def over(self, deadline: float) -> bool:
        """Whether a lease until then is as good as over."""
        return deadline - GIVE_UP * self._lease <= boottime()

    def expired(self, run: Run) -> bool:
        """Whether its lease is over. Then the run is lost."""
        if not self.over(run.deadline):
            return False
        self._lost(run, "it could not be renewed in time")
        return True

    def give_up(self) -> None:
        for run in [run for run in self._book.runs.values() if not run.closed and not run.settling]:
            self.expired(run)

    def _interval(self) -> float:
        return self._lease / 3 * self._rng.uniform(0.9, 1.0)

    async def _renew(self, runs: list[Run]) -> bool:
        renewals = []
        for run in runs:
            renewals.append(Renewal(run.claimed.id, run.claimed.fence, run.progress))
            run.progress = None
        try:
            renewed = await asyncio.wait_for(self._source.renew(renewals), self._lease / 3)
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
