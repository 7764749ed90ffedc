"""A task that was submitted, in the hands of who submitted it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final, Generic, TypeVar

from taskmill.app import link
from taskmill.errors import TaskCancelled, TaskFailed, Unavailable
from taskmill.model.port import Seen
from taskmill.model.state import TERMINAL, Status

T = TypeVar("T")

LOOK_FIRST: Final = 0.02
LOOK_LAST: Final = 1.0
"""Seconds between two looks at a task: they grow from the first to the last."""
LOOK_LEAST: Final = 0.5
"""Seconds that a look has, however little of the timeout is left."""
PATIENCE: Final = 60.0
"""Seconds without any answer until a wait that has no timeout gives up."""

_rng: Final = Random()


class Submitted(Generic[T]):
    """`id` is the task's. Each method has a twin that blocks, for programs without an event loop."""

    __slots__ = ("_read", "id")

    def __init__(self, id: str, read: Callable[[Any], T]) -> None:
        self.id = id
        self._read = read

    def __repr__(self) -> str:
        return f"<task {self.id}>"

    async def look(self) -> Seen:
        """The task as it is now. NotFound once it was deleted; Unavailable when nobody answers."""
        return await (await link.port()).look(self.id)

    async def status(self) -> Status:
        return (await self.look()).status

    async def cancel(self) -> None:
        """It ends as CANCELLED, at once or when its run has stopped. Conflict when it has COMPLETED."""
        await (await link.port()).cancel(self.id)

    async def wait(self, timeout: float | None = None) -> T:
        """What the handler returned, as its annotation says, once the task is COMPLETED.

        TaskFailed, TaskCancelled: it ended otherwise. TimeoutError: it has not ended after `timeout` seconds; it goes on.
        An outage is sat out as long as the timeout allows, a minute without one: then Unavailable.
        """
        ends = math.inf if timeout is None else time.monotonic() + timeout
        pause, heard = LOOK_FIRST, time.monotonic()
        while True:
            try:
                async with asyncio.timeout(max(LOOK_LEAST, min(ends - time.monotonic(), PATIENCE))):
                    seen = await self.look()
            except (Unavailable, TimeoutError) as error:
                if timeout is None and time.monotonic() - heard > PATIENCE:
                    raise Unavailable(f"nobody says how task {self.id} is: {error}") from error
            else:
                heard = time.monotonic()
                if seen.status in TERMINAL:
                    return self._outcome(seen)
            rest = min(pause, ends - time.monotonic())
            if rest <= 0:
                raise TimeoutError(f"task {self.id} has not ended after {timeout:g} s; it goes on")
            await asyncio.sleep(rest * _rng.uniform(0.8, 1.0))
            pause = min(pause * 1.5, LOOK_LAST)

    def _outcome(self, seen: Seen) -> T:
        if seen.status is Status.CANCELLED:
            raise TaskCancelled(f"task {self.id} was cancelled", id=self.id)
        if seen.status is Status.FAILED:
            raise TaskFailed(f"task {self.id} failed: {seen.error or 'no reason was kept'}", id=self.id)
        return self._read(None if seen.result is None else json.loads(seen.result))

    # -- for programs without an event loop --------------------------------------------------------------

    def look_sync(self) -> Seen:
        return link.blocking(self.look, "task.look()")

    def status_sync(self) -> Status:
        return link.blocking(self.status, "task.status()")

    def cancel_sync(self) -> None:
        link.blocking(self.cancel, "task.cancel()")

    def wait_sync(self, timeout: float | None = None) -> T:
        return link.blocking(lambda: self.wait(timeout), "task.wait()")
