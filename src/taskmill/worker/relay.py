"""What handlers say besides their outcome: log lines, progress, further tasks. On its way from runners to the source."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from taskmill.errors import TaskmillError, Unavailable
from taskmill.model.clock import from_micros
from taskmill.model.ids import id_text
from taskmill.model.state import Priority
from taskmill.model.task import LogLine, NewTask
from taskmill.runner import messages
from taskmill.worker.run import Book, Run
from taskmill.worker.source import Source

LINES: Final = 10_000
"""Log lines that wait for the source. Later ones are dropped and counted."""
BATCH: Final = 500

log = structlog.get_logger(__name__)


class Relay:
    """`dropped(lines)` is told of log lines that found no room, here or in a runner. `expired(run)`: whether its lease has
    run out by now: nothing that such a run says is sent."""

    def __init__(
        self,
        source: Source,
        book: Book,
        dropped: Callable[[int], object] = lambda lines: None,
        *,
        expired: Callable[[Run], bool] = lambda run: False,
    ) -> None:
        self._source = source
        self._book = book
        self._expired = expired
        self._lines: deque[tuple[Run, LogLine]] = deque()
        self._arrived = asyncio.Event()
        self._submits: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._dropped = dropped

    def heard(self, batch: list[messages.Up]) -> None:
        for message in batch:
            if isinstance(message, messages.Dropped):
                self._dropped(message.lines)
            elif isinstance(message, messages.Logged | messages.Progress | messages.Submit):
                run = self._book.runs.get(message.run)
                if run is not None:
                    self._of_run(run, message)

    def _of_run(self, run: Run, message: messages.Logged | messages.Progress | messages.Submit) -> None:
        if isinstance(message, messages.Progress):
            run.progress = message.value
        elif isinstance(message, messages.Logged):
            self._log(run, message)
        else:
            task = asyncio.get_running_loop().create_task(self._submit(run, message))
            self._submits.add(task)
            task.add_done_callback(self._submits.discard)

    # -- log lines ---------------------------------------------------------------------------------------

    def _log(self, run: Run, line: messages.Logged) -> None:
        if len(self._lines) >= LINES:
            self._dropped(1)
            return
        task_id, fence = run.lease
        line_ = LogLine(task_id, fence, line.level, line.message, line.fields, from_micros(line.at))
        self._lines.append((run, line_))
        self._arrived.set()

    async def run(self) -> None:
        """Hands lines to the source, until it is cancelled. Lines that it does not take are dropped: a log is no record."""
        told = False
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            try:
                await self._write()
                told = False
            except Exception as error:  # noqa: BLE001 (no log line is worth a worker)
                if not told:
                    log.warning("log lines of handlers cannot be written now", error=str(error))
                told = True

    async def _write(self) -> None:
        while self._lines:
            taken = [self._lines.popleft() for _ in range(min(BATCH, len(self._lines)))]
            batch = [line for run, line in taken if not self._over(run)]
            if not batch:
                continue
            self._idle.clear()
            try:
                await asyncio.wait_for(self._source.log(batch), 10.0)
            except BaseException:
                self._dropped(len(batch))
                raise
            finally:
                self._idle.set()

    def _over(self, run: Run) -> bool:
        """Whether nothing may be sent for it: its lease is gone. What a settled run had said may be."""
        return run.lost or (not run.closed and self._expired(run))

    async def flush(self) -> None:
        """Hands over what arrived so far; with `run` it may write at the same time."""
        await self._write()
        await self._idle.wait()

    # -- further tasks -----------------------------------------------------------------------------------

    async def _submit(self, run: Run, message: messages.Submit) -> None:
        task = NewTask(
            user_id=run.claimed.user_id,
            title=message.title,
            payload=message.payload,
            description=message.description,
            type=message.type,
            queue=message.queue,
            priority=Priority(message.priority),
            scheduled_at=None if message.scheduled_at is None else from_micros(message.scheduled_at),
            max_retries=message.max_retries,
        )
        try:
            if self._over(run):
                raise Unavailable("The run has lost its lease: it submits nothing more.")
            ids = await asyncio.wait_for(self._source.submit([task], run.lease), 30.0)
            answer = messages.Answer(message.call, id_text(ids[0]))
        except TaskmillError as error:
            answer = messages.Answer(message.call, code=error.code, message=error.message)
        except TimeoutError:
            answer = messages.Answer(message.call, code="UNAVAILABLE", message="no answer in 30 s")
        except Exception:
            log.exception("a handler's submit failed")
            answer = messages.Answer(message.call, code="INTERNAL", message="the task could not be submitted")
        if run.runner is not None:
            run.runner.link.send(answer)
