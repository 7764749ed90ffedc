"""What a user's module is made of: a `Taskmill` with its handlers, and the `Context` that each run gets.

app = Taskmill()

@app.task("VIDEO_PROCESSING", timeout=600, max_retries=5)
async def process_video(ctx: Context, payload: dict) -> dict: ...
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import math
import re
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, overload

from taskmill.errors import ConfigError
from taskmill.model.clock import to_utc
from taskmill.model.ids import id_text
from taskmill.model.jsontext import json_text
from taskmill.model.state import Priority
from taskmill.model.task import LOG_LINES_PER_RUN, MAX_RETRIES_LIMIT, HandlerSpec, Registry

P = ParamSpec("P")
R = TypeVar("R")
Hook = TypeVar("Hook", bound=Callable[[], Any])

TYPE_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}\Z")
QUEUE_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}\Z")
TITLE_LIMIT: Final = 255
TIMEOUT_LIMIT: Final = 366 * 86400
"""Seconds."""
LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "warn": "WARNING", "error": "ERROR"}


@dataclass(frozen=True, slots=True)
class Submission:
    """A further task that a handler submits, checked. `scheduled_at`: naive UTC."""

    title: str
    payload: str
    type: str | None
    queue: str
    priority: Priority
    scheduled_at: datetime | None
    max_retries: int | None
    description: str | None


class RunPort(Protocol):
    """What a `Context` needs of the runner around it. Every method may be called from any thread."""

    def log(self, ctx: Context, level: str, message: str, fields: dict[str, Any]) -> None: ...
    def progress(self, ctx: Context, value: float) -> None: ...
    def submit(self, ctx: Context, task: Submission) -> concurrent.futures.Future[str]: ...


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
        task = _submission(title, type, payload, queue, priority, scheduled_at, max_retries, description)
        return await asyncio.wrap_future(self._port.submit(self, task))

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
            task = _submission(title, type, payload, queue, priority, scheduled_at, max_retries, description)
            return self._port.submit(self, task).result()
        raise RuntimeError("submit_sync would block the event loop: use `await ctx.submit(...)`")


def _submission(
    title: str,
    type: str | None,
    payload: Any,
    queue: str,
    priority: Priority | str,
    scheduled_at: datetime | None,
    max_retries: int | None,
    description: str | None,
) -> Submission:
    if not isinstance(title, str) or not 1 <= len(title) <= TITLE_LIMIT:  # type: ignore[redundant-expr]  # callers may have no types
        raise ValueError(f"title: a text of 1 to {TITLE_LIMIT} characters")
    if type is not None and not (isinstance(type, str) and TYPE_PATTERN.match(type)):  # type: ignore[redundant-expr]  # callers may have no types
        raise ValueError(f"type {type!r}: {TYPE_PATTERN.pattern[:-2]}")
    if not QUEUE_PATTERN.match(str(queue)):
        raise ValueError(f"queue {queue!r}: {QUEUE_PATTERN.pattern[:-2]}")
    if isinstance(priority, str):
        if priority not in Priority.__members__:
            raise ValueError(f"priority {priority!r}: {', '.join(Priority.__members__)}")
        priority = Priority[priority]
    if scheduled_at is not None:
        if scheduled_at.tzinfo is None:
            raise ValueError("scheduled_at: give a datetime with a time zone, for example datetime.now(UTC)")
        scheduled_at = to_utc(scheduled_at)
    _check_retries("max_retries", max_retries, ValueError)
    try:
        text = json_text(payload)
    except ValueError as error:
        raise ValueError(f"payload: {error}") from None
    return Submission(title, text, type, queue, Priority(priority), scheduled_at, max_retries, description)


def _check_retries(name: str, value: object, error: type[Exception]) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and 0 <= value <= MAX_RETRIES_LIMIT):  # type: ignore[operator]
        raise error(f"{name}={value!r}: a whole number between 0 and {MAX_RETRIES_LIMIT}")


class Handler(Generic[P, R]):
    """A registered function. It is called as before; `type` and the options are its attributes."""

    __name__: str

    def __init__(self, function: Callable[P, R], spec: HandlerSpec) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.spec = spec
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 (an object with an async __call__)
        )

    @property
    def type(self) -> str | None:
        return self.spec.type

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<handler {_name(self.function)} for {self.type or 'tasks without a type'}>"


class Taskmill:
    """The handlers of a worker. What is wrong with a registration is a ConfigError, where it is written."""

    def __init__(self) -> None:
        self.handlers: dict[str | None, Handler[..., Any]] = {}
        """By type; None is the default, for tasks without a type."""
        self.startup: list[Callable[[], Any]] = []
        self.shutdown: list[Callable[[], Any]] = []

    def registry(self) -> Registry:
        return Registry(tuple(handler.spec for handler in self.handlers.values()))

    def task(
        self,
        type: str,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        isolated: bool = False,
    ) -> Callable[[Callable[P, R]], Handler[P, R]]:
        """Registers a handler `(ctx, payload)` for a type, async or plain (plain ones run in threads).

        `timeout`: seconds for one run; None takes the worker's. `max_retries` n: at most n + 1 runs, unless the task
        says otherwise; None takes the installation's. `isolated`: in a process of its own, killed at the timeout.
        """
        if not isinstance(type, str) or not TYPE_PATTERN.match(type):  # type: ignore[redundant-expr]  # callers may have no types
            hint = ': write @app.task("TYPE")' if callable(type) else ""
            raise ConfigError(f"task type {type!r} is not of the form {TYPE_PATTERN.pattern[:-2]}{hint}")
        spec = _spec(type, timeout, max_retries, isolated)
        return lambda function: self._add(function, spec)

    @overload
    def default(self, function: Callable[P, R], /) -> Handler[P, R]: ...
    @overload
    def default(
        self, *, timeout: float | None = None, max_retries: int | None = None, isolated: bool = False
    ) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
    def default(
        self,
        function: Callable[..., Any] | None = None,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        isolated: bool = False,
    ) -> Any:
        """Registers the handler of tasks without a type. It never gets typed ones. Options as for `task`."""
        spec = _spec(None, timeout, max_retries, isolated)
        if function is not None:
            return self._add(function, spec)
        return lambda function: self._add(function, spec)

    def on_startup(self, hook: Hook) -> Hook:
        """Called in each runner before its first run: async or plain, without arguments. Its failure stops the start."""
        self.startup.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Called in each runner after its last run, in reverse order, for a few seconds at most."""
        self.shutdown.append(hook)
        return hook

    def _add(self, function: Callable[P, R], spec: HandlerSpec) -> Handler[P, R]:
        if isinstance(function, Handler):
            function = function.function
        _check_function(function)
        other = self.handlers.get(spec.type)
        if other is not None:
            what = f"task type {spec.type!r}" if spec.type else "the default handler"
            raise ConfigError(f"{what} is registered twice: {_name(other.function)} and {_name(function)}")
        handler = Handler(function, spec)
        self.handlers[spec.type] = handler
        return handler


def _spec(type: str | None, timeout: object, max_retries: int | None, isolated: bool) -> HandlerSpec:
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout <= TIMEOUT_LIMIT):  # type: ignore[operator]
        raise ConfigError(
            f"task {type!r}: timeout={timeout!r} is not a number of seconds, above 0 and up to 366 days"
        )
    _check_retries(f"task {type!r}: max_retries", max_retries, ConfigError)
    seconds = None if timeout is None else float(timeout)  # type: ignore[arg-type]
    return HandlerSpec(type, seconds, max_retries, bool(isolated))


def _check_function(function: Callable[..., Any]) -> None:
    if not callable(function):
        raise ConfigError(f"a handler is a function (ctx, payload), not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"handler {_name(function)} has a yield: it must return its result")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise ConfigError(f"handler {_name(function)} must take two arguments: (ctx, payload)") from None
    except ValueError:
        return  # a function of C without a signature: the first run will tell


def _name(function: object) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"{getattr(function, '__module__', '?')}.{name}"
