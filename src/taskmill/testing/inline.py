"""One handler, run as a worker would run it, in the test's own hands."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
from typing import Any, TypeVar

from taskmill.app import Context, Handler
from taskmill.app.context import entered
from taskmill.errors import ResultInvalid, RunTimeout
from taskmill.model.ids import id_text, new_id
from taskmill.model.jsontext import json_text
from taskmill.model.port import Draft
from taskmill.runner.messages import TIMEOUT
from taskmill.testing.job import Line

T = TypeVar("T")


class FakeContext(Context):
    """A context that keeps what the handler does with it: for `run_inline`, and for calling a handler as a function.

    `ctx.cancelled.set("cancel")` shows the handler that it shall stop.
    """

    __slots__ = ("lines", "progressed", "submitted")

    def __init__(self, *, attempt: int = 1, type: str | None = None, timeout: float = math.inf) -> None:
        self.lines: list[Line] = []
        self.progressed: list[float] = []
        self.submitted: list[Draft] = []
        super().__init__(_Keeper(), new_id(), attempt, attempt, type=type, timeout=timeout)


class _Keeper:
    def log(self, ctx: Context, level: str, message: str, fields: dict[str, Any]) -> None:
        _fake(ctx).lines.append(Line(level, message, fields))

    def progress(self, ctx: Context, value: float) -> None:
        _fake(ctx).progressed.append(value)

    def submit(self, ctx: Context, task: Draft) -> concurrent.futures.Future[str]:
        _fake(ctx).submitted.append(task)
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        future.set_result(id_text(new_id()))
        return future


def _fake(ctx: Context) -> FakeContext:
    assert isinstance(ctx, FakeContext)
    return ctx


async def run_inline(
    handler: Handler[..., Any, T], /, *args: Any, ctx: FakeContext | None = None, **params: Any
) -> T:
    """Runs the handler once with these parameters, and returns what `task.wait()` would: both go through JSON.

    What the handler raises comes through as it is: there is no retry. InvalidPayload and ResultInvalid as in a worker,
    RunTimeout after the handler's timeout. What it submits, logs and tells of its progress is in `ctx`.
    """
    context = ctx or FakeContext(type=handler.type, timeout=handler.spec.timeout or math.inf)
    context.payload = json.loads(handler.params.dump(args, params))
    given, named = handler.params.load(context.payload)
    with entered(context):
        run = (
            handler.function(context, *given, **named)
            if handler.is_async
            else asyncio.to_thread(handler.function, context, *given, **named)
        )
        limit = asyncio.timeout(handler.spec.timeout)
        try:
            async with limit:
                value = await run
        except TimeoutError:
            if not limit.expired():
                raise  # the handler's own
            context.cancelled.set(TIMEOUT)
            raise RunTimeout("its time was up") from None
    try:
        text = json_text(value)
    except ValueError as error:
        raise ResultInvalid(f"the handler's result is not JSON: {error}") from None
    return handler.params.result(json.loads(text))  # type: ignore[no-any-return]  # as the annotation says


def run_inline_sync(
    handler: Handler[..., Any, T], /, *args: Any, ctx: FakeContext | None = None, **params: Any
) -> T:
    """`run_inline` for tests without an event loop."""
    return asyncio.run(run_inline(handler, *args, ctx=ctx, **params))
