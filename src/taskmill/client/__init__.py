"""A Taskmill over HTTP, from Python: `Client`, and what it gives back."""

from __future__ import annotations

from taskmill.client.client import Client
from taskmill.client.sync import SyncClient
from taskmill.client.tasks import NewTask
from taskmill.client.types import (
    Login,
    Task,
    TaskLog,
    TaskRun,
    TaskStats,
    TaskStatus,
    TaskSummary,
    User,
)

__all__ = [
    "Client",
    "Login",
    "NewTask",
    "SyncClient",
    "Task",
    "TaskLog",
    "TaskRun",
    "TaskStats",
    "TaskStatus",
    "TaskSummary",
    "User",
]
