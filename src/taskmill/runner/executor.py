"""One run, from call to outcome. Whatever a handler does, an `Outcome` comes back: nothing is raised here.

payload → wrong   → refused
call → value      → succeeded
     → exception  → failed, by its kind
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from pathlib import Path
from typing import Any, Final

from taskmill.app import Context, Handler
from taskmill.app.context import entered
from taskmill.errors import Fail, InvalidPayload, ResultInvalid, Retry, RunError
from taskmill.model.jsontext import json_text
from taskmill.model.task import ERROR_LIMIT, TRACEBACK_LIMIT, Ended, Outcome
from taskmill.runner.messages import CANCEL, DRAIN, LOST, TIMEOUT
from taskmill.runner.text import clean, cut

OURS: Final = str(Path(__file__).resolve().parent.parent)
FRAMES: Final = 50
"""Of a traceback, the innermost."""
TYPE_LIMIT: Final = 100
AnyHandler = Handler[..., Any, Any]

_NOTHING: Final = Outcome(Ended.SUCCEEDED, result="null")
_STOPPED: Final = {
    CANCEL: Outcome(
        Ended.CANCELLED, error_type="CANCELLED", message="it stopped because a cancel was requested"
    ),
    TIMEOUT: Outcome(Ended.TIMEOUT, error_type="TIMEOUT", message="its time was up"),
    DRAIN: Outcome(Ended.RELEASED),
    LOST: Outcome(Ended.LEASE_LOST),
}


async def execute(handler: AnyHandler, ctx: Context) -> Outcome:
    """Runs an async handler."""
    with entered(ctx):
        try:
            args, kwargs = handler.params.load(ctx.payload)
        except InvalidPayload as error:
            return refused(error)
        except BaseException as error:  # noqa: BLE001 (a validator of a user's model may fail in any way)
            return failed(error, ctx, handler)
        try:
            value = await handler.function(ctx, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 (SystemExit and CancelledError too end the run, not the runner)
            return failed(error, ctx, handler)
        return succeeded(value, ctx)


def execute_blocking(handler: AnyHandler, ctx: Context) -> Outcome:
    """Runs a plain handler in the thread it is called in."""
    with entered(ctx):
        try:
            args, kwargs = handler.params.load(ctx.payload)
        except InvalidPayload as error:
            return refused(error)
        except BaseException as error:  # noqa: BLE001 (as above)
            return failed(error, ctx, handler)
        try:
            value = handler.function(ctx, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 (as above)
            return failed(error, ctx, handler)
        return succeeded(value, ctx)


def refused(error: InvalidPayload) -> Outcome:
    """The outcome of a run whose payload is not what the handler takes: another run would get the same one."""
    return Outcome(
        Ended.FAILED,
        error_type=error.code,
        message=cut(clean(f"{error.code}: {error.message}"), ERROR_LIMIT),
        retry=False,
    )


def stopped(reason: str) -> Outcome:
    """The outcome of a run that ended because it was told to."""
    return _STOPPED[reason]


def succeeded(value: Any, ctx: Context) -> Outcome:
    reason = ctx.cancelled.reason
    if reason == TIMEOUT or (reason == DRAIN and ctx.cancelled.seen):
        return stopped(reason)
    if value is None:
        return _NOTHING
    try:
        return Outcome(Ended.SUCCEEDED, result=json_text(value))
    except ValueError as error:
        if inspect.iscoroutine(value):
            value.close()
            return _invalid("the handler returned a coroutine: declare it with `async def`")
        return _invalid(f"the handler's result is not JSON: {error}")
    except BaseException as error:  # noqa: BLE001 (a dict subclass may fail in any way while it is read)
        return _invalid(f"the handler's result cannot be read: {message_of(error)}")


def failed(error: BaseException, ctx: Context, handler: AnyHandler | None = None) -> Outcome:
    reason = ctx.cancelled.reason
    # A drain asks for the stop: whatever the handler says on its way out, Fail included, is no failure of the task.
    if reason in (TIMEOUT, DRAIN) or (reason is not None and isinstance(error, asyncio.CancelledError)):
        return stopped(reason)
    after = error.after if isinstance(error, Retry) else None
    return Outcome(
        Ended.FAILED,
        error_type=_kind(error),
        message=message_of(error),
        traceback=None if isinstance(error, Retry | Fail) else traceback_of(error),
        retry=isinstance(error, Retry)
        or (not isinstance(error, Fail) and (handler is None or handler.retries(error))),
        after=after,
    )


def message_of(error: BaseException) -> str:
    """The exception in words, bounded; its own `__str__` may fail."""
    try:
        text = str(error)
    except BaseException as second:  # noqa: BLE001 (an exception of the user may fail in any way)
        text = f"(its message cannot be read: {type(second).__name__})"
    if isinstance(error, RunError) and text:
        return cut(clean(text), ERROR_LIMIT)
    name = type(error).__name__
    return cut(clean(f"{name}: {text}" if text else name), ERROR_LIMIT)


def traceback_of(error: BaseException) -> str:
    """The traceback from the user's first frame on, bounded: its start and its end are kept."""
    try:
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(OURS):
            frame = frame.tb_next
        lines = traceback.format_exception(type(error), error, frame, limit=-FRAMES)
        return cut(clean("".join(lines)), TRACEBACK_LIMIT)
    except BaseException as second:  # noqa: BLE001 (an exception of the user may fail in any way)
        return f"(the traceback cannot be read: {type(second).__name__})"


def _kind(error: BaseException) -> str:
    return error.code if isinstance(error, RunError) else type(error).__name__[:TYPE_LIMIT]


def _invalid(message: str) -> Outcome:
    text = cut(clean(f"{ResultInvalid.code}: {message}"), ERROR_LIMIT)
    return Outcome(Ended.FAILED, error_type=ResultInvalid.code, message=text)
