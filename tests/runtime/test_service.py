"""Services of a process live and die together."""

from __future__ import annotations

import asyncio
import os
import signal
from random import Random

import pytest
from structlog.testing import capture_logs

from taskmill.errors import ConfigError, StartError
from taskmill.runtime.service import Group, run_services
from tests.support import wait_until


class Part:
    """Runs until stopped; its end may take a while, fail, or need a second stop."""

    def __init__(self, name: str, events: list[str], *, slow: bool = False, stuck: bool = False) -> None:
        self.name = name
        self.events = events
        self.slow = slow
        self.stuck = stuck
        self.death: BaseException | None = None
        self.failure: Exception | None = None
        self.stops = 0
        self.changed = asyncio.Event()

    async def run(self) -> None:
        self.events.append(f"{self.name} runs")
        try:
            while not self.stops and self.death is None:
                await self.changed.wait()
            if self.death is not None:
                raise self.death
            while self.stuck or (self.slow and self.stops < 2):
                self.changed.clear()
                await self.changed.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.events.append(f"{self.name} ended")

    def stop(self) -> None:
        self.stops += 1
        self.changed.set()

    def die(self, error: BaseException) -> None:
        self.death = error
        self.changed.set()


async def test_they_stop_in_reverse_order() -> None:
    """Each when the one after it has ended."""
    events: list[str] = []
    group = Group([Part("a", events), Part("b", events), Part("c", events)])
    task = asyncio.create_task(group.run())
    await wait_until(lambda: len(events) == 3)
    group.stop()
    await asyncio.wait_for(task, 5)
    assert events == ["a runs", "b runs", "c runs", "c ended", "b ended", "a ended"]


async def test_the_death_of_one_stops_all() -> None:
    """And its error is raised, so that the process ends with a status other than 0."""
    events: list[str] = []
    parts = [Part("a", events), Part("b", events), Part("c", events)]
    task = asyncio.create_task(Group(parts).run())
    await wait_until(lambda: len(events) == 3)
    parts[1].die(ValueError("no database"))
    with pytest.raises(ValueError, match="no database"):
        await asyncio.wait_for(task, 5)
    assert events[3:] == ["b ended", "c ended", "a ended"]


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (ConfigError("app: there is no such module"), []),
        (StartError("gone"), ["a service ended, and with it the process"]),
    ],
)
async def test_a_death_is_told_once(error: Exception, lines: list[str]) -> None:
    """What the user has to put right is told by the command alone, anything else by one line."""
    part = Part("a", [])
    part.die(error)
    with capture_logs() as logs, pytest.raises(type(error)):
        await asyncio.wait_for(Group([part]).run(), 5)
    assert [line["event"] for line in logs] == lines


async def test_a_service_that_ends_by_itself_is_dead() -> None:
    """Returning without a stop is no way to end."""
    events: list[str] = []
    parts = [Part("a", events), Part("b", events)]
    parts[0].stops = 1
    with pytest.raises(StartError, match="a ended without being asked to"):
        await asyncio.wait_for(Group(parts).run(), 5)
    assert events[-1] == "b ended"


async def test_a_second_stop_reaches_the_services() -> None:
    """It is their second one."""
    events: list[str] = []
    part = Part("slow", events, slow=True)
    group = Group([part])
    task = asyncio.create_task(group.run())
    await wait_until(lambda: events)
    group.stop()
    await wait_until(lambda: part.stops == 1)
    assert not task.done()
    group.stop()
    await asyncio.wait_for(task, 5)


async def test_a_service_that_does_not_stop_is_cancelled() -> None:
    """After the grace; the others still stop in order."""
    events: list[str] = []
    group = Group([Part("a", events), Part("stuck", events, stuck=True)], grace=0.05)
    task = asyncio.create_task(group.run())
    await wait_until(lambda: len(events) == 2)
    group.stop()
    await asyncio.wait_for(task, 5)
    assert events[2:] == ["stuck ended", "a ended"]


async def test_an_error_while_stopping_is_raised_after_all_have_stopped() -> None:
    """It is not swallowed."""
    events: list[str] = []
    parts = [Part("a", events), Part("b", events)]
    parts[1].failure = OSError("flush failed")
    group = Group(parts)
    task = asyncio.create_task(group.run())
    await wait_until(lambda: len(events) == 2)
    group.stop()
    with pytest.raises(OSError, match="flush failed"):
        await asyncio.wait_for(task, 5)
    assert events[-1] == "a ended"


async def test_a_stop_before_the_start_ends_at_once() -> None:
    """Nothing hangs."""
    group = Group([Part("a", []), Part("b", [])])
    group.stop()
    await asyncio.wait_for(group.run(), 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_them(number: int) -> None:
    """And a second one is the second stop. Who sent it is told what happens, and when it has."""
    part = Part("slow", [], slow=True)
    with capture_logs() as logs:
        task = asyncio.create_task(run_services([part]))
        await wait_until(lambda: part.events)
        os.kill(os.getpid(), number)
        await wait_until(lambda: part.stops == 1)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(task, 5)
    assert part.stops >= 2
    assert [line["event"].partition(":")[0] for line in logs] == ["stopping", "stopped"]


async def test_start_and_stop_under_stress() -> None:
    """Ten groups, fifty times, stopped and killed at random moments: each ends, and none leaves a task behind."""
    rng = Random(7)

    async def once() -> None:
        parts = [Part(name, [], slow=rng.random() < 0.3) for name in "abc"]
        group = Group(parts, grace=0.02)
        task = asyncio.create_task(group.run())
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if rng.random() < 0.3:
            rng.choice(parts).die(StartError("dead"))
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        for _ in range(rng.randrange(1, 3)):
            group.stop()
        await asyncio.wait((task,), timeout=5)
        error = task.exception()
        assert error is None or (isinstance(error, StartError) and error.message == "dead")
        for part in parts:
            assert part.events in ([], [f"{part.name} runs", f"{part.name} ended"])

    for _ in range(50):
        await asyncio.gather(*(once() for _ in range(10)))
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"a", "b", "c"}
