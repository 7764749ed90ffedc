"""Each way in which a handler can end is one outcome."""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from taskmill.app import Context, Handler
from taskmill.app.context import current_run
from taskmill.errors import Fail, Retry, RunError
from taskmill.model.task import ERROR_LIMIT, TRACEBACK_LIMIT, Ended, HandlerSpec, Outcome
from taskmill.runner.executor import execute, execute_blocking
from tests.app.test_context import Port


def context() -> Context:
    return Context(Port(), secrets.token_bytes(16), 1, 1, payload="p")


def registered(function: Any, **options: Any) -> Handler[..., Any, Any]:
    return Handler(function, HandlerSpec("T"), **options)


async def run(body: Any, ctx: Context | None = None) -> Outcome:
    """The same body as an async and as a plain handler must end the same, but for the traceback."""
    ctx = ctx or context()

    async def handler(ctx: Context, payload: Any) -> Any:
        return body()

    one = await execute(registered(handler), ctx)
    two = execute_blocking(registered(lambda ctx, payload: body()), ctx)
    assert (one.ended, one.result, one.error_type, one.message, one.retry, one.after) == (
        two.ended,
        two.result,
        two.error_type,
        two.message,
        two.retry,
        two.after,
    )
    return one


def raiser(error: BaseException) -> Any:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ({"b": 1, "a": [True, "é"]}, '{"b":1,"a":[true,"é"]}'),
        ((1, 2), "[1,2]"),
        (2**70, str(2**70)),
    ],
    ids=str,
)
async def test_a_value_succeeds_as_json(value: Any, text: str) -> None:
    """As compact text."""
    assert await run(lambda: value) == Outcome(Ended.SUCCEEDED, result=text)


def circle() -> Any:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep() -> Any:
    value: Any = 0
    for _ in range(100_000):
        value = [value]
    return value


class Traitor(dict[str, Any]):
    def items(self) -> Any:
        raise SystemExit


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: math.nan, "not JSON compliant"),
        (lambda: {"a": [math.inf]}, "not JSON compliant"),
        (circle, "Circular reference"),
        (deep, "nested too deeply"),
        (lambda: {1, 2}, "type set is not JSON"),
        (lambda: b"x", "type bytes is not JSON"),
        (object, "type object is not JSON"),
        (lambda: "\ud800", "half a surrogate pair"),
        (lambda: "x" * 10_000_000, "10,000,002 bytes as JSON, at most 262,144"),
        (lambda: "é" * 131_072, "262,146 bytes"),
        (lambda: {(1, 2): 3}, "keys must be"),
        (lambda: Traitor(a=1), "cannot be read: SystemExit"),
    ],
)
async def test_what_is_no_json_is_result_invalid(make: Any, text: str) -> None:
    """A clear failure, retried like any other."""
    outcome = await run(make)
    assert (outcome.ended, outcome.error_type, outcome.retry) == (Ended.FAILED, "RESULT_INVALID", True)
    assert (outcome.message or "").startswith("RESULT_INVALID: ")
    assert text in (outcome.message or "")


async def test_the_largest_result_is_kept() -> None:
    """256 KiB of JSON text exactly."""
    outcome = await run(lambda: "x" * (262_144 - 2))
    assert outcome.ended is Ended.SUCCEEDED


async def test_a_coroutine_from_a_plain_function_is_explained() -> None:
    """`def` instead of `async def`; and it is closed, without a warning."""

    async def inner() -> None: ...

    outcome = execute_blocking(registered(lambda ctx, payload: inner()), context())
    assert outcome.error_type == "RESULT_INVALID"
    assert "declare it with `async def`" in (outcome.message or "")


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad input"), "ValueError", "ValueError: bad input"),
        (KeyError("k"), "KeyError", "KeyError: 'k'"),
        (RuntimeError(), "RuntimeError", "RuntimeError"),
        (SystemExit(3), "SystemExit", "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError", "CancelledError"),
        (GeneratorExit(), "GeneratorExit", "GeneratorExit"),
        (Mute(), "Mute", "Mute: (its message cannot be read: SystemExit)"),
        (RunError("own"), "FAILED", "own"),
        (ValueError("\x1b[31mred\x00"), "ValueError", "ValueError: \\x1b[31mred\\x00"),
        (ValueError("\ud800"), "ValueError", "ValueError: \\ud800"),
    ],
    ids=repr,
)
async def test_any_exception_is_a_failed_run(error: BaseException, kind: str, message: str) -> None:
    """BaseExceptions too: the runner lives on. Messages are safe to show."""
    outcome = await run(raiser(error))
    assert (outcome.ended, outcome.error_type, outcome.message) == (Ended.FAILED, kind, message)
    assert outcome.retry


async def test_retry_and_fail_are_the_words_of_a_handler() -> None:
    """Retry says when, Fail says never; neither has a traceback."""
    again = await run(raiser(Retry("busy", after=5)))
    assert (again.error_type, again.message, again.retry, again.after) == ("RETRY", "busy", True, 5)
    never = await run(raiser(Fail("no such file")))
    assert (never.error_type, never.message, never.retry) == ("FAILED", "no such file", False)
    assert again.traceback is never.traceback is None


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (OSError("disk"), True),
        (ConnectionResetError("gone"), True),
        (ValueError("no"), False),
        (asyncio.CancelledError(), False),
        (Retry("busy"), True),
        (Fail("never"), False),
    ],
    ids=repr,
)
async def test_retry_on_names_what_is_retried(error: BaseException, retry: bool) -> None:
    """Subclasses too; Retry and Fail say it themselves."""
    outcome = execute_blocking(
        registered(lambda ctx, payload: raiser(error)(), retry_on=(OSError, TimeoutError)), context()
    )
    assert (outcome.ended, outcome.retry) == (Ended.FAILED, retry)


def typed(ctx: Context, n: int, m: int = 1) -> int:
    return n + m


async def typed_async(ctx: Context, n: int, m: int = 1) -> int:
    return n + m


async def both(payload: Any) -> Outcome:
    ctx = Context(Port(), secrets.token_bytes(16), 1, 1, payload=payload)
    one, two = await execute(registered(typed_async), ctx), execute_blocking(registered(typed), ctx)
    assert one == two
    return one


async def test_a_payload_is_checked_at_the_run() -> None:
    """What is not as the signature says fails at once, without a retry and without a traceback."""
    assert await both({"n": 1}) == Outcome(Ended.SUCCEEDED, result="2")
    assert await both({"n": "1"}) == Outcome(
        Ended.FAILED,
        error_type="INVALID_PAYLOAD",
        message="INVALID_PAYLOAD: n: Expected `int`, got `str`",
        retry=False,
    )
    assert (await both({"n": 1, "\x1b[2J" + "x" * 20_000: 2})).message == (
        "INVALID_PAYLOAD: \\x1b[2J" + "x" * 96 + ": there is no such parameter (there are: n, m)"
    )


class Broken(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def fails(cls, value: int) -> int:
        raise OSError("the validator's database is away") if value == 1 else SystemExit(value)


async def test_a_validator_that_fails_is_a_failed_run() -> None:
    """Not a wrong payload: another run may go better."""

    def handler(ctx: Context, payload: Broken) -> None: ...

    async def handler_async(ctx: Context, payload: Broken) -> None: ...

    for n, error in ((1, "OSError"), (2, "SystemExit")):
        ctx = Context(Port(), b"i" * 16, 1, 1, payload={"n": n})
        one, two = execute_blocking(registered(handler), ctx), await execute(registered(handler_async), ctx)
        assert (one.error_type, one.retry) == (two.error_type, two.retry) == (error, True)


@dataclass
class Report:
    at: datetime
    sizes: list[Size]


class Size(Enum):
    SMALL = "small"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            Report(datetime(2026, 1, 2, tzinfo=UTC), [Size.SMALL]),
            '{"at":"2026-01-02T00:00:00Z","sizes":["small"]}',
        ),
        ({"list": [Size.SMALL]}, '{"list":["small"]}'),
        (Broken.model_construct(n=3), '{"n":3}'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_has_a_form_in_json_takes_it(value: Any, text: str) -> None:
    """Dataclasses, models, times, ids, Enums: also inside of others."""
    assert await run(lambda: value) == Outcome(Ended.SUCCEEDED, result=text)


async def test_submit_in_a_handler_goes_to_its_runner() -> None:
    """In the coroutine, in the threads that it hands work to, and in a plain handler; no longer after the run."""
    child = registered(typed)
    ctx = context()
    port = ctx._port
    assert isinstance(port, Port)

    async def on_loop(ctx: Context, payload: Any) -> None:
        await child.submit(1)
        await asyncio.to_thread(lambda: child.submit_sync(2))

    def in_thread(ctx: Context, payload: Any) -> None:
        child.submit_sync(3)

    assert (await execute(registered(on_loop), ctx)).ended is Ended.SUCCEEDED
    done = await asyncio.to_thread(execute_blocking, registered(in_thread), ctx)
    assert done.ended is Ended.SUCCEEDED
    assert [draft.payload for draft in port.tasks] == ['{"n":1}', '{"n":2}', '{"n":3}']
    assert current_run() is None


async def test_a_traceback_starts_at_the_users_frame() -> None:
    """Nothing of Taskmill, causes included, and within its bound."""

    def handler(ctx: Context, payload: Any) -> None:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError("effect") from error

    outcome = execute_blocking(registered(handler), context())
    text = outcome.traceback or ""
    assert "execute_blocking" not in text
    assert text.index("KeyError: 'cause'") < text.index("ValueError: effect")
    assert "test_executor.py" in text


async def test_long_texts_are_cut() -> None:
    """Message and traceback, and an endless recursion."""

    def forever() -> None:
        forever()

    long = await run(raiser(ValueError("x" * 100_000)))
    assert len(long.message or "") == ERROR_LIMIT
    assert len(long.traceback or "") == TRACEBACK_LIMIT
    deep = await run(forever)
    assert deep.error_type == "RecursionError"
    assert len(deep.traceback or "") <= TRACEBACK_LIMIT


@pytest.mark.parametrize(
    ("reason", "ended"),
    [("cancel", "CANCELLED"), ("timeout", "TIMEOUT"), ("drain", "RELEASED"), ("lost", "LEASE_LOST")],
)
async def test_a_handler_that_was_told_to_stop(reason: str, ended: str) -> None:
    """Its CancelledError takes the name of the reason."""
    ctx = context()
    ctx.cancelled.set(reason)
    assert (await run(raiser(asyncio.CancelledError()), ctx)).ended == ended


async def test_what_a_handler_brings_after_a_cancel_counts() -> None:
    """A value, and a failure of its clean-up; not so after a timeout."""
    ctx = context()
    ctx.cancelled.set("cancel")
    assert (await run(lambda: 1, ctx)).ended is Ended.SUCCEEDED
    assert (await run(raiser(ValueError("x")), ctx)).ended is Ended.FAILED
    late = context()
    late.cancelled.set("timeout")
    assert (await run(lambda: 1, late)).ended is Ended.TIMEOUT
    assert (await run(raiser(ValueError("x")), late)).ended is Ended.TIMEOUT


@pytest.mark.parametrize("error", [ValueError("x"), Fail("stopped before it was done"), Retry("later")])
async def test_what_is_raised_during_a_drain_is_no_failure(error: Exception) -> None:
    """The worker asked for the stop: no attempt is spent, and Fail does not end the task."""
    ctx = context()
    ctx.cancelled.set("drain")
    assert (await run(raiser(error), ctx)).ended is Ended.RELEASED


async def test_who_returns_because_the_worker_stops_has_not_finished() -> None:
    """A function that looked at ctx.cancelled is given back; the value of one that never looked counts."""
    ctx = context()
    ctx.cancelled.set("drain")
    assert (await run(lambda: 1, ctx)).ended is Ended.SUCCEEDED
    for look in (lambda: bool(ctx.cancelled), lambda: ctx.cancelled.wait(0)):
        assert (await run(look, ctx)).ended is Ended.RELEASED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_any_value_is_one_of_two_outcomes(value: Any) -> None:
    """JSON text that can be written as UTF-8, or RESULT_INVALID: never an exception."""
    outcome = execute_blocking(registered(lambda ctx, payload: value), context())
    if outcome.ended is Ended.SUCCEEDED:
        assert outcome.result is not None
        outcome.result.encode()
    else:
        assert outcome.error_type == "RESULT_INVALID"
