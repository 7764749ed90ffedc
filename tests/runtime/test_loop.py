"""The shell of a service loop."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from structlog.testing import capture_logs

from taskmill.errors import Unavailable
from taskmill.model.backoff import LOOPS, OUTAGES, Backoff
from taskmill.runtime import loop as module
from taskmill.runtime.loop import loop
from tests.support import wait_until


class Turns:
    """A `run_once` that does what it is told, turn by turn, and then stops the loop."""

    def __init__(self, *script: float | BaseException) -> None:
        self.script = list(script)
        self.count = 0
        self.stop = asyncio.Event()

    async def __call__(self) -> float:
        self.count += 1
        if not self.script:
            self.stop.set()
            return 0.0
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Backoffs that were asked for, and not slept."""
    asked: list[float] = []

    def delay(n: int, rng: Random, of: Backoff) -> float:
        asked.append(n)
        return 0.0

    monkeypatch.setattr(module, "loop_delay", delay)
    return asked


async def test_turns_follow_until_stop() -> None:
    """Zero means at once."""
    turns = Turns(0.0, 0.001, 0.0)
    await asyncio.wait_for(loop("l", turns, turns.stop, timeout=1), 5)
    assert turns.count == 4


async def test_a_failure_backs_off_and_a_success_ends_it(delays: list[float]) -> None:
    """The backoff grows with the failures in a row, and starts anew."""
    turns = Turns(Unavailable("a"), Unavailable("a"), 0.0, Unavailable("a"))
    counted: list[str] = []
    await asyncio.wait_for(loop("l", turns, turns.stop, timeout=1, failed=counted.append), 5)
    assert delays == [1, 2, 1]
    assert counted == ["l"] * 3


async def test_an_outage_is_looked_at_more_often_than_a_bug() -> None:
    """When a server is back its loops go on within seconds."""
    outages = (Unavailable("a"), TimeoutError(), ConnectionRefusedError())
    assert [module.backoff_of(error) for error in outages] == [OUTAGES] * 3
    assert module.backoff_of(ValueError("b")) == LOOPS


async def test_an_outage_is_told_once(delays: list[float]) -> None:
    """One line at its start, one for another error, one at its end."""
    turns = Turns(Unavailable("a"), Unavailable("a"), ValueError("b"), 0.0)
    with capture_logs() as logs:
        await asyncio.wait_for(loop("l", turns, turns.stop, timeout=1), 5)
    assert [line["event"] for line in logs] == ["a loop fails, and tries again"] * 2 + ["a loop works again"]
    assert logs[0]["exc_info"] is None
    assert isinstance(logs[1]["exc_info"], ValueError)


async def test_a_turn_that_hangs_is_cancelled(delays: list[float]) -> None:
    """After the timeout it is a failure like any other."""
    stop = asyncio.Event()
    turns = 0

    async def hang() -> float:
        nonlocal turns
        turns += 1
        if turns == 1:
            await asyncio.sleep(60)
        stop.set()
        return 0.0

    with capture_logs() as logs:
        await asyncio.wait_for(loop("l", hang, stop, timeout=0.05), 5)
    assert turns == 2
    assert logs[0]["error"] == "it took longer than 0.05 s"


async def test_a_stop_ends_any_wait() -> None:
    """Of a turn and of a backoff."""
    for step in (3600.0, Unavailable("down")):
        turns = Turns(step)
        task = asyncio.create_task(loop("l", turns, turns.stop, timeout=1))
        await wait_until(lambda turns=turns: turns.count == 1)  # type: ignore[misc]
        turns.stop.set()
        await asyncio.wait_for(task, 5)


async def test_wake_starts_the_next_turn() -> None:
    """Before its time."""
    turns = Turns(3600.0)
    wake = asyncio.Event()
    task = asyncio.create_task(loop("l", turns, turns.stop, timeout=1, wake=wake))
    await wait_until(lambda: turns.count == 1)
    wake.set()
    await asyncio.wait_for(task, 5)
    assert turns.count == 2


async def test_what_others_cancelled_is_a_failure_and_not_the_end(delays: list[float]) -> None:
    """A turn that waited for something that somebody cancelled; the loop goes on. Cancelled itself, it ends."""
    turns = Turns(asyncio.CancelledError(), 0.0)
    await asyncio.wait_for(loop("l", turns, turns.stop, timeout=1), 5)
    assert turns.count == 3
    assert delays == [1]
    sleeps = asyncio.create_task(loop("l", Turns(60.0), asyncio.Event(), timeout=1))
    await asyncio.sleep(0)
    sleeps.cancel()
    await asyncio.wait((sleeps,))
    assert sleeps.cancelled()
