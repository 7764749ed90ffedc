"""The scheduler's bounds. Seconds, unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpkeepOptions:
    poll: float = 1.0
    """The longest sleep of promote: the poll behind the bell."""
    rescue: float = 3.0
    verify: float = 2.0
    verify_grace: float = 2.0
    """Rows younger than this may be on their way to the index."""
    verify_late: float = 30.0
    """The second cursor stays behind the longest transaction that is allowed: rows become visible out of order."""
    verify_full: float = 300.0
    """Once in a while verify starts from 0 anyway."""
    fold: float = 0.5
    measure: float = 15.0
    report: float = 300.0
    """Queue health: a log line."""
    retain_completed_days: float = 30.0
    retain_failed_days: float | None = None
    """None keeps failed tasks for ever."""
    retain_hour: int = 2
    """UTC hour of the daily retention."""
    keep_fires_days: float = 30.0
    misfire_after: float = 60.0
    """A fire that is later than this was missed."""
    misfire_grace: float = 86400.0
    """Misfire.ONCE makes up for a fire that is not older."""
    journal_age: float = 3600.0
    journal_rows: int = 200_000
    leader_ttl: float = 15.0
    batch: int = 500
