"""What a client gets back: frozen values, their names as in the schema but in snake_case, their times aware and in UTC."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import msgspec

PriorityName: TypeAlias = Literal["CRITICAL", "HIGH", "NORMAL", "LOW"]
RoleName: TypeAlias = Literal["ADMIN", "USER", "WORKER"]


class TaskStatus(StrEnum):
    """Where a task is."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether it has ended. A FAILED or CANCELLED task can still be run again, by `retry_task`."""
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


class TaskSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A task without the texts that may be large: `Task` has them too."""

    id: str
    title: str
    type: str | None
    queue: str
    status: TaskStatus
    priority: PriorityName
    attempts: int
    max_retries: int
    progress: float | None
    error: str | None
    """Why the last run that failed did so."""
    scheduled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    cancel_requested_at: datetime | None


class Task(TaskSummary, frozen=True, kw_only=True, rename="camel"):
    description: str | None
    payload: Any
    result: Any
    """What the handler returned; None too while there is none."""


class TaskLog(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    """Where to go on: `after`."""
    message: str
    level: str
    fields: Any
    created_at: datetime


class TaskRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    attempt: int
    outcome: str | None
    """None while it goes on."""
    error: str | None
    error_type: str | None
    started_at: datetime
    ended_at: datetime | None
    worker: str | None
    traceback: str | None


class TaskStats(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    total: int
    pending: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int


class User(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    email: str
    name: str
    role: RoleName
    created_at: datetime
    disabled: bool


class Login(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A token, and whose it is."""

    access_token: str
    user: User

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"  # the token must not reach a log by accident


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    role: RoleName
    queues: list[str] | None
    """The only ones it may use; None: all."""
    prefix: str
    """How the key begins."""
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None
    user: User | None


class NewKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A key as it is shown once. `key` is the secret."""

    key: str
    api_key: ApiKey

    def __repr__(self) -> str:
        return f"NewKey(api_key={self.api_key!r})"  # the secret must not reach a log by accident


MisfireName: TypeAlias = Literal["SKIP", "ONCE", "ALL"]
OverlapName: TypeAlias = Literal["ALLOW", "SKIP", "QUEUE", "CANCEL_RUNNING"]


class ScheduleSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A schedule without what its tasks carry: `Schedule` has it too."""

    id: str
    name: str
    cron: str
    timezone: str
    type: str | None
    title: str
    description: str | None
    priority: PriorityName
    queue: str
    max_retries: int | None
    misfire: MisfireName
    overlap: OverlapName
    enabled: bool
    starts_at: datetime | None
    ends_at: datetime | None
    next_fire: datetime | None
    """None: paused, or it never fires again."""
    last_fire: datetime | None
    waiting: int
    """Fires that wait for their turn (overlap QUEUE)."""
    declared_by: str | None
    """The app that declares it: its next sync undoes changes."""
    created_at: datetime
    updated_at: datetime


class Schedule(ScheduleSummary, frozen=True, kw_only=True, rename="camel"):
    payload: Any
    last_task: TaskState | None
    """The task that it made last; None when there is none, or no longer."""


class TaskState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    status: TaskStatus


class NextFire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    at: datetime
    local: str
    """The same in the schedule's zone, with its offset."""
    note: str | None
    """What a change of the clocks does to it, in words."""


class Fire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A time at which a schedule fired."""

    nominal_at: datetime
    at: datetime
    """When it was seen to."""
    outcome: str
    """SUBMITTED, RUN_NOW, MISSED, OVERLAPPED, WAITING or REFUSED."""
    task_id: str | None


class Worker(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    """Of this start of it."""
    name: str
    host: str
    queues: list[str]
    types: list[str]
    """What it has handlers for; an empty text: for tasks without a type."""
    slots: int
    running: int
    """Tasks that it holds now."""
    version: str
    started_at: datetime
    last_seen: datetime


class Queue(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many tasks of a queue are in each state: the caller's, all for an ADMIN."""

    name: str
    pending: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_at: datetime | None
    """Of the longest waiting QUEUED task; None also when 500 others of its priority wait longer, in any queue."""
    workers: int
    """Live ones that serve it."""


class WorkerSession(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a remote worker is told when it registers."""

    lease_seconds: float
    max_retries: int
    """For tasks and types that name no number."""


class ClaimedTask(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A task under a lease: settle it within `lease_seconds`, or renew."""

    id: str
    fence: int
    """Which run it is: it goes into every call about it."""
    queue: str
    type: str | None
    title: str
    payload: Any
    priority: PriorityName
    attempt: int
    """1 on the first run."""
    max_retries: int
    suspect: bool
    """A process that ran it died: run it alone in its process."""
    lease_seconds: float


class Claim(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a claim brought. The leases began when it was sent plus `waited_seconds`, or later."""

    tasks: list[ClaimedTask]
    waited_seconds: float


class CancelSignal(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A run that somebody wants stopped."""

    id: str
    fence: int


class RenewedLease(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    fence: int
    state: str
    """HELD: go on. CANCELLED: it is yours, and somebody wants it stopped. LOST: stop, and write nothing more."""
    lease_seconds: float
    """0 when it is LOST."""


class SettledRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    fence: int
    state: str
    """RECORDED: it stands. STALE: the run is not yours. CONFLICT: you have settled it before, with another outcome."""
