"""What happens to a run between claim and settle: begin → started → done, or stopped, or its runner died.

All of it is callbacks on the supervisor's loop: nothing here waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from taskmill.errors import Crashed, RunTimeout, UnknownType
from taskmill.model.clock import boottime
from taskmill.model.task import Claimed, Ended, HandlerSpec, Outcome
from taskmill.runner import messages
from taskmill.worker.options import WorkerOptions
from taskmill.worker.run import Book, Run
from taskmill.worker.runners import Runner, Runners

CANCEL_GRACE: Final = 10.0
"""Seconds for a plain function that runs alone to see `ctx.cancelled`; then its process is killed."""

CANCEL_TIME: Final = 0.25
"""Seconds for an async handler to see its cancellation when its lease is over already; then its process is killed."""

RELEASED: Final = Outcome(Ended.RELEASED)
CANCELLED: Final = Outcome(
    Ended.CANCELLED, error_type="CANCELLED", message="it was stopped because a cancel was requested"
)

log = structlog.get_logger(__name__)


class Dispatch:
    """`settle(run)` takes a run with its outcome; `report(messages)` gets what is no outcome; `ran(type, seconds)` is told
    of each run that was in a handler."""

    def __init__(
        self,
        options: WorkerOptions,
        book: Book,
        settle: Callable[[Run], None],
        report: Callable[[list[messages.Up]], None],
        ran: Callable[[str | None, float], None],
    ) -> None:
        self._options = options
        self._book = book
        self._settle = settle
        self._report = report
        self._ran = ran
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self.runners: Runners
        self.crashes = 0

    # -- begin -------------------------------------------------------------------------------------------

    def begin(self, batch: Sequence[Claimed]) -> None:
        specs = self.runners.specs
        for claimed in batch:
            spec = specs.get(claimed.type)
            if spec is None:
                run = self._book.open(claimed, HandlerSpec(claimed.type), threaded=False)
                self.finish(run, unknown_type(claimed.type, self.runners.registry.types))
                continue
            run = self._book.open(claimed, spec, threaded=claimed.type in self.runners.threaded)
            if not self.runners.assign(run):
                self.finish(run, RELEASED)  # every runner died meanwhile

    def release(self, batch: Sequence[Claimed]) -> None:
        """Gives tasks back that were not started."""
        for claimed in batch:
            self.finish(self._book.open(claimed, HandlerSpec(claimed.type), threaded=False), RELEASED)

    def started(self, runner: Runner, run: Run) -> None:
        """Sends the run to its runner; its time runs from here."""
        claimed = run.claimed
        timeout = run.spec.timeout or self._options.timeout
        run.sent = True
        run.began = boottime()
        run.expires = run.began + timeout
        if run.expires < self._alarm_at:
            self._set_alarm(run.expires)
        runner.link.send(
            messages.Job(
                run.key, claimed.id, claimed.fence, claimed.attempts, claimed.type, claimed.payload, timeout
            )
        )

    # -- end ---------------------------------------------------------------------------------------------

    def heard(self, runner: Runner, batch: list[messages.Up]) -> None:
        others: list[messages.Up] = []
        for message in batch:
            if type(message) is messages.Done:
                run = runner.runs.get(message.run)
                if run is not None:
                    self._done(runner, run, message)
            else:
                others.append(message)
        if others:
            self._report(others)

    def _done(self, runner: Runner, run: Run, done: messages.Done) -> None:
        run.executing = False
        self.runners.leave(runner, run)
        if run.closed:
            self._book.leave(run)
        elif done.ended is Ended.TIMEOUT:
            self.finish(run, self._timed_out(run))
        else:
            self.finish(run, done.outcome())

    def finish(self, run: Run, outcome: Outcome) -> None:
        """The run has its outcome. The first one stands: what comes later only frees the slot."""
        if run.closed or run.outcome is not None:
            return
        run.outcome = outcome
        run.expires = math.inf
        if run.sent:
            self._ran(run.claimed.type, boottime() - run.began)
        self._settle(run)

    def close(self, run: Run) -> None:
        """Nothing more will be written for it."""
        run.closed = True
        if not self._book.leave(run) and run.runner is not None:
            self.runners.settle_retired(run.runner)

    def died(self, runner: Runner, runs: list[Run], status: str) -> None:
        """A runner's end is the end of its runs. It cannot say which one ended it: see `model.decide`."""
        for run in runs:
            run.executing = False
            if run.closed:
                self._book.leave(run)
                continue
            self.finish(run, self._death(run, runner, status))

    def _death(self, run: Run, runner: Runner, status: str) -> Outcome:
        if not run.sent or run.reason == messages.DRAIN:
            return RELEASED
        if run.reason == messages.TIMEOUT:
            return self._timed_out(run)
        if run.reason == messages.CANCEL:
            return CANCELLED
        self.crashes += 1
        text = f"its runner process {runner.link.pid} died: {status}"
        return Outcome(Ended.CRASHED, error_type=Crashed.code, message=text)

    # -- stop --------------------------------------------------------------------------------------------

    def cancel(self, run: Run) -> None:
        """A client asked for it."""
        if self._stop(run, messages.CANCEL) and run.threaded and run.runner is not None and run.runner.solo:
            self._loop.call_later(CANCEL_GRACE, self._kill, run, run.runner)

    def drain(self, run: Run) -> None:
        """The worker stops, and does not wait any longer."""
        self._stop(run, messages.DRAIN)

    def lose(self, run: Run, why: str) -> None:
        """Its lease is gone: whatever it brings is not sent. A handler that cannot be stopped costs its runner."""
        if run.closed:
            return
        self._drop(run, why)
        self._force(run)
        self._book.leave(run)

    def fence(self, runs: Sequence[Run]) -> None:
        """Their leases could not be renewed in time: as `lose`, and what does not stop at once is killed with its runner,
        whatever else runs there: another worker may have the task in a moment."""
        runs = [run for run in runs if not run.closed]
        for run in runs:  # all of them first: what else runs in a runner that is killed is given back
            self._drop(run, "it could not be renewed in time")
        for run in runs:
            if run.executing and run.runner is not None:
                grace = min(self._options.grace, max(0.0, run.deadline - boottime()) / 2)
                if not run.threaded and not run.runner.solo:
                    grace = max(grace, CANCEL_TIME)
                self._loop.call_later(grace, self._end_fenced, run, run.runner)
            self._book.leave(run)

    def _end_fenced(self, run: Run, runner: Runner) -> None:
        if not run.executing:
            return
        for other in runner.runs.values():
            if not other.closed and other.reason is None:
                other.reason = messages.DRAIN  # spends no attempt
        self.runners.discard(runner)

    def _drop(self, run: Run, why: str) -> None:
        """From here on nothing is sent for it."""
        log.warning("a lease was lost", task=run.claimed.id.hex(), fence=run.claimed.fence, reason=why)
        run.closed, run.reason = True, messages.LOST
        if run.executing and not run.sent:  # its runner still starts, and must not begin it
            run.executing = False
            if run.runner is not None:
                run.runner.runs.pop(run.key, None)
        self._tell(run, messages.LOST)

    def _stop(self, run: Run, reason: str) -> bool:
        """Tells the handler, once; whether it was told."""
        if run.closed or run.outcome is not None or run.reason is not None:
            return False
        run.reason = reason
        if not run.sent:
            run.executing = False
            if run.runner is not None:
                self.runners.leave(run.runner, run)
            self.finish(run, CANCELLED if reason == messages.CANCEL else RELEASED)
            return False
        self._tell(run, reason)
        return True

    def _tell(self, run: Run, reason: str) -> None:
        if run.executing and run.sent and run.runner is not None:
            run.runner.link.send(messages.Cancel(run.key, reason))

    def _force(self, run: Run) -> None:
        """Makes sure that a run that was told to stop does: alone, its process ends; a thread costs its runner."""
        runner = run.runner
        if not run.executing or runner is None:
            return
        if runner.solo:
            self.runners.terminate(runner)
            if run.reason == messages.LOST:
                runner.link.kill()  # another worker may have the task already
        elif run.threaded and run.reason == messages.LOST:
            self.runners.retire(runner)
        else:
            self._loop.call_later(self._options.grace, self._stuck, run, runner)

    def _stuck(self, run: Run, runner: Runner) -> None:
        """An async handler that swallows its cancellation, or holds the loop; a plain one that does not look."""
        if run.executing:
            if run.reason == messages.TIMEOUT:
                self.finish(run, self._timed_out(run))
            self.runners.retire(runner)

    def _kill(self, run: Run, runner: Runner) -> None:
        if run.executing:
            self.runners.terminate(runner)

    # -- timeouts: one timer, for the earliest -------------------------------------------------------------

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.0, at - boottime()), self._ring)

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, math.inf
        now = boottime()
        for run in [run for run in self._book.runs.values() if run.expires <= now]:
            self._expire(run)
        following = min((run.expires for run in self._book.runs.values()), default=math.inf)
        if following < math.inf:
            self._set_alarm(following)

    def _expire(self, run: Run) -> None:
        run.expires = math.inf
        if run.closed or run.outcome is not None:
            return
        run.reason = messages.TIMEOUT
        self._tell(run, messages.TIMEOUT)
        if run.threaded and run.runner is not None and not run.runner.solo:
            self.finish(run, self._timed_out(run))
        self._force(run)

    def _timed_out(self, run: Run) -> Outcome:
        seconds = run.spec.timeout or self._options.timeout
        return Outcome(
            Ended.TIMEOUT,
            error_type=RunTimeout.code,
            message=f"TIMEOUT: the run took longer than {seconds:g} s",
        )

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()


def unknown_type(type: str | None, known: Sequence[str]) -> Outcome:
    """The outcome of a run for whose type there is no handler here. `known`: the types for which there is one."""
    what = f"Unknown task type {type!r}" if type else "No handler for tasks without a type"
    message = f"{what} (known: {', '.join(known) or 'none'})"
    return Outcome(Ended.UNKNOWN_TYPE, error_type=UnknownType.code, message=message)
