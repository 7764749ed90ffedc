"""The worker: it claims tasks for its free slots, hands them to runners, keeps their leases, settles their outcomes.

It never imports user code, so a handler that blocks, leaks or crashes touches neither leases nor other results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Final

import structlog

from taskmill.errors import StartError, TaskmillError
from taskmill.model.backoff import loop_delay
from taskmill.model.clock import boottime
from taskmill.model.task import Claimed, Registry
from taskmill.runtime.loop import backoff_of, wait_for_event
from taskmill.runtime.probes import Probes
from taskmill.worker.child import Child
from taskmill.worker.dispatch import Dispatch
from taskmill.worker.inline import inline
from taskmill.worker.leases import Leases
from taskmill.worker.options import WorkerOptions
from taskmill.worker.relay import Relay
from taskmill.worker.run import Book, Run
from taskmill.worker.runners import MakeLink, Runners
from taskmill.worker.settler import Settler
from taskmill.worker.source import Source

CLAIM_WAIT: Final = 5.0
"""Seconds that a claim waits for work: a bound behind the wake-ups."""

log = structlog.get_logger(__name__)


class Supervisor:
    """A Service. `run` returns after `stop`, and raises when the worker cannot go on (ConfigError: the app).

    `stop` lets handlers finish for `drain` seconds; a second `stop` ends that wait. A crash leaves leases, which run
    out, and no runner: they end with their supervisor.
    """

    name = "worker"

    def __init__(
        self,
        source: Source,
        options: WorkerOptions,
        *,
        rng: Random | None = None,
        link: MakeLink | None = None,
        probes: Probes | None = None,
    ) -> None:
        self._source = source
        self._options = options
        self._rng = rng or Random()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._claim: asyncio.Task[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.ready = asyncio.Event()
        """The app is loaded, the worker is registered."""
        self.book = Book(options.concurrency, self._changed)
        self._settler = Settler(
            source, self._rng, left=self._left, expired=self._expired, closed=self._closed
        )
        self._probes = probes or Probes()
        self._relay = Relay(source, self.book, self._probes.logs_dropped.inc, expired=self._expired)
        self._probes.tasks_active.set_function(lambda: len(self.book.runs))
        self._probes.worker_slots.set(options.concurrency)
        self._dispatch = Dispatch(options, self.book, self._settler.put, self._relay.heard, self._ran)
        self.runners = Runners(options, link or _links(options), self._dispatch, self._rng, self._changed)
        self._dispatch.runners = self.runners
        self._leases = Leases(
            source,
            options.lease,
            self.book,
            self._rng,
            lost=self._dispatch.lose,
            cancelled=self._dispatch.cancel,
            fenced=self._dispatch.fence,
        )

    @property
    def registry(self) -> Registry:
        return self.runners.registry

    def stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        try:
            if await self._until_stop(self._start()):
                self.ready.set()
                await self._serve()
        except BaseException:
            self._hurry.set()
            raise
        finally:
            self._stopping.set()
            await self._shut_down()

    async def _start(self) -> None:
        registry = await self.runners.start()
        if not registry.handlers:
            raise StartError(f"app {self._options.app!r} registers no handler")
        await self._source.start(registry)

    async def _until_stop(self, work: Coroutine[Any, Any, None]) -> bool:
        """Does it, unless `stop` comes first; whether it was done."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            return False
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.wait((task, stop))

    async def _serve(self) -> None:
        """Until `stop`; a loop that dies is raised."""
        self._claim = asyncio.create_task(self._claim_loop(), name="claim")
        self._loops = [
            asyncio.create_task(self._leases.run(), name="renew"),
            asyncio.create_task(self._leases.watch(), name="fence"),
            asyncio.create_task(self._cancel_loop(), name="cancels"),
            asyncio.create_task(self._relay.run(), name="logs"),
        ]
        stop = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait(
                (stop, self._claim, *self._loops), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stop.cancel()
        for task in done - {stop}:
            if task is not self._claim or not self._stopping.is_set():
                task.result()

    # -- loops -------------------------------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._changed.clear()
            room = self._room()
            if room is None:
                await wait_for_event(self._changed, 1.0)
                continue
            try:
                batch = await self._source.claim(self.book.free, suspects=room, wait=CLAIM_WAIT)
            except Exception as error:
                failures += 1
                if failures == 1:
                    log.warning("claim is not possible now", error=str(error), exc_info=_unexpected(error))
                await wait_for_event(self._stopping, loop_delay(failures, self._rng, backoff_of(error)))
                continue
            if failures:
                log.info("claim works again", failures=failures)
                failures = 0
            self._take(batch)

    def _room(self) -> int | None:
        """How many suspects may come; None when nothing can be taken now."""
        if self.book.free < 1 or not self.runners.usable:
            return None
        return max(0, max(1, self._options.processes) - self.book.suspects)

    def _take(self, batch: list[Claimed]) -> None:
        live = [claimed for claimed in batch if not self._leases.over(claimed.deadline)]
        if len(live) < len(batch):  # this process was paused while it claimed: rescue has them by now
            log.warning("claimed tasks came too late to run them", tasks=len(batch) - len(live))
        batch = live
        if self._stopping.is_set():
            self._dispatch.release(batch)
        else:
            self._dispatch.begin(batch)

    async def _cancel_loop(self) -> None:
        """A hint only: a renewal tells cancels too, so an error here costs time."""
        failures = 0
        while True:
            try:
                signals = await self._source.cancels()
                failures = 0
            except Exception as error:  # noqa: BLE001 (a hint: a renewal tells cancels too)
                failures += 1
                if failures == 1:
                    log.warning("cancel signals do not arrive now", error=str(error))
                await asyncio.sleep(loop_delay(failures, self._rng))
                continue
            for run in self.book.find(signals):
                self._dispatch.cancel(run)

    def _ran(self, type: str | None, seconds: float) -> None:
        self._probes.task_duration_seconds.labels(type=self._probes.type_label(type)).observe(seconds)

    def _left(self, run: Run) -> float:
        return self._leases.left(run)

    def _expired(self, run: Run) -> bool:
        return self._leases.expired(run)

    def _closed(self, run: Run) -> None:
        self._dispatch.close(run)
        if run.claimed.suspect:
            self._source.poke()  # a claim that waits may take suspects again

    # -- the end, in order ---------------------------------------------------------------------------------

    @property
    def longest_stop(self) -> float:
        return self._options.longest_stop

    async def _shut_down(self) -> None:
        """Every step, whatever an earlier one met. Leases are renewed until the last outcome is settled."""
        options = self._options
        await self._step("halt", self._end_claims(), options.lease)
        await self._step("drain", self._drained(), options.drain + 1)
        await self._step("flush", self._settler.flush(options.lease), options.lease + 1)
        await self._step("give back", self._give_back(), options.grace + 1)
        await self._step("stop runners", self.runners.stop(), 2 * options.stop_timeout + 1)
        await self._step("flush", self._settler.flush(options.lease), options.lease + 1)
        await self._step("logs", self._relay.flush(), 5.0)
        self._dispatch.stop()
        self._settler.stop()
        loops = [*self._loops, *([self._claim] if self._claim is not None else [])]
        for task in loops:
            task.cancel()
        if loops:
            await asyncio.wait(loops)
        await self._step("close", self._source.close(), 5.0)

    async def _step(self, name: str, work: Awaitable[object], timeout: float) -> None:
        try:
            await asyncio.wait_for(work, timeout)
        except TimeoutError:
            log.warning("a step of the stop took too long", step=name, seconds=timeout)
        except Exception as error:  # the other steps come all the same
            log.warning("a step of the stop failed", step=name, error=str(error), exc_info=_unexpected(error))

    async def _end_claims(self) -> None:
        """A claim in flight is awaited, never cancelled: what it brings must be given back."""
        if self._claim is not None:
            try:
                await self._source.halt()
            finally:
                await asyncio.wait((self._claim,))

    async def _drained(self) -> None:
        await self._wait_while(lambda: bool(self.book.runs) and not self._hurry.is_set(), self._options.drain)

    async def _wait_while(self, condition: Callable[[], bool], timeout: float) -> None:
        end = boottime() + timeout
        self._changed.clear()
        while condition() and (left := end - boottime()) > 0:
            await wait_for_event(self._changed, left)
            self._changed.clear()

    async def _give_back(self) -> None:
        """What still runs is told to stop; what does not within the grace ends with its runner, and then goes back.

        Not before: a task given back while its handler still runs would run twice at a time.
        """
        for run in list(self.book.runs.values()):
            self._dispatch.drain(run)
        await self._wait_while(
            lambda: any(run.executing for run in self.book.runs.values()), self._options.grace
        )


def _links(options: WorkerOptions) -> MakeLink:
    return inline() if options.processes == 0 else lambda heard, gone: Child(heard, gone, options.grace)


def _unexpected(error: Exception) -> Exception | None:
    """The error, for its traceback, when it is not one of those that outages bring."""
    return None if isinstance(error, TaskmillError) else error
