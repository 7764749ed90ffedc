"""Outcomes on their way to the record: batches that form by themselves, at most two at a time.

A buffered outcome keeps its lease and its slot, so the buffer is bounded by the slots, and full means: no claim.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

import structlog

from taskmill.errors import BadUserInput, PayloadTooLarge, Unavailable
from taskmill.model.backoff import loop_delay
from taskmill.model.task import Ended, Outcome
from taskmill.worker.run import Run
from taskmill.worker.source import Source

BATCH: Final = 500
LANES: Final = 2
ENDING: Final = 5.0
"""Seconds for a settle that is cancelled to close its connection."""
REFUSALS: Final = 8
"""Settles of one outcome, alone, that may fail for a reason that is no outage, until the run is given up: over ten
seconds and more."""

log = structlog.get_logger(__name__)


class Settler:
    """`closed(run)` is called when a run was settled, or is given up: a stale one, or one that cannot be recorded.

    `expired(run)`: whether its lease has run out by now; such a run is lost, its outcome is never sent. `left(run)`: the
    seconds until then; a settle that is still on its way is ended at that time, for it would be sent again.
    """

    def __init__(
        self,
        source: Source,
        rng: Random,
        *,
        left: Callable[[Run], float],
        expired: Callable[[Run], bool],
        closed: Callable[[Run], None],
    ) -> None:
        self._source = source
        self._rng = rng
        self._seconds_left = left
        self._expired = expired
        self._closed = closed
        self._buffer: deque[Run] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._resting: dict[Run, asyncio.TimerHandle] = {}
        self._kicked = False
        self._outages = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.settled = 0
        self.stale = 0

    def put(self, run: Run) -> None:
        """Its outcome leaves with all others of this turn of the loop, or when a lane is free."""
        self._buffer.append(run)
        self._idle.clear()
        if not self._kicked:
            self._kicked = True
            asyncio.get_running_loop().call_soon(self._kick)

    async def flush(self, timeout: float) -> bool:
        """Waits until all outcomes are settled, at most `timeout` seconds; whether they are."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Gives up what is in flight. After `flush`."""
        for lane in self._lanes:
            lane.cancel()
        for timer in self._resting.values():
            timer.cancel()

    def _kick(self) -> None:
        self._kicked = False
        while self._buffer and len(self._lanes) < (1 if self._outages else LANES):
            batch = self._take()
            if batch:
                lane = asyncio.get_running_loop().create_task(self._settle(batch))
                self._lanes.add(lane)
                lane.add_done_callback(self._left)
        if not self._buffer and not self._lanes and not self._resting:
            self._idle.set()

    def _take(self) -> list[Run]:
        batch: list[Run] = []
        while self._buffer and len(batch) < BATCH:
            run = self._buffer.popleft()
            if not run.closed and not self._expired(run):
                run.settling = True
                batch.append(run)
        return batch

    def _left(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if not lane.cancelled() and (error := lane.exception()) is not None:
            log.error("a settle ended unexpectedly", exc_info=error)
        self._kick()

    async def _settle(self, batch: list[Run]) -> None:
        try:
            answers = await self._send(batch)
        except Unavailable as error:
            await self._outage(batch, error)
            return
        except Exception as error:  # noqa: BLE001 (told apart and logged there)
            await self._refused(batch, error)
            return
        if self._outages:
            log.info("settle works again", failures=self._outages)
            self._outages = 0
        for run, recorded in zip(batch, answers, strict=True):
            self.settled += recorded
            if not recorded:
                self.stale += 1
                log.warning("a stale outcome was refused", task=run.claimed.id.hex(), fence=run.claimed.fence)
            self._closed(run)

    async def _send(self, batch: list[Run]) -> list[bool]:
        """The answers. Unavailable when the first of the leases was over before they came."""
        sending = asyncio.ensure_future(self._source.settle([(run.claimed, _outcome(run)) for run in batch]))
        try:
            while not sending.done():
                left = min(self._seconds_left(run) for run in batch)  # renewals make it longer
                if left <= 0:
                    break
                await asyncio.wait((sending,), timeout=left)
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait((sending,), timeout=ENDING)
        if not sending.done() or sending.cancelled():
            raise Unavailable("the record did not answer while the leases held")
        return sending.result()

    async def _outage(self, batch: list[Run], error: Exception) -> None:
        """Again, as long as the leases hold. The runs stay in the buffer meanwhile, where renewals may lose them."""
        self._outages += 1
        if self._outages == 1:
            log.warning("settle is not possible now, outcomes wait", outcomes=len(batch), error=str(error))
        self._return(batch)
        # The nearer the end of a lease, the sooner: an outage that is over before it must cost nothing.
        near = max(0.05, min(self._seconds_left(run) for run in batch) / 4)
        await asyncio.sleep(min(loop_delay(self._outages, self._rng), 2.0, near))

    async def _refused(self, batch: list[Run], error: Exception) -> None:
        """Not an outage: one outcome of the batch may be the reason. Each goes alone. One that cannot be recorded as it
        is, is replaced; after any other error it is sent again, for what succeeded must not fail by our own fault."""
        if len(batch) > 1:
            for run in batch:
                if not self._expired(run):
                    await self._settle([run])
            return
        run = batch[0]
        run.failures += 1
        log.error(
            "an outcome was refused",
            task=run.claimed.id.hex(),
            tries=run.failures,
            error=str(error),
            exc_info=error if run.failures == 1 else None,
        )
        if run.failures >= REFUSALS:
            self._closed(run)  # its lease runs out, and rescue takes it
            return
        if isinstance(error, BadUserInput | PayloadTooLarge):
            run.outcome = Outcome(
                Ended.FAILED,
                error_type="RESULT_INVALID",
                message=f"its outcome could not be recorded ({type(error).__name__})",
            )
        # Beside the lanes: others go on meanwhile.
        run.settling = False
        delay = loop_delay(run.failures, self._rng)
        self._resting[run] = asyncio.get_running_loop().call_later(delay, self._rested, run)

    def _rested(self, run: Run) -> None:
        del self._resting[run]
        self._return([run])
        self._kick()

    def _return(self, batch: list[Run]) -> None:
        for run in reversed(batch):
            run.settling = False
            self._buffer.appendleft(run)


def _outcome(run: Run) -> Outcome:
    assert run.outcome is not None
    return run.outcome
