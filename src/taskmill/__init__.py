"""Taskmill, a durable, distributed task queue: what a user's module imports. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskmill.app import Context, Submitted, Taskmill, submit_in
    from taskmill.client import Client
    from taskmill.errors import (
        Fail,
        InvalidPayload,
        Retry,
        TaskCancelled,
        TaskFailed,
        TaskmillError,
        Unavailable,
    )
    from taskmill.model.state import Priority

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Context",
    "Fail",
    "InvalidPayload",
    "Priority",
    "Retry",
    "Submitted",
    "TaskCancelled",
    "TaskFailed",
    "Taskmill",
    "TaskmillError",
    "Unavailable",
    "submit_in",
]

_HOMES = {
    "Client": "taskmill.client",
    "Context": "taskmill.app",
    "Fail": "taskmill.errors",
    "InvalidPayload": "taskmill.errors",
    "Priority": "taskmill.model.state",
    "Retry": "taskmill.errors",
    "Submitted": "taskmill.app",
    "TaskCancelled": "taskmill.errors",
    "TaskFailed": "taskmill.errors",
    "Taskmill": "taskmill.app",
    "TaskmillError": "taskmill.errors",
    "Unavailable": "taskmill.errors",
    "submit_in": "taskmill.app",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskmill' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
