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


class Login(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A token, and whose it is."""

    access_token: str
    user: User

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"  # the token must not reach a log by accident
