"""The port through which a program submits tasks, however they travel: SQL and Redis, HTTP, or a test kit.

`connect` makes one by the settings (`taskmill.submitting.connect`), or by what `set_connector` was given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Protocol, cast

from taskmill.model.state import Priority, Status


@dataclass(frozen=True, slots=True)
class Draft:
    """A task that somebody wants to submit, checked. Whose it will be, the port knows."""

    title: str
    payload: str
    """JSON text, at most PAYLOAD_LIMIT bytes."""
    type: str | None = None
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    scheduled_at: datetime | None = None
    """Naive UTC. None, or a time in the past, is now."""
    max_retries: int | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A task as it was when somebody looked."""

    id: str
    """A UUID."""
    status: Status
    result: str | None = None
    """JSON text, when it is COMPLETED."""
    error: str | None = None
    """Of the last run that failed."""
    attempts: int = 0
    progress: float | None = None
    """0 to 1."""


class Port(Protocol):
    """It belongs to the event loop on which it is first used. Nothing is opened before that."""

    async def submit(self, drafts: Sequence[Draft]) -> list[str]:
        """Records all of them or none; their ids (UUIDs), in order.

        Unavailable: nothing was recorded, as far as is known; CommitUnknown: it may have been.
        """

    async def look(self, id: str) -> Seen:
        """NotFound: there is no such task, or it is somebody else's. Unavailable: try again."""

    async def cancel(self, id: str) -> None:
        """NotFound; Conflict when it has ended. A task that runs is told to stop, and ends as CANCELLED then."""

    async def close(self) -> None:
        """Sends what waits, closes connections. Nothing is called after it."""


_connector: Callable[[], Port] | None = None


def set_connector(connector: Callable[[], Port] | None) -> Callable[[], Port] | None:
    """Lets `connect` call this one; None: by the settings again. The one before, for who puts it back."""
    global _connector
    before, _connector = _connector, connector
    return before


def connector() -> Callable[[], Port] | None:
    """The one that was set, None by the settings: who keeps ports notices when it changes."""
    return _connector


def connect() -> Port:
    """A new port. ConfigError says what has to be set."""
    if _connector is not None:
        return _connector()
    # By its name: the settings and the layers are above, and a program that never submits does not load them.
    return cast("Port", import_module("taskmill.submitting").connect())
