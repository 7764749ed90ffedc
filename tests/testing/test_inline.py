"""One handler at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from taskmill import Context, Taskmill
from taskmill.errors import InvalidPayload, ResultInvalid, RunTimeout
from taskmill.testing import FakeContext, run_inline, run_inline_sync
from tests.support import wait_until

app = Taskmill()


told: list[str | None] = []


@dataclass
class Report:
    names: list[str]


@app.task
async def gather(ctx: Context, names: set[str], fail: bool = False) -> Report:
    ctx.log("info", "gathering", n=len(names))
    ctx.progress(0.5)
    await gather.submit(names=set())
    if fail:
        raise KeyError("asked for")
    return Report(sorted(names))


@app.task(timeout=0.05)
async def slow(ctx: Context, own: bool) -> None:
    if own:
        raise TimeoutError("own")
    await asyncio.Event().wait()


@app.task(timeout=0.3)  # a thread that has not started yet would be told nothing
def slow_thread(ctx: Context) -> None:
    ctx.cancelled.wait(10)
    told.append(ctx.cancelled.reason)


@app.task
def odd(ctx: Context) -> object:
    return {1, 2}


async def test_it_returns_what_a_wait_would() -> None:
    """Parameters and result go through JSON; what the handler did with its context can be looked at."""
    ctx = FakeContext(attempt=2)
    assert await run_inline(gather, ctx=ctx, names=["b", "a", "a"]) == Report(["a", "b"])
    assert [(line.level, line.message, line.fields) for line in ctx.lines] == [
        ("INFO", "gathering", {"n": 2})
    ]
    assert ctx.progressed == [0.5]
    assert [task.type for task in ctx.submitted] == ["gather"]
    assert ctx.attempt == 2


async def test_what_it_raises_comes_through() -> None:
    """The handler's own exception, not a record of it."""
    with pytest.raises(KeyError, match="asked for"):
        await run_inline(gather, names=set(), fail=True)


async def test_what_a_worker_refuses_is_refused() -> None:
    """Parameters that do not fit, and a result that is not JSON."""
    with pytest.raises(InvalidPayload):
        await run_inline(gather, names=5)
    with pytest.raises(ResultInvalid):
        await run_inline(odd)


async def test_its_time_is_bounded() -> None:
    """After the handler's timeout it is RunTimeout, in a thread too; a TimeoutError of its own stays one."""
    with pytest.raises(RunTimeout):
        await run_inline(slow, own=False)
    with pytest.raises(TimeoutError, match="own"):
        await run_inline(slow, own=True)
    with pytest.raises(RunTimeout):
        await run_inline(slow_thread)
    await wait_until(lambda: told == ["timeout"])


def test_without_a_loop() -> None:
    """`run_inline_sync` runs async and plain handlers."""
    assert run_inline_sync(gather, names={"x"}) == Report(["x"])
