"""A registered function: called as before, and submitted as a task with the same parameters."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, overload

from taskmill.app import link
from taskmill.app.context import TIMEOUT_LIMIT, current_run
from taskmill.app.draft import TITLE_LIMIT, draft
from taskmill.app.params import Params, name_of
from taskmill.app.submitted import Submitted
from taskmill.errors import ConfigError
from taskmill.model.port import Draft, connector
from taskmill.model.state import Priority
from taskmill.model.task import HandlerSpec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Errors = tuple[type[BaseException], ...]

MANY: Final = 1000
"""Tasks of one `submit_many`."""


class Transaction(Protocol):
    """A SQLAlchemy Connection or Session, known by its form: this package does not import SQLAlchemy."""

    def rollback(self) -> None: ...


class AsyncTransaction(Protocol):
    """An AsyncConnection or AsyncSession."""

    def rollback(self) -> Coroutine[Any, Any, None]: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How a task of a handler is submitted. None: as the handler, or the installation, says."""

    title: str | None = None
    queue: str = "default"
    priority: Priority | str = Priority.NORMAL
    delay: float | timedelta | None = None
    scheduled_at: datetime | None = None
    max_retries: int | None = None
    description: str | None = None

    def due(self) -> datetime | None:
        """ValueError: both are given, or the delay is none."""
        if self.delay is None:
            return self.scheduled_at
        if self.scheduled_at is not None:
            raise ValueError("give delay or scheduled_at, not both")
        seconds = self.delay.total_seconds() if isinstance(self.delay, timedelta) else self.delay
        if not 0 <= seconds <= TIMEOUT_LIMIT:
            raise ValueError(f"delay={self.delay!r}: seconds (or a timedelta) between 0 and 366 days")
        return link.now() + timedelta(seconds=seconds)


class Call(Generic[P, T]):
    """A handler with the options of its next tasks."""

    def __init__(self, type: str | None, name: str, params: Params, options: Options) -> None:
        self._type = type
        self._name = name
        self._params = params
        self.given = options
        """How its tasks are submitted."""
        self._draft("{}")  # what is wrong with an option is said where it is written

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> Submitted[T]:
        """Submits a task with the parameters that the handler has after `ctx`, and returns once it is recorded.

        InvalidPayload: a parameter is not what the handler says. Unavailable: nothing was recorded, as far as is known.
        Inside a handler the task belongs to the user of the task that runs; else to the service user, or to the key.
        """
        [task] = await self._submit([self._draft(self._params.dump(args, kwargs))])
        return task

    async def submit_many(self, calls: Iterable[Mapping[str, Any]]) -> list[Submitted[T]]:
        """A task for each mapping of parameters, at most 1,000. Outside of handlers: all of them or none."""
        drafts = [self._draft(self._params.dump((), call)) for call in calls]
        if len(drafts) > MANY:
            raise ValueError(f"{len(drafts):,} tasks; at most {MANY:,} at once")
        return await self._submit(drafts) if drafts else []

    def submit_sync(self, *args: P.args, **kwargs: P.kwargs) -> Submitted[T]:
        """`submit` for programs and threads without an event loop. In a coroutine it would block: RuntimeError."""
        task = self._draft(self._params.dump(args, kwargs))
        run = current_run()
        if run is None:
            return link.blocking(lambda: self._submit([task]), "handler.submit(...)")[0]
        link.refuse_on_loop("handler.submit(...)")
        return self.submitted(run.hand_over(task).result())

    @overload
    def submit_in(
        self, connection: AsyncTransaction, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[Submitted[T]]: ...
    @overload
    def submit_in(self, connection: Transaction, *args: P.args, **kwargs: P.kwargs) -> Submitted[T]: ...
    def submit_in(self, connection: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Submits within the caller's own transaction, on the database that is Taskmill's record too (MySQL, MariaDB):
        the task is there when that transaction commits, and never was when it rolls back.

        `connection`: a SQLAlchemy Connection or Session, then a `Submitted` comes back; or an AsyncConnection or
        AsyncSession, then an awaitable of it. Taskmill opens no connection of its own. Workers see the task a second or so
        after the commit, when a scheduler has found it.
        ConfigError, StartError: such a connection, or its database, cannot do it.
        """
        task = self._draft(self._params.dump(args, kwargs))
        # A test kit's connector has one of its own; ours is loaded by its name: it is above, and few need it.
        insert = getattr(connector(), "submit_in", None) or import_module("taskmill.submitting").submit_in
        return insert(connection, task, self.submitted)

    def submitted(self, id: str) -> Submitted[T]:
        """A task of this handler that was submitted elsewhere, by its id."""
        return Submitted(id, self._params.result)

    async def _submit(self, drafts: list[Draft]) -> list[Submitted[T]]:
        run = current_run()
        if run is None:
            ids = await (await link.port()).submit(drafts)
        else:
            ids = await asyncio.gather(*(asyncio.wrap_future(run.hand_over(task)) for task in drafts))
        return [self.submitted(each) for each in ids]

    def _draft(self, payload: str) -> Draft:
        o = self.given
        title = self._name[:TITLE_LIMIT] if o.title is None else o.title
        return draft(title, payload, self._type, o.queue, o.priority, o.due(), o.max_retries, o.description)


class Handler(Call[P, T], Generic[P, R, T]):
    """A registered function. It is called as before; `type` and the options are its attributes."""

    __name__: str

    def __init__(
        self,
        function: Any,
        spec: HandlerSpec,
        options: Options | None = None,
        retry_on: Errors | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.spec = spec
        self.retry_on = retry_on
        """Only these exceptions are retried (and Retry, and what is no exception of the handler); None: all are."""
        self.params = Params(function)
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 (an object with an async __call__)
        )
        name = spec.type or str(getattr(function, "__name__", "task"))
        super().__init__(spec.type, name, self.params, options or Options())

    @property
    def type(self) -> str | None:
        return self.spec.type

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(ctx, *args, **kwargs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<handler {name_of(self.function)} for {self.type or 'tasks without a type'}>"

    def options(
        self,
        *,
        title: str | None = None,
        queue: str | None = None,
        priority: Priority | str | None = None,
        delay: float | timedelta | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int | None = None,
        description: str | None = None,
    ) -> Call[P, T]:
        """The same handler with other options, for `.submit(...)`: `h.options(delay=60).submit(...)`.

        `delay`: seconds or a timedelta from the submit; `scheduled_at`: a datetime with a time zone. ValueError.
        """
        mine = self.given
        changed = replace(
            mine,
            title=mine.title if title is None else title,
            queue=mine.queue if queue is None else queue,
            priority=mine.priority if priority is None else priority,
            delay=delay,
            scheduled_at=scheduled_at,
            max_retries=max_retries,
            description=description,
        )
        return Call(self.type, self._name, self.params, changed)

    def retries(self, error: BaseException) -> bool:
        """Whether the exception of a run may be followed by another run."""
        return self.retry_on is None or isinstance(error, self.retry_on)


def checked_errors(name: str, value: object) -> Errors | None:
    """`retry_on`, as a tuple. ConfigError."""
    if value is None:
        return None
    classes = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
        raise ConfigError(f"{name}: retry_on={value!r}: a tuple of exception classes")
    return tuple(classes)


@overload
def submit_in(
    connection: AsyncTransaction, handler: Call[P, T], *args: P.args, **kwargs: P.kwargs
) -> Awaitable[Submitted[T]]: ...
@overload
def submit_in(
    connection: Transaction, handler: Call[P, T], *args: P.args, **kwargs: P.kwargs
) -> Submitted[T]: ...
def submit_in(connection: Any, handler: Call[P, T], *args: P.args, **kwargs: P.kwargs) -> Any:
    """`handler.submit_in(connection, ...)`, as a function."""
    return handler.submit_in(connection, *args, **kwargs)
