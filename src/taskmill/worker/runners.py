"""The runners of a supervisor: spawned, watched, replaced.

`processes` of them share the runs. Beside them, runs that must be alone (isolated handlers, suspects) each get a
runner of their own; one that survived is kept warm for the next. A runner is replaced when it died, with backoff, or
when a handler that cannot be stopped sits in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Final, Protocol

import structlog

from taskmill.errors import ConfigError, StartError
from taskmill.model.backoff import loop_delay
from taskmill.model.clock import boottime
from taskmill.model.task import HandlerSpec, Registry
from taskmill.runner import messages
from taskmill.runtime.loop import wait_for_event
from taskmill.worker.options import WorkerOptions
from taskmill.worker.run import Run

STABLE: Final = 10.0
"""Seconds after which a runner counts as healthy, as one does that finished a run: its death starts the backoff anew.
A worker whose tasks crash now and then must not come to a halt."""

log = structlog.get_logger(__name__)


class Link(Protocol):
    """The process behind a runner: `Child`, or `Inline`."""

    @property
    def pid(self) -> int: ...
    def start(self, options: WorkerOptions, slots: int) -> None: ...
    def send(self, message: messages.Down) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


MakeLink = Callable[[Callable[[list[messages.Up]], None], Callable[[str], None]], Link]


class State(Enum):
    STARTING = 1
    READY = 2
    RETIRED = 3
    """Gets no new runs; ends with the last one that counts."""
    ENDING = 4
    GONE = 5


class Runner:
    """One runner and the runs that execute in it, by key."""

    def __init__(self, slots: int, *, solo: bool) -> None:
        self.slots = slots
        self.solo = solo
        self.state = State.STARTING
        self.runs: dict[int, Run] = {}
        self.waiting: list[Run] = []
        """Assigned before it was ready."""
        self.since = boottime()
        self.finished = False
        """It has brought a run to its end."""
        self.refusal: messages.Refused | None = None
        self.link: Link


class Watcher(Protocol):
    """What the supervisor does with the events of its runners."""

    def started(self, runner: Runner, run: Run) -> None:
        """The run may be sent: its runner is ready."""

    def heard(self, runner: Runner, batch: list[messages.Up]) -> None: ...

    def died(self, runner: Runner, runs: list[Run], status: str) -> None:
        """Its process is gone, with these runs; no message of it follows."""


class Runners:
    """`changed` is set when a runner came up or went."""

    def __init__(
        self, options: WorkerOptions, make: MakeLink, watcher: Watcher, rng: Random, changed: asyncio.Event
    ) -> None:
        self._options = options
        self._make = make
        self._watcher = watcher
        self._rng = rng
        self._all: set[Runner] = set()
        self._main: list[Runner] = []
        self._spare: list[Runner] = []
        self._failures = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self._stopping = False
        self._changed = changed
        self.first: asyncio.Future[Registry] = asyncio.get_running_loop().create_future()
        """The registry of the first runner that came up; or why none did."""
        self.first.add_done_callback(
            lambda first: first.cancelled() or first.exception()
        )  # seen, even if unasked
        self.registry = Registry()
        self.specs: dict[str | None, HandlerSpec] = {}
        self.threaded: frozenset[str | None] = frozenset()
        """Types whose handlers run in threads."""
        self._held_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether new runs can be taken now. False after a runner failed to start, for a backoff."""
        return boottime() >= self._held_until and any(r.state is State.READY for r in self._main)

    async def start(self) -> Registry:
        """Spawns the first runners. ConfigError: the app cannot be loaded; StartError: anything else."""
        for _ in range(max(1, self._options.processes)):
            self._spawn_main()
        try:
            return await asyncio.wait_for(asyncio.shield(self.first), self._options.start_timeout)
        except TimeoutError:
            seconds = f"{self._options.start_timeout:g} s"
            raise StartError(f"app {self._options.app!r} was not ready after {seconds}") from None

    def assign(self, run: Run) -> bool:
        """Gives the run a runner; False when there is none now."""
        if run.alone and self._options.processes:
            runner = self._spare.pop() if self._spare else self._spawn_solo()
        else:
            # One that still starts will do: the claim was on its way when the one before it went.
            ready = [runner for runner in self._main if runner.state is State.READY] or self._main
            runner = min(ready, key=_load) if ready else None
        if runner is None:
            return False
        runner.runs[run.key] = run
        run.runner, run.executing = runner, True
        if runner.state is State.READY:
            self._watcher.started(runner, run)
        else:
            runner.waiting.append(run)
        return True

    def leave(self, runner: Runner, run: Run) -> None:
        """The run does not execute any more."""
        runner.runs.pop(run.key, None)
        runner.finished = True
        self._failures = 0
        if runner.runs:
            self.settle_retired(runner)
        elif runner.state is State.RETIRED:
            self._end(runner)
        elif runner.solo and runner.state is State.READY:
            if len(self._spare) < max(1, self._options.processes) and not self._stopping:
                self._spare.append(runner)
            else:
                self._end(runner)

    def retire(self, runner: Runner) -> None:
        """A handler in it cannot be stopped: another runner takes its place, and it ends when its other runs have."""
        if not self._options.processes:
            return
        if runner.state is State.READY:
            runner.state = State.RETIRED
            log.warning("a runner is replaced: a handler in it cannot be stopped", pid=runner.link.pid)
            if runner in self._main:
                self._main.remove(runner)
                self._spawn_main()
        self.settle_retired(runner)  # also when it was retired before, for another run

    def settle_retired(self, runner: Runner) -> None:
        """Ends a retired runner once nothing that counts runs in it."""
        if runner.state is State.RETIRED and all(run.closed for run in runner.runs.values()):
            self.terminate(runner)
            if any(run.reason == messages.LOST for run in runner.runs.values()):
                runner.link.kill()  # another worker may have the task already

    def discard(self, runner: Runner) -> None:
        """Kills it now, with all that runs in it; another runner takes its place."""
        if not self._options.processes or runner.state is State.GONE:
            return
        runner.state = State.ENDING
        if runner in self._main:
            log.warning("a runner is killed: a handler in it does not stop", pid=runner.link.pid)
            self._main.remove(runner)
            if not self._stopping:
                self._spawn_main()
        runner.link.kill()

    def terminate(self, runner: Runner) -> None:
        """Ends it with all that runs in it: asks, and kills after the grace."""
        if runner.state is not State.GONE:
            runner.state = State.ENDING
            runner.link.terminate()

    async def stop(self) -> None:
        """Ends all of them, with their shutdown hooks; what is left after `stop_timeout` is killed."""
        self._stopping = True
        for timer in self._timers:
            timer.cancel()
        for runner in list(self._all):
            self._end(runner)
        if not await self._all_gone(self._options.stop_timeout):
            for runner in list(self._all):
                log.warning("a runner did not stop in time: it is killed", pid=runner.link.pid)
                runner.link.kill()
            await self._all_gone(self._options.stop_timeout)

    async def _all_gone(self, timeout: float) -> bool:
        end = boottime() + timeout
        while self._all and (left := end - boottime()) > 0:
            self._changed.clear()
            await wait_for_event(self._changed, left)
        return not self._all

    # -- spawn -------------------------------------------------------------------------------------------

    def _spawn_main(self) -> None:
        runner = self._spawn(max(1, self._options.concurrency), solo=False)
        if runner is not None:
            self._main.append(runner)

    def _spawn_solo(self) -> Runner | None:
        return self._spawn(1, solo=True)

    def _spawn(self, slots: int, *, solo: bool) -> Runner | None:
        runner = Runner(slots, solo=solo)
        runner.link = self._make(
            lambda batch: self._heard(runner, batch), lambda text: self._gone(runner, text)
        )
        try:
            runner.link.start(self._options, slots)
        except OSError as error:
            log.warning("a runner cannot be started", error=str(error))
            if solo:
                self._hold()  # its task goes back, and must not come again at once
            else:
                self._replace_later()
            return None
        self._all.add(runner)
        self._later(self._options.start_timeout, lambda: self._late(runner))
        return runner

    def _late(self, runner: Runner) -> None:
        if runner.state is State.STARTING:
            log.error("a runner was not ready in time: it is killed", pid=runner.link.pid)
            runner.link.kill()

    def _hold(self) -> None:
        """Takes no new runs for a backoff."""
        self._failures += 1
        self._held_until = boottime() + loop_delay(self._failures, self._rng)

    def _replace_later(self) -> None:
        self._failures += 1
        delay = loop_delay(self._failures, self._rng)
        log.info("a runner starts again", seconds=round(delay, 2), failures=self._failures)
        self._later(delay, self._spawn_main)

    def _later(self, delay: float, work: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            if not self._stopping:
                work()

        timer = asyncio.get_running_loop().call_later(delay, fire)
        self._timers.add(timer)

    def _end(self, runner: Runner) -> None:
        """Asks it to end; its shutdown hooks run."""
        if runner.state in (State.ENDING, State.GONE):
            return
        starting = runner.state is State.STARTING
        runner.state = State.ENDING
        if starting:
            runner.link.kill()
            return
        runner.link.send(messages.Stop(self._options.grace))
        if not self._stopping:
            self._later(self._options.stop_timeout, runner.link.kill)

    # -- events ------------------------------------------------------------------------------------------

    def _heard(self, runner: Runner, batch: list[messages.Up]) -> None:
        first = batch[0]
        if type(first) is messages.Hello:
            self._ready(runner, first)
            batch = batch[1:]
        elif type(first) is messages.Refused:
            runner.refusal = first
            return
        if batch:
            self._watcher.heard(runner, batch)

    def _ready(self, runner: Runner, hello: messages.Hello) -> None:
        self.registry = Registry(tuple(h.spec() for h in hello.handlers), tuple(hello.crons))
        self.specs = {spec.type: spec for spec in self.registry.handlers}
        self.threaded = frozenset(handler.type for handler in hello.handlers if handler.threaded)
        if runner.state is not State.STARTING:
            return
        runner.state = State.READY
        runner.since = boottime()
        if not self.first.done():
            self.first.set_result(self.registry)
        waiting, runner.waiting = runner.waiting, []
        for run in waiting:
            if run.key in runner.runs:
                self._watcher.started(runner, run)
        if runner.solo and not runner.runs:
            self._end(runner)
        self._changed.set()

    def _gone(self, runner: Runner, status: str) -> None:
        expected = runner.state is State.ENDING
        was_ready = runner.state is not State.STARTING
        runner.state = State.GONE
        self._all.discard(runner)
        if runner in self._spare:
            self._spare.remove(runner)
        runs, runner.runs = list(runner.runs.values()), {}
        self._watcher.died(runner, runs, status)
        if not expected and not self._stopping:
            self._explain(runner, status, was_ready=was_ready)
        if runner.solo and not was_ready and not expected:
            self._hold()
        if runner in self._main:
            self._main.remove(runner)
            if not self._stopping and self.first.done() and self.first.exception() is None:
                if runner.finished or (was_ready and boottime() - runner.since > STABLE):
                    self._failures = 0
                self._replace_later()
        self._changed.set()

    def _explain(self, runner: Runner, status: str, *, was_ready: bool) -> None:
        refusal = runner.refusal
        if self.first.done():
            reason = refusal.message if refusal is not None else status
            log.error("a runner ended", pid=runner.link.pid, reason=reason, ready=was_ready)
        elif refusal is not None:
            kind = ConfigError if refusal.code == ConfigError.code else StartError
            self.first.set_exception(kind(refusal.message))
        else:
            self.first.set_exception(
                StartError(f"app {self._options.app!r}: its runner ended while starting, with {status}")
            )


def _load(runner: Runner) -> int:
    return len(runner.runs)
