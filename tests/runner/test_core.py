"""The runner's core, without a process around it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest

from taskmill.app import Context, Taskmill
from taskmill.errors import ConfigError, Unavailable
from taskmill.runner import messages
from taskmill.runner.core import LINES_HELD, SUBMITS, Core
from tests.support import wait_until


class Host:
    """A core and what it sent."""

    def __init__(self, app: Taskmill, slots: int = 4) -> None:
        self.sent: list[messages.Up] = []
        self.writable = True
        self.core = Core(app, slots, self.sent.append, lambda: self.writable)
        self.runs = 0

    def run(self, type: str, payload: str = "null") -> int:
        self.runs += 1
        self.core.receive([messages.Job(self.runs, b"i" * 16, 1, 1, type, payload, 60.0)])
        return self.runs

    def of(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent if type(message) is kind]

    async def done(self, n: int) -> list[messages.Done]:
        await wait_until(lambda: len(self.of(messages.Done)) >= n)
        return self.of(messages.Done)


def app_with(**handlers: Callable[..., Any]) -> Taskmill:
    app = Taskmill()
    for name, function in handlers.items():
        app.task(name)(function)
    return app


async def test_each_run_has_a_context_of_its_own() -> None:
    """A contextvar that a handler sets is not seen by the next one, on the loop and in threads."""
    var = contextvars.ContextVar("var", default="unset")

    async def on_loop(ctx: Context, payload: Any) -> str:
        before = var.get()
        var.set("set")
        return before

    def in_thread(ctx: Context, payload: Any) -> str:
        before = var.get()
        var.set("set")
        return before

    host = Host(app_with(LOOP=on_loop, THREAD=in_thread), slots=1)
    for _ in range(3):
        host.run("LOOP")
        host.run("THREAD")
    assert {done.result for done in await host.done(6)} == {'"unset"'}
    assert var.get() == "unset"


async def test_a_run_that_is_cancelled_before_it_started_answers() -> None:
    """Both kinds, and the handler is never called."""
    called = []

    async def on_loop(ctx: Context, payload: Any) -> None:
        called.append(1)

    gate = threading.Event()

    def in_thread(ctx: Context, payload: Any) -> None:
        gate.wait(10)
        if payload:
            called.append(2)

    host = Host(app_with(LOOP=on_loop, THREAD=in_thread), slots=1)
    host.run("THREAD")
    for run in (host.run("LOOP"), host.run("THREAD", "true")):
        host.core.receive([messages.Cancel(run, "cancel"), messages.Cancel(99, "cancel")])
    gate.set()
    ended = {done.run: str(done.ended) for done in await host.done(3)}
    assert ended == {1: "SUCCEEDED", 2: "CANCELLED", 3: "CANCELLED"}
    assert called == []


async def test_a_payload_that_is_no_json_fails_its_run() -> None:
    """The runner lives on."""

    async def ok(ctx: Context, payload: Any) -> Any:
        return payload

    host = Host(app_with(T=ok))
    host.run("T", "{")
    host.run("T", "[" * 100_000)
    host.run("T", "7")
    assert [str(done.ended) for done in await host.done(3)] == ["FAILED", "FAILED", "SUCCEEDED"]


async def test_progress_is_coalesced() -> None:
    """A hundred thousand values become one message."""

    async def many(ctx: Context, payload: Any) -> None:
        for n in range(100_000):
            ctx.progress(n / 100_000)
        ctx.progress(1)
        await asyncio.sleep(0.5)

    host = Host(app_with(T=many))
    host.run("T")
    await host.done(1)
    assert [message.value for message in host.of(messages.Progress)] == [1.0]


async def test_log_lines_are_bounded_while_the_supervisor_does_not_read() -> None:
    """What finds no room is counted."""

    async def chatty(ctx: Context, payload: Any) -> None:
        for n in range(900):
            ctx.log("info", str(n))

    host = Host(app_with(T=chatty))
    host.writable = False
    for _ in range(8):
        host.run("T")
    await host.done(8)
    assert host.of(messages.Logged) == []
    host.core.resume()
    assert len(host.of(messages.Logged)) == LINES_HELD
    assert host.of(messages.Dropped) == [messages.Dropped(8 * 900 - LINES_HELD)]


async def test_a_thread_wakes_the_loop_once_for_many_lines() -> None:
    """And they arrive in order, before its outcome."""

    def chatty(ctx: Context, payload: Any) -> None:
        for n in range(500):
            ctx.log("info", str(n))

    host = Host(app_with(T=chatty))
    host.run("T")
    await host.done(1)
    assert [line.message for line in host.of(messages.Logged)] == [str(n) for n in range(500)]
    assert type(host.sent[-1]) is messages.Done


async def test_submissions_that_wait_are_bounded() -> None:
    """Beyond the bound, Unavailable; and the answers reach those who asked."""

    async def flood(ctx: Context, payload: Any) -> list[int]:
        results = await asyncio.gather(
            *(ctx.submit(title=str(n)) for n in range(SUBMITS + 5)), return_exceptions=True
        )
        return [sum(isinstance(result, str) for result in results), len(results)]

    host = Host(app_with(T=flood))
    host.run("T")
    await wait_until(lambda: len(host.of(messages.Submit)) == SUBMITS)
    host.core.receive([messages.Answer(call.call, "id") for call in host.of(messages.Submit)])
    assert (await host.done(1))[0].result == f"[{SUBMITS},{SUBMITS + 5}]"


async def test_a_submission_of_a_run_that_has_ended() -> None:
    """What a handler left behind gets an answer: its supervisor would give none."""
    left: list[asyncio.Task[str]] = []
    go = asyncio.Event()

    async def leaves(ctx: Context, payload: Any) -> None:
        async def late() -> str:
            await go.wait()
            return await ctx.submit(title="late")

        left.append(asyncio.create_task(late()))

    host = Host(app_with(T=leaves))
    host.run("T")
    await host.done(1)
    go.set()
    with pytest.raises(Unavailable, match="has ended"):
        await asyncio.wait_for(left[0], 10)
    assert host.of(messages.Submit) == []


def nowhere(ctx: Context, a: Nowhere, b: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def test_an_app_with_a_handler_that_cannot_be_checked_does_not_start() -> None:
    """The start says which: no task is claimed to fail."""
    with pytest.raises(ConfigError, match="nowhere: name 'Nowhere' is not defined"):
        await Host(app_with(T=nowhere)).core.start()


async def test_a_stop_ends_what_runs() -> None:
    """Async handlers are cancelled, threads see the flag, hooks run although one fails."""
    hooks: list[str] = []

    async def on_loop(ctx: Context, payload: Any) -> None:
        await asyncio.sleep(60)

    def in_thread(ctx: Context, payload: Any) -> None:
        hooks.append(f"thread: {ctx.cancelled.wait(10)} {ctx.cancelled.reason}")

    app = app_with(LOOP=on_loop, THREAD=in_thread)
    app.on_shutdown(lambda: hooks.append("first"))

    @app.on_shutdown
    async def fails() -> None:
        raise OSError("pool")

    host = Host(app)
    host.run("LOOP")
    host.run("THREAD")
    await asyncio.sleep(0.05)
    problems = await host.core.stop(5.0)
    assert problems == ["OSError: pool"]
    assert hooks == ["thread: True drain", "first"]
    assert {(done.run, str(done.ended), done.result) for done in host.of(messages.Done)} == {
        (1, "RELEASED", None),
        (2, "RELEASED", None),
    }
    assert not host.core.threads_left
