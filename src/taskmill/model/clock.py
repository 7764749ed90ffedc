"""Time as Taskmill holds it: naive datetimes in UTC inside, ISO 8601 with `Z` outside, microseconds everywhere.

Leases, due times and ages compare against the database's clock. A process measures its own waiting on `boottime`,
which no clock step moves and which goes on counting while the machine sleeps.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1)


def micros(at: datetime) -> int:
    """Microseconds since 1970 of a naive UTC datetime: exact, for index scores."""
    return (at - EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """The inverse of `micros`."""
    return EPOCH + timedelta(microseconds=value)


def to_utc(at: datetime) -> datetime:
    """The inside form of an aware datetime."""
    return at.astimezone(UTC).replace(tzinfo=None)


def iso(at: datetime) -> str:
    """ISO 8601 in UTC, milliseconds, as clients see it: 2026-11-24T09:00:00.000Z."""
    return at.isoformat(timespec="milliseconds") + "Z"


def boottime() -> float:
    """Seconds on a clock that only goes forward and counts sleep too, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()
