"""The runner itself: jobs in, outcomes out. Async handlers run on its loop, plain functions in its threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from taskmill.app import Context, Handler, Taskmill
from taskmill.errors import BadUserInput, Unavailable
from taskmill.model.clock import micros
from taskmill.model.port import Draft
from taskmill.model.task import Ended, Outcome
from taskmill.runner import messages
from taskmill.runner.executor import execute, execute_blocking, failed, message_of, stopped
from taskmill.runner.text import log_fields, log_message
from taskmill.runtime.loop import wait_for_event

LINES_HELD: Final = 5_000
"""Log lines that wait while the supervisor does not read. Later ones are dropped and counted."""
SUBMITS: Final = 1_000
"""Submissions of handlers that wait for their answer. Later ones are refused as Unavailable."""
PROGRESS_EVERY: Final = 0.2
"""Seconds for which the progress of runs gathers: only the last value counts."""


class Core:
    """Runs jobs. It belongs to one event loop; `log`, `progress` and `submit` (the RunPort) take calls from any thread.

    `send` hands a message to the supervisor; `writable` tells whether it keeps up.
    """

    def __init__(
        self, app: Taskmill, slots: int, send: Callable[[messages.Up], None], writable: Callable[[], bool]
    ) -> None:
        self._app = app
        self._send = send
        self._writable = writable
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._pool = concurrent.futures.ThreadPoolExecutor(slots, thread_name_prefix="handler")
        self._runs: dict[int, Context] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._started: set[int] = set()
        self._calls: dict[int, concurrent.futures.Future[str]] = {}
        self._call = 0
        self._progress: dict[int, float] = {}
        self._progress_due = False
        self._lines: deque[messages.Logged] = deque()
        self._dropped = 0
        self._mail: deque[Callable[[], None]] = deque()
        self._mail_due = False
        self._idle: asyncio.Event | None = None

    # -- life --------------------------------------------------------------------------------------------

    async def start(self) -> messages.Hello:
        """Runs the startup hooks; what they raise comes through. ConfigError: a handler cannot be used."""
        self._app.check()
        for hook in self._app.startup:
            await _call(hook)
        return messages.Hello(
            [
                messages.Handler(h.type, h.spec.timeout, h.spec.max_retries, h.spec.isolated, not h.is_async)
                for h in self._app.handlers.values()
            ],
            list(self._app.crons),
        )

    async def stop(self, grace: float) -> list[str]:
        """Cancels what still runs, waits for it at most `grace` s, runs the shutdown hooks; what they failed with."""
        for run in list(self._runs):
            self._cancel(run, messages.DRAIN)
        if self._runs:
            self._idle = asyncio.Event()
            await wait_for_event(self._idle, grace)
        for call in self._calls.values():
            call.cancel()
        problems = []
        for hook in reversed(self._app.shutdown):
            try:
                await _call(hook)
            except Exception as error:  # noqa: BLE001 (the other hooks run all the same)
                problems.append(message_of(error))
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._flush_progress()
        self.resume()
        return problems

    @property
    def threads_left(self) -> bool:
        """Whether plain functions still run: nothing can stop them but the end of the process."""
        return len(self._runs) > len(self._tasks)

    def receive(self, batch: Sequence[messages.Down]) -> None:
        for message in batch:
            if type(message) is messages.Job:
                self._run(message)
            elif type(message) is messages.Cancel:
                self._cancel(message.run, message.reason)
            elif type(message) is messages.Answer:
                self._answer(message)

    # -- runs --------------------------------------------------------------------------------------------

    def _run(self, job: messages.Job) -> None:
        handler = self._app.handlers[job.type]
        ctx = Context(self, job.id, job.fence, job.attempt, type=job.type, timeout=job.timeout, run=job.run)
        self._runs[job.run] = ctx
        try:
            ctx.payload = json.loads(job.payload)
        except (ValueError, RecursionError) as error:
            self._done(ctx, failed(error, ctx))
            return
        if handler.is_async:
            self._tasks[job.run] = self._loop.create_task(self._run_async(handler, ctx))
        else:
            self._pool.submit(contextvars.copy_context().run, self._run_blocking, handler, ctx)

    async def _run_async(self, handler: Handler[..., Any, Any], ctx: Context) -> None:
        if ctx.cancelled.reason is not None:  # before its first step: see _cancel
            self._done(ctx, stopped(ctx.cancelled.reason))
            return
        self._started.add(ctx.run)
        self._done(ctx, await execute(handler, ctx))

    def _run_blocking(self, handler: Handler[..., Any, Any], ctx: Context) -> None:
        if ctx.cancelled.reason is not None:
            outcome = stopped(ctx.cancelled.reason)
        else:
            outcome = execute_blocking(handler, ctx)
        self._post(lambda: self._done(ctx, outcome))

    def _done(self, ctx: Context, outcome: Outcome) -> None:
        run = ctx.run
        del self._runs[run]
        self._tasks.pop(run, None)
        self._started.discard(run)
        self._progress.pop(run, None)
        if self._idle is not None and not self._runs:
            self._idle.set()
        if outcome.ended is Ended.SUCCEEDED:
            self._send(messages.Done(run, outcome.ended, outcome.result))
            return
        self._send(
            messages.Done(
                run,
                outcome.ended,
                outcome.result,
                outcome.error_type,
                outcome.message,
                outcome.traceback,
                outcome.retry,
                outcome.after,
            )
        )

    def _cancel(self, run: int, reason: str) -> None:
        ctx = self._runs.get(run)
        if ctx is None:
            return
        ctx.cancelled.set(reason)
        task = self._tasks.get(run)
        # A task that is cancelled before its first step never enters its own code, and would not answer.
        if task is not None and run in self._started:
            task.cancel()

    # -- RunPort: from any thread ------------------------------------------------------------------------

    def log(self, ctx: Context, level: str, message: str, fields: dict[str, Any]) -> None:
        line = messages.Logged(
            ctx.run, level, log_message(message), log_fields(fields), time.time_ns() // 1000
        )
        self._post(lambda: self._log(line))

    def progress(self, ctx: Context, value: float) -> None:
        self._progress[ctx.run] = value
        if not self._progress_due:
            self._progress_due = True
            self._post(lambda: self._loop.call_later(PROGRESS_EVERY, self._flush_progress))

    def submit(self, ctx: Context, task: Draft) -> concurrent.futures.Future[str]:
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._post(lambda: self._submit(ctx.run, task, future))
        return future

    def _post(self, work: Callable[[], object]) -> None:
        """Does it on the loop: at once when called there, else soon, with one wake-up for all that gathered."""
        if threading.get_ident() == self._thread:
            work()
            return
        self._mail.append(work)  # type: ignore[arg-type]
        if not self._mail_due:
            self._mail_due = True
            try:
                self._loop.call_soon_threadsafe(self._open_mail)
            except RuntimeError:
                self._mail.clear()  # the loop has ended: the supervisor is gone, nobody waits for this

    def _open_mail(self) -> None:
        self._mail_due = False
        while self._mail:
            self._mail.popleft()()

    # -- on the loop -------------------------------------------------------------------------------------

    def _log(self, line: messages.Logged) -> None:
        if self._writable() and not self._lines:
            self._send(line)
        elif len(self._lines) < LINES_HELD:
            self._lines.append(line)
        else:
            self._dropped += 1

    def resume(self) -> None:
        """The supervisor reads again: what was held goes out."""
        while self._lines:
            self._send(self._lines.popleft())
        if self._dropped:
            self._send(messages.Dropped(self._dropped))
            self._dropped = 0

    def _flush_progress(self) -> None:
        self._progress_due = False
        values, self._progress = self._progress, {}
        for run, value in values.items():
            if run in self._runs:
                self._send(messages.Progress(run, value))

    def _submit(self, run: int, task: Draft, future: concurrent.futures.Future[str]) -> None:
        if run not in self._runs:
            future.set_exception(
                Unavailable("the run of this handler has ended: nobody takes its tasks any more")
            )
            return
        if len(self._calls) >= SUBMITS:
            future.set_exception(
                Unavailable(f"{SUBMITS:,} submissions of this runner wait already: try again")
            )
            return
        self._call += 1
        self._calls[self._call] = future
        self._send(
            messages.Submit(
                self._call,
                run,
                task.title,
                task.payload,
                task.description,
                task.type,
                task.queue,
                int(task.priority),
                None if task.scheduled_at is None else micros(task.scheduled_at),
                task.max_retries,
            )
        )

    def _answer(self, answer: messages.Answer) -> None:
        future = self._calls.pop(answer.call, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if answer.id is not None:
            future.set_result(answer.id)
        else:
            kind = BadUserInput if answer.code == BadUserInput.code else Unavailable
            future.set_exception(kind(answer.message or "the task could not be submitted"))


async def _call(hook: Callable[[], Any]) -> None:
    value = hook()
    if inspect.isawaitable(value):
        await value
