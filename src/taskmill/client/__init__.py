"""A Taskmill over HTTP, from Python: `Client`, its sync form, and what they give back."""

from __future__ import annotations

from taskmill.client.client import Client
from taskmill.client.sync import SyncClient
from taskmill.client.tasks import NewTask
from taskmill.client.types import (
    ApiKey,
    CancelSignal,
    Claim,
    ClaimedTask,
    Fire,
    Login,
    NewKey,
    NextFire,
    Queue,
    RenewedLease,
    Schedule,
    ScheduleSummary,
    SettledRun,
    Task,
    TaskLog,
    TaskRun,
    TaskState,
    TaskStats,
    TaskStatus,
    TaskSummary,
    User,
    Worker,
    WorkerSession,
)
from taskmill.client.work import Lease, LogLine, Outcome

__all__ = [
    "ApiKey",
    "CancelSignal",
    "Claim",
    "ClaimedTask",
    "Client",
    "Fire",
    "Lease",
    "LogLine",
    "Login",
    "NewKey",
    "NewTask",
    "NextFire",
    "Outcome",
    "Queue",
    "RenewedLease",
    "Schedule",
    "ScheduleSummary",
    "SettledRun",
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
    "WorkerSession",
]
