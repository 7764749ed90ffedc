"""What a handler can do with its `ctx`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskmill.app import Context
from taskmill.model.ids import new_id
from taskmill.model.port import Draft


class Port:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []
        self.values: list[float] = []
        self.tasks: list[Draft] = []

    def log(self, ctx: Context, level: str, message: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, message, fields))

    def progress(self, ctx: Context, value: float) -> None:
        self.values.append(value)

    def submit(self, ctx: Context, task: Draft) -> concurrent.futures.Future[str]:
        self.tasks.append(task)
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        future.set_result("an id")
        return future


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def ctx(port: Port) -> Context:
    return Context(port, new_id(), 7, 2, type="T", payload={"a": 1}, timeout=60)


def test_what_it_says_of_the_run(ctx: Context) -> None:
    """The id as text, the fence, the attempt, when the time is up."""
    assert str(uuid.UUID(ctx.task_id)) == ctx.task_id
    assert (ctx.fence, ctx.attempt, ctx.type, ctx.payload) == (7, 2, "T", {"a": 1})
    assert 50 < ctx.remaining <= 60
    assert timedelta(seconds=50) < ctx.deadline - datetime.now(UTC) <= timedelta(seconds=60)


@pytest.mark.parametrize(("value", "shown"), [(0, 0.0), (0.25, 0.25), (-3, 0.0), (7, 1.0), (math.inf, 1.0)])
def test_progress_is_clamped(ctx: Context, port: Port, value: float, shown: float) -> None:
    """Between 0 and 1."""
    ctx.progress(value)
    assert port.values == [shown]


def test_progress_that_is_no_number(ctx: Context) -> None:
    """NaN and text are errors of the handler."""
    with pytest.raises(ValueError, match="nan"):
        ctx.progress(math.nan)
    with pytest.raises(ValueError, match="could not convert"):
        ctx.progress("half")  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "level"), [("info", "INFO"), ("ERROR", "ERROR"), ("warn", "WARNING")])
def test_log_levels(ctx: Context, port: Port, given: str, level: str) -> None:
    """In any case of letters."""
    ctx.log(given, "m", a=1)
    assert port.lines == [(level, "m", {"a": 1})]


def test_an_unknown_log_level(ctx: Context) -> None:
    """Is an error with the names that there are."""
    with pytest.raises(ValueError, match="debug, info, warning or error"):
        ctx.log("loud", "m")


def test_a_run_logs_a_thousand_lines(ctx: Context, port: Port) -> None:
    """The last one says that the rest is dropped."""
    for n in range(2000):
        ctx.log("info", str(n))
    assert len(port.lines) == 1000
    assert port.lines[-1] == ("WARNING", "1,000 lines were logged in this run: the rest is dropped", {})


async def test_submit_hands_over_a_checked_task(ctx: Context, port: Port) -> None:
    """The payload as JSON text, the time in UTC, the priority by name or value."""
    when = datetime(2030, 1, 1, 12, tzinfo=UTC)
    new = await ctx.submit(
        title="t", type="X", payload=[1, "é"], priority="LOW", scheduled_at=when, max_retries=0
    )
    assert new == "an id"
    task = port.tasks[0]
    assert (task.title, task.type, task.payload, task.queue) == ("t", "X", '[1,"é"]', "default")
    assert (task.priority.name, task.max_retries) == ("LOW", 0)
    assert task.scheduled_at == datetime(2030, 1, 1, 12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": ""},
        {"title": "x" * 256},
        {"type": "no type"},
        {"queue": "no queue"},
        {"priority": "URGENT"},
        {"priority": 9},
        {"scheduled_at": datetime(2030, 1, 1)},
        {"max_retries": -1},
        {"max_retries": True},
        {"payload": math.nan},
        {"payload": {1, 2}},
        {"payload": "x" * 262_145},
    ],
    ids=str,
)
async def test_submit_says_what_is_wrong(ctx: Context, port: Port, wrong: dict[str, Any]) -> None:
    """ValueError, before anything is sent."""
    arguments: dict[str, Any] = {"title": "t"} | wrong
    with pytest.raises(ValueError, match=r"\w"):
        await ctx.submit(**arguments)
    assert port.tasks == []


async def test_submit_sync_is_for_threads(ctx: Context) -> None:
    """On the loop it would block for ever: it says what to write."""
    assert await asyncio.to_thread(ctx.submit_sync, title="t") == "an id"
    with pytest.raises(RuntimeError, match=r"await ctx\.submit"):
        ctx.submit_sync(title="t")


async def test_cancelled_may_be_awaited(ctx: Context) -> None:
    """Before and after it is set, by several at once."""
    assert not ctx.cancelled

    async def wait() -> bool:
        await ctx.cancelled
        return bool(ctx.cancelled)

    waits = [asyncio.create_task(wait()) for _ in range(3)]
    gone = asyncio.create_task(wait())
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0)
    ctx.cancelled.set("cancel")
    ctx.cancelled.set("timeout")
    assert await asyncio.wait_for(asyncio.gather(*waits), 5) == [True] * 3
    assert await asyncio.wait_for(wait(), 5)
    assert ctx.cancelled.reason == "cancel"


def test_cancelled_may_be_waited_for_in_a_thread(ctx: Context) -> None:
    """With a timeout, and before or after it is set."""
    assert ctx.cancelled.wait(0.01) is False
    thread = threading.Timer(0.05, ctx.cancelled.set, ["drain"])
    thread.start()
    assert ctx.cancelled.wait(10) is True
    assert ctx.cancelled.wait() is True
    thread.join()
