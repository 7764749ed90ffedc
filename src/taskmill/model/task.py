"""What a task is, on its way: as it is accepted, as it is claimed, and how its runs end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from taskmill.model.cron import CronSpec
from taskmill.model.state import Priority

TYPE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}"
QUEUE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Without a colon: it stands in keys of the index and in the names of bells."""
PAYLOAD_LIMIT: Final = 256 * 1024
"""Bytes of payload, and of result, as canonical JSON in UTF-8."""
ERROR_LIMIT: Final = 16 * 1024
"""Characters of an error message that are kept."""
TRACEBACK_LIMIT: Final = 16 * 1024
LOG_MESSAGE_LIMIT: Final = 4 * 1024
LOG_FIELDS_LIMIT: Final = 8 * 1024
LOG_LINES_PER_RUN: Final = 1000
MAX_RETRIES_LIMIT: Final = 1000
CRASH_LIMIT: Final = 3
"""Deaths of a runner in which a task ran alone, until the task is POISON."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that was checked and is about to be written. `payload` is canonical JSON text, at most PAYLOAD_LIMIT."""

    user_id: bytes
    title: str
    payload: str
    description: str | None = None
    type: str | None = None
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    scheduled_at: datetime | None = None
    """Naive UTC. None, or a time in the past, is now."""
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """One run: a task under a lease. Whoever writes for it names (id, fence)."""

    id: bytes
    fence: int
    user_id: bytes
    queue: str
    priority: Priority
    type: str | None
    title: str
    payload: str
    attempts: int
    """This run included: 1 on the first."""
    max_retries: int | None
    """None: no worker that knows the type has claimed it yet; the default of the installation holds."""
    crashes: int
    suspect: bool
    """It was in a runner that died: it runs alone."""
    releases: int
    deadline: float
    """`boottime()` at which this worker's lease ends: taken before the claim was sent, plus the lease."""


class Ended(StrEnum):
    """How a run ended, as the worker saw it."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CRASHED = "CRASHED"
    """Its runner died."""
    RELEASED = "RELEASED"
    """Given back unfinished, by a drain: no attempt is spent."""
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    """This worker has no handler for it."""
    CANCELLED = "CANCELLED"
    """The handler stopped because a cancel was requested."""
    LEASE_LOST = "LEASE_LOST"
    """Only in `runs`: the lease ran out and rescue took the task."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run yields. A handler returns or raises; nothing is written until `settle` decides."""

    ended: Ended
    result: str | None = None
    """JSON text, at most PAYLOAD_LIMIT bytes, when it SUCCEEDED."""
    error_type: str | None = None
    """A code of errors.RunError, or the name of the exception's class."""
    message: str | None = None
    traceback: str | None = None
    retry: bool = True
    """False: no retry, whatever attempts are left (Fail, RESULT_INVALID is retried like any failure)."""
    after: float | None = None
    """Seconds until the next run, when the handler said so (Retry)."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a run logged. Kept only while the run is the task's current one (joined on id and fence)."""

    task_id: bytes
    fence: int
    level: str
    message: str
    fields: str | None
    """JSON text."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease to prolong, with what the run reported since."""

    id: bytes
    fence: int
    progress: float | None = None


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal told: each lease asked for is in exactly one of the sets, as (id, fence)."""

    held: frozenset[tuple[bytes, int]]
    cancelled: frozenset[tuple[bytes, int]]
    """Still ours, and a cancel was requested."""
    lost: frozenset[tuple[bytes, int]]
    deadline: float
    """`boottime()` at which the leases in `held` and `cancelled` end."""


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """What a worker knows of a type, from its registry. `type` None is the default handler."""

    type: str | None
    timeout: float | None = None
    """Seconds; None is the worker's default."""
    max_retries: int | None = None
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Registry:
    """All that a worker can run, and what its app declares."""

    handlers: tuple[HandlerSpec, ...] = field(default=())
    crons: tuple[CronSpec, ...] = ()
    """The schedules that the app declares."""

    def get(self, type_: str | None) -> HandlerSpec | None:
        return next((h for h in self.handlers if h.type == type_), None)

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(sorted(h.type for h in self.handlers if h.type is not None))
