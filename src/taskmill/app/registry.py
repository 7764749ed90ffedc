"""`Taskmill`: the handlers of a worker, and what they are registered with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from taskmill.app import link
from taskmill.app.context import TIMEOUT_LIMIT, Context
from taskmill.app.cron import CronOptions, CronWords, Declared, declared
from taskmill.app.draft import TYPE_PATTERN, check_retries, checked_priority, checked_queue
from taskmill.app.handler import Handler, Options, checked_errors
from taskmill.app.params import name_of
from taskmill.errors import ConfigError
from taskmill.model.state import Priority
from taskmill.model.task import HandlerSpec, Registry

if TYPE_CHECKING:
    from taskmill.model.cron import CronSpec

P = ParamSpec("P")
T = TypeVar("T")
Hook = TypeVar("Hook", bound=Callable[[], Any])
Errors = type[BaseException] | tuple[type[BaseException], ...]

_NAME: Final = TYPE_PATTERN.pattern


class Register(Protocol):
    """What `@app.task(...)` returns: it makes a Handler of a function, async or plain."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], /
    ) -> Handler[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], T], /) -> Handler[P, T, T]: ...


class Taskmill:
    """The handlers of a worker. What is wrong with a registration is a ConfigError, where it is written."""

    def __init__(self) -> None:
        self.handlers: dict[str | None, Handler[..., Any, Any]] = {}
        """By type; None is the default, for tasks without a type."""
        self.startup: list[Callable[[], Any]] = []
        self.shutdown: list[Callable[[], Any]] = []
        self._crons: dict[str, Declared] = {}

    @property
    def crons(self) -> tuple[CronSpec, ...]:
        """The schedules that are declared. ConfigError: a handler does not take the payload of one."""
        return tuple(each.checked() for each in self._crons.values())

    def registry(self) -> Registry:
        """What a worker is told of it. ConfigError as of `crons`."""
        return Registry(tuple(handler.spec for handler in self.handlers.values()), self.crons)

    def check(self) -> None:
        """What could not be checked while the module was being loaded. ConfigError."""
        for handler in self.handlers.values():
            handler.params.ready()
        for each in self._crons.values():
            each.checked()

    async def close(self) -> None:
        """Closes the connections through which tasks were submitted on the running loop; what waits is sent before. They
        are closed by themselves when the loop ends as `asyncio.run` ends it."""
        await link.close()

    def close_sync(self) -> None:
        """`close` for the thread through which `submit_sync` goes. A process that ends does it by itself."""
        link.blocking(link.close, "app.close()")

    @overload
    def task(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], /
    ) -> Handler[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def task(self, function: Callable[Concatenate[Context, P], T], /) -> Handler[P, T, T]: ...
    @overload
    def task(
        self,
        type: str | None = None,
        *,
        queue: str = "default",
        priority: Priority | str = Priority.NORMAL,
        retry_on: Errors | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        isolated: bool = False,
    ) -> Register: ...
    def task(
        self,
        type: Any = None,
        *,
        queue: str = "default",
        priority: Priority | str = Priority.NORMAL,
        retry_on: Errors | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        isolated: bool = False,
    ) -> Any:
        """Registers a handler `(ctx, ...)`, async or plain (plain ones run in threads), for a type: its name, if none is
        given. Its parameters are keys of the payload, checked as their annotations say; a single `payload` gets it whole.

        `queue`, `priority`: of the tasks that `.submit` makes. `retry_on`: only these exceptions are retried. `timeout`:
        seconds for one run; None takes the worker's. `max_retries` n: at most n + 1 runs, unless the task says otherwise;
        None takes the installation's. `isolated`: in a process of its own, killed at the timeout.
        """
        if callable(type):
            return self.task()(type)
        name = "a task" if type is None else f"task {type!r}"
        if type is not None:
            _check_type(type)
        checked_queue(queue, _config(name))
        options = Options(queue=queue, priority=checked_priority(priority, _config(name)))
        errors = checked_errors(name, retry_on)
        seconds = _seconds(name, timeout)
        check_retries(f"{name}: max_retries", max_retries, ConfigError)

        def register(function: Any) -> Handler[..., Any, Any]:
            kind = _type_of(function) if type is None else type
            spec = HandlerSpec(kind, seconds, max_retries, bool(isolated))
            return self._add(function, spec, options, errors)

        return register

    def cron(
        self,
        expression: str,
        *,
        timezone: str = "UTC",
        name: str | None = None,
        payload: Mapping[str, Any] | None = None,
        misfire: str = "ONCE",
        overlap: str = "ALLOW",
        **options: Unpack[CronWords],
    ) -> Register:
        """Declares a schedule for a handler: above its `@app.task`, or alone, which registers the function by its name.

        `expression`: five fields. `timezone`: of the IANA database. `name`: unique in the app, the type if none is given.
        `payload`: the parameters of each task, checked here. `misfire`: SKIP, ONCE or ALL; `overlap`: ALLOW, SKIP, QUEUE
        or CANCEL_RUNNING. Options: title, description, queue, priority (not given: the handler's), max_retries.

        `taskmill up` records it at its start; elsewhere `taskmill schedules sync` does, as a step of the deploy.
        """
        try:
            given = CronOptions(
                expression, timezone, name, payload, misfire=misfire, overlap=overlap, **options
            )
        except TypeError as error:
            raise ConfigError(f"cron {expression!r}: {error}") from None

        def register(function: Any) -> Handler[..., Any, Any]:
            handler = function if isinstance(function, Handler) else self.task(function)
            made = declared(handler, given)
            if made.spec.name in self._crons:
                raise ConfigError(f"cron {made.spec.name!r} is declared twice: give one of them a name=")
            if handler.params.resolved:
                made.checked()
            self._crons[made.spec.name] = made
            return handler

        return register  # type: ignore[return-value]  # the overloads say what it makes of which function

    @overload
    def default(
        self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], /
    ) -> Handler[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def default(self, function: Callable[Concatenate[Context, P], T], /) -> Handler[P, T, T]: ...
    @overload
    def default(
        self,
        *,
        retry_on: Errors | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        isolated: bool = False,
    ) -> Register: ...
    def default(
        self,
        function: Any = None,
        *,
        retry_on: Errors | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        isolated: bool = False,
    ) -> Any:
        """Registers the handler of tasks without a type. It never gets typed ones. Options as for `task`."""
        name = "the default handler"
        check_retries(f"{name}: max_retries", max_retries, ConfigError)
        spec = HandlerSpec(None, _seconds(name, timeout), max_retries, bool(isolated))
        errors = checked_errors(name, retry_on)
        if function is not None:
            return self._add(function, spec, Options(), errors)
        return lambda function: self._add(function, spec, Options(), errors)

    def on_startup(self, hook: Hook) -> Hook:
        """Called in each runner before its first run: async or plain, without arguments. Its failure stops the start."""
        self.startup.append(hook)
        return hook

    def on_shutdown(self, hook: Hook) -> Hook:
        """Called in each runner after its last run, in reverse order, for a few seconds at most."""
        self.shutdown.append(hook)
        return hook

    def _add(
        self,
        function: Any,
        spec: HandlerSpec,
        options: Options,
        errors: tuple[type[BaseException], ...] | None,
    ) -> Handler[..., Any, Any]:
        if isinstance(function, Handler):
            function = function.function
        if not callable(function):
            raise ConfigError(f"a handler is a function (ctx, ...), not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"handler {name_of(function)} has a yield: it must return its result")
        other = self.handlers.get(spec.type)
        if other is not None:
            what = f"task type {spec.type!r}" if spec.type else "the default handler"
            raise ConfigError(
                f"{what} is registered twice: {name_of(other.function)} and {name_of(function)}"
            )
        handler: Handler[..., Any, Any] = Handler(function, spec, options, errors)
        self.handlers[spec.type] = handler
        return handler


def _type_of(function: Any) -> str:
    name = getattr(function, "__name__", None)
    if not callable(function) or name is None:
        raise ConfigError(f'{function!r} has no name to be its type: write @app.task("TYPE")')
    return _check_type(name)


def _check_type(type: Any) -> str:
    if not isinstance(type, str) or not TYPE_PATTERN.fullmatch(type):
        raise ConfigError(f"task type {type!r} is not of the form {_NAME}")
    return type


def _config(name: str) -> Callable[[str], Exception]:
    return lambda message: ConfigError(f"{name}: {message}")


def _seconds(name: str, timeout: object) -> float | None:
    if timeout is None:
        return None
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not (number and 0 < timeout <= TIMEOUT_LIMIT):  # type: ignore[operator]
        raise ConfigError(
            f"{name}: timeout={timeout!r} is not a number of seconds, above 0 and up to 366 days"
        )
    return float(timeout)  # type: ignore[arg-type]
