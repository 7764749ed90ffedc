"""What every verb needs, in one value, and the two things they do after a commit: offer rows to the index, ring bells.

Both are best-effort and never hold up a caller: what is lost here is found by verify, or by the poll behind the bell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Final

from taskmill.errors import IndexUnavailable
from taskmill.index.index import Entry, Index
from taskmill.index.wake import Bell
from taskmill.model.clock import micros, to_utc
from taskmill.model.decide import Policy
from taskmill.model.state import Status
from taskmill.model.task import Claimed
from taskmill.runtime.probes import Probes
from taskmill.sql.engine import Database
from taskmill.tasks.row import TaskRow

OFFERS: Final = 20_000
"""Rows that may wait for the index; beyond, verify brings them."""
HINT_SPACING: Final = 0.02
"""Seconds between two rings of the same round: the first is at once, what comes meanwhile is one ring."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Seconds, unless said otherwise. The same on every process of an installation."""

    lease: float = 30.0
    policy: Policy = field(default_factory=Policy)
    worker_ttl: float = 60.0
    """A worker row that was not seen for so long names no live worker."""
    schedules: int = 1000
    """How many schedules a user may have."""


class Mill:
    """The parts that the verbs work on. `index` None: SQL alone, as in a Redis outage that never ends."""

    def __init__(
        self,
        db: Database,
        index: Index | None,
        bell: Bell,
        options: TaskOptions,
        probes: Probes,
        rng: Random | None = None,
    ) -> None:
        self.db = db
        self.index = index
        self.bell = bell
        self.options = options
        self.probes = probes
        self.rng = rng or Random()
        self._offers: dict[str, list[Entry]] = {}
        self._offered = 0
        self._hints: set[str] = set()
        self._offering: asyncio.Task[None] | None = None
        self._hinting: asyncio.Task[None] | None = None

    def submitted(self, rows: Sequence[TaskRow]) -> None:
        """After the commit of new tasks: count them, offer those that are QUEUED, ring for who promotes the others."""
        for row in rows:
            self.probes.tasks_created.labels(priority=row.priority.name).inc()
        self.offer([r for r in rows if r.status is Status.QUEUED])
        self.hint("journal", *({"due"} if any(r.status is Status.PENDING for r in rows) else ()))

    def offer(self, rows: Sequence[TaskRow]) -> None:
        """Offer QUEUED rows to the index, in the background, after their commit."""
        self._offer((row.queue, _entry(row, row.check_at)) for row in rows)

    def offer_again(self, runs: Sequence[Claimed]) -> None:
        """Offer what was given back. By this machine's clock: the index orders by it, until verify brings the row's."""
        now = to_utc(datetime.now(UTC))
        self._offer((run.queue, _entry(run, now)) for run in runs)

    def _offer(self, entries: Iterable[tuple[str, Entry]]) -> None:
        if self.index is None:
            self.hint(*{f"queue:{queue}" for queue, _ in entries})
            return
        for queue, entry in entries:
            if self._offered >= OFFERS:
                break
            self._offers.setdefault(queue, []).append(entry)
            self._offered += 1
        if self._offers and self._offering is None:
            self._offering = asyncio.create_task(self._push(self.index), name="mill:offer")

    def hint(self, *channels: str) -> None:
        """Ring bells, in the background, after a commit."""
        self._hints.update(channels)
        if self._hints and self._hinting is None:
            self._hinting = asyncio.create_task(self._ring(), name="mill:hint")

    async def flush(self) -> None:
        """Wait until what was offered and hinted is sent (or refused)."""
        while tasks := [t for t in (self._offering, self._hinting) if t is not None]:
            await asyncio.wait(tasks)

    async def _push(self, index: Index) -> None:
        try:
            while self._offers:
                offers, self._offers, self._offered = self._offers, {}, 0
                for queue, entries in offers.items():
                    try:
                        await index.push(queue, entries)
                    except IndexUnavailable:
                        self.probes.index_errors.inc()
                        self.hint(f"queue:{queue}")
        finally:
            self._offering = None

    async def _ring(self) -> None:
        try:
            while self._hints:
                channels, self._hints = self._hints, set()
                for channel in sorted(channels):
                    await self.bell.ring(channel)
                await asyncio.sleep(HINT_SPACING)
        finally:
            self._hinting = None


def _entry(task: TaskRow | Claimed, at: datetime) -> Entry:
    return Entry(id=task.id, fair=task.user_id, band=task.priority, at=micros(at))
