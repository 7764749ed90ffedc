"""Registering handlers, and the names that a user imports."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest

import taskmill
from taskmill import Context, Taskmill
from taskmill.errors import ConfigError
from taskmill.model.task import HandlerSpec


def test_a_handler_is_registered_and_stays_callable() -> None:
    """The decorated name is still the function, and carries its type."""
    app = Taskmill()

    @app.task("VIDEO", timeout=600, max_retries=5, isolated=True)
    def video(ctx: Context | None, payload: int) -> int:
        """Makes a video."""
        return payload * 2

    assert video(None, 21) == 42
    assert video.type == "VIDEO"
    assert (video.__name__, video.__doc__) == ("video", "Makes a video.")
    assert app.registry().get("VIDEO") == HandlerSpec("VIDEO", 600.0, 5, True)
    assert app.handlers["VIDEO"] is video


def test_a_function_may_have_several_types() -> None:
    """Decorators stack."""
    app = Taskmill()

    @app.task("A")
    @app.task("B")
    async def both(ctx: Context, payload: Any) -> None: ...

    assert app.registry().types == ("A", "B")
    assert all(handler.is_async for handler in app.handlers.values())


@pytest.mark.parametrize("options", [None, {"timeout": 5}])
def test_the_default_handler(options: dict[str, Any] | None) -> None:
    """With and without options."""
    app = Taskmill()

    def handler(ctx: Context, payload: Any) -> None: ...

    if options is None:
        app.default(handler)
    else:
        app.default(**options)(handler)
    spec = app.registry().get(None)
    assert spec is not None
    assert spec.timeout == (None if options is None else 5.0)
    assert app.registry().types == ()


class Async:
    async def __call__(self, ctx: Context, payload: Any) -> None: ...

    async def method(self, ctx: Context, payload: Any) -> None: ...


async def three(extra: int, ctx: Context, payload: Any) -> None: ...


@pytest.mark.parametrize(
    "function", [Async(), Async().method, partial(three, 1)], ids=["object", "method", "partial"]
)
def test_what_counts_as_async(function: Any) -> None:
    """Objects with an async __call__, methods, partials: they run on the loop, not in a thread."""
    app = Taskmill()
    app.task("T")(function)
    assert app.handlers["T"].is_async


def add(x: int, y: int) -> int:
    return x + y


def generator(ctx: Context, payload: Any) -> Any:
    yield 1


BAD: list[tuple[Any, str]] = [
    (lambda app: app.task("bad type")(print), "is not of the form"),
    (lambda app: app.task("")(print), "is not of the form"),
    (lambda app: app.task("A" * 101)(print), "is not of the form"),
    (lambda app: app.task("A\n")(print), "is not of the form"),
    (lambda app: app.task()(partial(print)), 'write @app.task\\("TYPE"\\)'),
    (lambda app: app.task(lambda ctx: None), "is not of the form"),
    (lambda app: app.task("A", queue="no queue")(print), "queue 'no queue'"),
    (lambda app: app.task("A", priority="URGENT")(print), "priority 'URGENT'"),
    (lambda app: app.task("A", retry_on=7)(print), "retry_on=7"),
    (lambda app: app.task("A", retry_on=(OSError, "x"))(print), "exception classes"),
    (lambda app: app.task("A", timeout=0)(print), "timeout=0 is not"),
    (lambda app: app.task("A", timeout=float("nan"))(print), "timeout=nan is not"),
    (lambda app: app.task("A", timeout=float("inf"))(print), "timeout=inf is not"),
    (lambda app: app.task("A", timeout="5")(print), "timeout='5' is not"),
    (lambda app: app.task("A", timeout=True)(print), "timeout=True is not"),
    (lambda app: app.task("A", max_retries=-1)(print), "max_retries=-1"),
    (lambda app: app.task("A", max_retries=1.5)(print), "max_retries=1.5"),
    (lambda app: app.task("A")(lambda: None), "must take the context first"),
    (lambda app: app.task("A")(lambda **named: None), "must take the context first"),
    (lambda app: app.task(add), "add must take the context first: \\(ctx: Context, x, ...\\)"),
    (lambda app: app.task("A")(generator), "has a yield"),
    (lambda app: app.task("A")(7), "is a function"),
    (lambda app: (app.task("A")(print), app.task("A")(print)), "task type 'A' is registered twice"),
    (lambda app: (app.default(print), app.default(print)), "the default handler is registered twice"),
]


@pytest.mark.parametrize(("register", "text"), BAD, ids=[text[:30] for _, text in BAD])
def test_what_is_wrong_with_a_registration_is_said(register: Any, text: str) -> None:
    """At once, where it is written."""
    with pytest.raises(ConfigError, match=text):
        register(Taskmill())


def test_the_public_names_are_lazy() -> None:
    """`import taskmill` loads none of its modules; each name is there when it is used."""
    code = (
        "import sys, taskmill; print([m for m in sys.modules if m.startswith('taskmill.')]); taskmill.Retry"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in taskmill.__all__:
        assert getattr(taskmill, name).__name__ == name
        assert name in dir(taskmill)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        taskmill.Nothing  # noqa: B018
