"""Taskmill, a durable, distributed task queue: what a user's module imports. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskmill.app import Context, Taskmill
    from taskmill.client import Client
    from taskmill.errors import Fail, Retry, TaskmillError, Unavailable
    from taskmill.model.state import Priority

__version__ = "0.1.0"

__all__ = ["Client", "Context", "Fail", "Priority", "Retry", "Taskmill", "TaskmillError", "Unavailable"]

_HOMES = {
    "Client": "taskmill.client",
    "Context": "taskmill.app",
    "Fail": "taskmill.errors",
    "Priority": "taskmill.model.state",
    "Retry": "taskmill.errors",
    "Taskmill": "taskmill.app",
    "TaskmillError": "taskmill.errors",
    "Unavailable": "taskmill.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskmill' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
