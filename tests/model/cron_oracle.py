"""An oracle for cron that shares nothing with the product but the data of the zones: it walks minute by minute in UTC,
looks at the wall's clock, and remembers what the wall has shown.

    fixed time      fires when the wall shows it for the first time; when the wall jumps over it, at the jump
    anything else   fires whenever the wall shows it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "UTC")
MINUTE = timedelta(minutes=1)


@cache
def zone(name: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@dataclass(frozen=True)
class Minute:
    """One minute of UTC: what the wall shows, whether it showed that before, and what it jumped over to get here."""

    at: datetime
    wall: datetime
    again: bool
    jumped: tuple[datetime, ...]


@cache
def edges(name: str, first: int = 2026, last: int = 2027) -> tuple[datetime, ...]:
    """The UTC hours in which, or at the end of which, the clocks of a zone are changed."""
    found = []
    at, hour = datetime(first, 1, 1), timedelta(hours=1)
    ahead = wall_at(name, at) - at
    while at.year <= last:
        at += hour
        before, ahead = ahead, wall_at(name, at) - at
        if ahead != before:
            found.append(at)
    return tuple(found)


def wall_at(name: str, at: datetime) -> datetime:
    return at.replace(tzinfo=UTC).astimezone(zone(name)).replace(tzinfo=None)


@cache
def walk(name: str, start: datetime, days: int) -> tuple[Minute, ...]:
    """Each minute of `days` days."""
    seen: set[datetime] = set()
    found = []
    at = start - timedelta(hours=4)  # what the wall has shown before it begins
    before = wall_at(name, at - MINUTE)
    while at < start + timedelta(days=days):
        wall = wall_at(name, at)
        jumped = tuple(before + n * MINUTE for n in range(1, max(1, (wall - before) // MINUTE)))
        if at >= start:
            found.append(Minute(at, wall, wall in seen, jumped))
        seen.add(wall)
        seen.update(jumped)  # what was jumped over has had its turn
        before = wall
        at += MINUTE
    return tuple(found)


def fires(expression: str, minutes: Iterable[Minute]) -> list[datetime]:
    """When it fires within these minutes, in UTC."""
    parts = expression.upper().split()
    fixed = parts[0][0] != "*" and parts[1][0] != "*"
    match = matcher(parts)
    if not fixed:
        return [m.at for m in minutes if match(m.wall)]
    return [
        m.at for m in minutes if (match(m.wall) and not m.again) or (m.jumped and any(map(match, m.jumped)))
    ]


class matcher:
    """The five fields, taken apart as their manual says."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.minutes = numbers(parts[0], 0, 59)
        self.hours = numbers(parts[1], 0, 23)
        self.days = numbers(parts[2], 1, 31)
        self.months = numbers(parts[3], 1, 12)
        self.weekdays = {n % 7 for n in numbers(parts[4], 0, 7)}
        self.both = parts[2][0] == "*" or parts[4][0] == "*"

    def __call__(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.month not in self.months:
            return False
        day, weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        return day and weekday if self.both else day or weekday


def numbers(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        body, _, step = part.partition("/")
        if body == "*":
            begin, end = low, high
        elif "-" in body:
            begin, end = (int(n) for n in body.split("-"))
        else:
            begin, end = int(body), (high if step else int(body))
        found.update(range(begin, end + 1, int(step or 1)))
    return found
