"""What a bench knows: its tasks, and what time it is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from taskmill.model.port import Draft
from taskmill.model.state import TERMINAL, Priority, Status
from taskmill.model.task import Outcome


class Clock:
    """Stands still until it is moved. Delays, schedules and retries go by it; timeouts of runs do not."""

    def __init__(self, at: datetime | None = None) -> None:
        if at is not None and at.tzinfo is None:
            raise ValueError("a clock's time has a zone, for example datetime(2026, 5, 1, tzinfo=UTC)")
        self._now = datetime.now(UTC) if at is None else at.astimezone(UTC)

    def now(self) -> datetime:
        """In UTC (aware)."""
        return self._now

    def advance(self, by: float | timedelta) -> datetime:
        """Moves it by seconds, or a timedelta; what time it is then. ValueError: it does not go back."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError("a clock does not go back")
        self._now += step
        return self._now


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a run logged."""

    level: str
    message: str
    fields: dict[str, Any]


@dataclass(slots=True, eq=False)
class Job:
    """A task on a bench: as it was submitted, and what became of it."""

    id: str
    title: str
    type: str | None
    queue: str
    priority: Priority
    payload: Any
    """A value as JSON has it."""
    due: datetime
    """When it may run, in UTC (aware); of a retry, when that may."""
    max_retries: int | None
    description: str | None
    status: Status = Status.QUEUED
    attempts: int = 0
    result: Any = None
    """What the handler returned, as JSON has it."""
    error: str | None = None
    """Of the last run that failed."""
    progress: float | None = None
    logs: list[Line] = field(default_factory=list)
    """Of all its runs."""
    runs: list[Outcome] = field(default_factory=list)
    """How its runs ended, in order: `ended`, `error_type`, `message`, `traceback`."""
    cancel_requested: bool = False
    releases: int = 0

    @classmethod
    def of(cls, draft: Draft, id: str, now: datetime) -> Job:
        due = now
        if draft.scheduled_at is not None:
            due = max(now, draft.scheduled_at.replace(tzinfo=UTC))
        return cls(
            id=id,
            title=draft.title,
            type=draft.type,
            queue=draft.queue,
            priority=draft.priority,
            payload=json.loads(draft.payload),
            due=due,
            max_retries=draft.max_retries,
            description=draft.description,
            status=Status.PENDING if due > now else Status.QUEUED,
        )

    @property
    def ended(self) -> bool:
        """COMPLETED, FAILED or CANCELLED."""
        return self.status in TERMINAL

    def __repr__(self) -> str:
        return f"<job {self.type or self.title!r} {self.payload!r} {self.status.name}>"
