"""The runs of a worker: each one holds a slot and a lease."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskmill.model.task import Claimed, HandlerSpec, Outcome
from taskmill.runner import messages

if TYPE_CHECKING:
    from taskmill.worker.runners import Runner


@dataclass(slots=True, eq=False)
class Run:
    """One claimed task in this worker.

    It holds its lease until it is `closed` (settled, or lost), and its slot until it is not `executing` either.
    """

    key: int
    claimed: Claimed
    spec: HandlerSpec
    deadline: float
    """`boottime()` at which its lease ends."""
    threaded: bool = False
    executing: bool = False
    """Its handler runs, or waits for its runner to start."""
    sent: bool = False
    """Its runner has it: from here on it counts as an attempt."""
    runner: Runner | None = None
    closed: bool = False
    settling: bool = False
    """Its outcome is on its way: whatever a renewal says now, the answer to the settle decides."""
    outcome: Outcome | None = None
    """How it ended, until that is settled."""
    reason: str | None = None
    """Why it was told to stop."""
    began: float = math.inf
    """`boottime()` when it was sent to its runner."""
    expires: float = math.inf
    """`boottime()` of its timeout."""
    progress: float | None = None
    """Not yet sent with a renewal."""
    failures: int = 0
    """Settles that failed for another reason than an outage."""

    @property
    def lease(self) -> tuple[bytes, int]:
        return self.claimed.id, self.claimed.fence

    @property
    def lost(self) -> bool:
        """Its lease is gone: nothing more is sent for it."""
        return self.closed and self.reason == messages.LOST

    @property
    def alone(self) -> bool:
        return self.claimed.suspect or self.spec.isolated


class Book:
    """The runs, and the slots they take. `changed` is set when a slot becomes free."""

    def __init__(self, slots: int, changed: asyncio.Event) -> None:
        self.slots = slots
        self.runs: dict[int, Run] = {}
        self.by_lease: dict[tuple[bytes, int], Run] = {}
        self.suspects = 0
        self._keys = itertools.count(1)
        self._changed = changed

    @property
    def free(self) -> int:
        return self.slots - len(self.runs)

    def open(self, claimed: Claimed, spec: HandlerSpec, *, threaded: bool) -> Run:
        run = Run(next(self._keys), claimed, spec, claimed.deadline, threaded)
        self.runs[run.key] = run
        self.by_lease[run.lease] = run
        self.suspects += claimed.suspect
        return run

    def leave(self, run: Run) -> bool:
        """Frees the slot when nothing holds it any more; whether it did."""
        if not run.closed or run.executing or self.runs.pop(run.key, None) is None:
            return False
        if self.by_lease.get(run.lease) is run:
            del self.by_lease[run.lease]
        self.suspects -= run.claimed.suspect
        self._changed.set()
        return True

    def find(self, leases: Iterable[tuple[bytes, int]]) -> list[Run]:
        """The runs of these leases that still hold them."""
        found = (self.by_lease.get(lease) for lease in leases)
        return [run for run in found if run is not None and not run.closed]
