"""A Taskmill over HTTP, from Python: `Client`, its sync form, and what they give back."""

from __future__ import annotations

from taskmill.client.client import Client
from taskmill.client.sync import SyncClient
from taskmill.client.tasks import NewTask
from taskmill.client.types import (
    ApiKey,
    Fire,
    Login,
    NewKey,
    NextFire,
    Queue,
    Schedule,
    ScheduleSummary,
    Task,
    TaskLog,
    TaskRun,
    TaskState,
    TaskStats,
    TaskStatus,
    TaskSummary,
    User,
    Worker,
)

__all__ = [
    "ApiKey",
    "Client",
    "Fire",
    "Login",
    "NewKey",
    "NewTask",
    "NextFire",
    "Queue",
    "Schedule",
    "ScheduleSummary",
    "SyncClient",
    "Task",
    "TaskLog",
    "TaskRun",
    "TaskState",
    "TaskStats",
    "TaskStatus",
    "TaskSummary",
    "User",
    "Worker",
]
