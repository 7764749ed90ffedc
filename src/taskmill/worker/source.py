"""Where a worker's tasks come from and where its outcomes go: the one port of the supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from taskmill.model.task import Claimed, LogLine, NewTask, Outcome, Registry, Renewal, Renewed


class Source(Protocol):
    """SQL and Redis (`tasks/source.py`), or the API over HTTP (`remote.py`). Every call may raise `Unavailable`."""

    async def start(self, registry: Registry) -> None:
        """Registers the worker: it is seen as live from here on."""

    async def claim(self, n: int, *, suspects: int, wait: float) -> list[Claimed]:
        """At most n (≥ 1) tasks, at most `suspects` of them suspects, each under a lease.

        Returns as soon as something is claimed, [] after `wait` seconds or after `poke`. Never cancelled while in
        flight: `halt` ends it.
        """

    def poke(self) -> None:
        """A claim that waits returns, since the worker can take more by now. Any thread of the loop; never fails."""

    async def halt(self) -> None:
        """No claim returns new work after the one in flight; what was reserved is given back."""

    async def renew(self, leases: Sequence[Renewal]) -> Renewed:
        """Prolongs leases. Unavailable: the old deadlines stand."""

    async def settle(self, batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        """Records outcomes and returns when they are committed, an answer each, in order. False: stale, another run
        has the task. Unavailable: after retries of its own; the caller may try again while it holds the leases.
        BadUserInput, PayloadTooLarge: one of them can never be recorded as it is; nothing was.
        """

    async def log(self, lines: Sequence[LogLine]) -> None:
        """Hands lines over. Bounded: drops and counts when full, and never waits long."""

    async def submit(self, tasks: Sequence[NewTask], run: tuple[bytes, int]) -> list[bytes]:
        """Records new tasks, all or none; their ids. `run`: which one submits them, as (id, fence)."""

    async def cancels(self) -> list[tuple[bytes, int]]:
        """Waits for cancel signals: (id, fence) each. A hint, `renew` tells them anyway."""

    async def close(self) -> None:
        """Removes the worker."""
