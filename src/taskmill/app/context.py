"""The `Context` that each run gets: what a handler can ask and do while it runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import math
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from taskmill.app.draft import draft, payload_text
from taskmill.model.ids import id_text
from taskmill.model.port import Draft
from taskmill.model.state import Priority
from taskmill.model.task import LOG_LINES_PER_RUN

TIMEOUT_LIMIT: Final = 366 * 86400
"""Seconds."""
LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "warn": "WARNING", "error": "ERROR"}


class RunPort(Protocol):
    """What a `Context` needs of the runner around it. Every method may be called from any thread."""

    def log(self, ctx: Context, level: str, message: str, fields: dict[str, Any]) -> None: ...
    def progress(self, ctx: Context, value: float) -> None: ...
    def submit(self, ctx: Context, task: Draft) -> concurrent.futures.Future[str]: ...


class Cancelled:
    """Whether the run shall stop. True or false; `await ctx.cancelled` and `ctx.cancelled.wait(5)` wait for it."""

    __slots__ = ("_event", "_lock", "_waiting", "reason", "seen")

    def __init__(self) -> None:
        self.reason: str | None = None
        """`cancel`, `timeout`, `drain` (the worker stops) or `lost` (the task's lease ran out)."""
        self.seen = False
        """The handler has looked, and found it true."""
        self._event: threading.Event | None = None
        self._waiting: list[concurrent.futures.Future[None]] = []
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        self.seen = self.seen or self.reason is not None
        return self.seen

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks a plain function until the run shall stop, at most `timeout` seconds; whether it shall."""
        with self._lock:
            self._event = event = self._event or threading.Event()
            if self.reason is not None:
                event.set()
        event.wait(timeout)
        return bool(self)

    def __await__(self) -> Generator[Any, None, None]:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._lock:
            if self.reason is None:
                self._waiting.append(future)
            else:
                future.set_result(None)
        yield from asyncio.wrap_future(future).__await__()
        self.seen = True

    def set(self, reason: str) -> None:
        """Only for the runner. The first reason stays."""
        with self._lock:
            self.reason = self.reason or reason
            waiting, self._waiting = self._waiting, []
            if self._event is not None:
                self._event.set()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(None)


class Context:
    """One run of a task. Every method may be called from any thread.

    Effects outside Taskmill happen at least once: give `task_id` as the idempotency key, or `fence`, which only grows.
    """

    __slots__ = (
        "_expires",
        "_id",
        "_lines",
        "_port",
        "attempt",
        "cancelled",
        "fence",
        "payload",
        "run",
        "type",
    )

    def __init__(
        self,
        port: RunPort,
        task_id: bytes,
        fence: int,
        attempt: int,
        *,
        type: str | None = None,
        payload: Any = None,
        timeout: float = math.inf,
        run: int = 0,
    ) -> None:
        self._port = port
        self._id = task_id
        self._expires = time.monotonic() + timeout
        self._lines = 0
        self.run = run
        self.fence = fence
        """Grows with each run of the task, in any worker."""
        self.attempt = attempt
        """1 on the first run."""
        self.type = type
        self.payload = payload
        self.cancelled = Cancelled()
        """An async handler is cancelled by itself; a plain function looks here and returns. While the worker stops, who
        has looked, or raises, has not finished: the task is given back, whatever it brings."""

    @property
    def task_id(self) -> str:
        """The task's id, a UUID, the same in each run."""
        return id_text(self._id)

    @property
    def remaining(self) -> float:
        """Seconds until the run's timeout."""
        return self._expires - time.monotonic()

    @property
    def deadline(self) -> datetime:
        """When the run's timeout ends it, in UTC (aware)."""
        return datetime.now(UTC) + timedelta(seconds=min(self.remaining, TIMEOUT_LIMIT))

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Adds a line to the task's log: at most 1,000 a run, later ones are dropped; long ones are cut.

        `level`: debug, info, warning or error (ValueError otherwise). A field that JSON does not have is logged as text.
        """
        name = LEVELS.get(level) or LEVELS.get(str(level).lower())
        if name is None:
            raise ValueError(f"unknown log level {level!r}: debug, info, warning or error")
        self._lines += 1
        if self._lines < LOG_LINES_PER_RUN:
            self._port.log(self, name, str(message), fields)
        elif self._lines == LOG_LINES_PER_RUN:
            text = f"{LOG_LINES_PER_RUN:,} lines were logged in this run: the rest is dropped"
            self._port.log(self, "WARNING", text, {})

    def progress(self, value: float) -> None:
        """Shows how far the run is: 0 to 1, clamped. NaN is a ValueError."""
        number = float(value)
        if math.isnan(number):
            raise ValueError("progress(nan): give a number between 0 and 1")
        self._port.progress(self, min(1.0, max(0.0, number)))

    async def submit(
        self,
        *,
        title: str,
        type: str | None = None,
        payload: Any = None,
        queue: str = "default",
        priority: Priority | str = Priority.NORMAL,
        scheduled_at: datetime | None = None,
        max_retries: int | None = None,
        description: str | None = None,
    ) -> str:
        """Submits a further task for the same user; its id, once it is recorded.

        ValueError says what is wrong with a value. Unavailable: it is not known to be recorded. A handler that runs
        again submits again.
        """
        text = payload_text(payload)
        task = draft(title, text, type, queue, priority, scheduled_at, max_retries, description)
        return await asyncio.wrap_future(self.hand_over(task))

    def submit_sync(
        self,
        *,
        title: str,
        type: str | None = None,
        payload: Any = None,
        queue: str = "default",
        priority: Priority | str = Priority.NORMAL,
        scheduled_at: datetime | None = None,
        max_retries: int | None = None,
        description: str | None = None,
    ) -> str:
        """`submit` for plain functions: it blocks, so an async handler may not call it (RuntimeError)."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            text = payload_text(payload)
            task = draft(title, text, type, queue, priority, scheduled_at, max_retries, description)
            return self.hand_over(task).result()
        raise RuntimeError("submit_sync would block the event loop: use `await ctx.submit(...)`")

    def hand_over(self, task: Draft) -> concurrent.futures.Future[str]:
        """A checked task, to the runner: `submit` of handlers comes here when it is called in a run."""
        return self._port.submit(self, task)


_current: Final[contextvars.ContextVar[Context | None]] = contextvars.ContextVar("taskmill_run", default=None)


def current_run() -> Context | None:
    """The run in whose handler the caller is; None outside, and in threads that a handler started by itself."""
    return _current.get()


@contextmanager
def entered(ctx: Context) -> Iterator[None]:
    """For who runs a handler: inside, `current_run()` is `ctx`."""
    token = _current.set(ctx)
    try:
        yield
    finally:
        _current.reset(token)
