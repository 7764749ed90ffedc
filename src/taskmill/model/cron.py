"""Cron: when an expression fires, in the wall clock of a zone, with each change of the clocks answered.

Five fields, as Debian's cron reads them (cronsim does the fields). What happens at a change of the clocks is ours:

- a *fixed time* (neither the minute nor the hour field begins with `*`) fires once for each wall-clock time: one that
  does not exist fires when the clocks have gone forward, one that comes twice fires the first time;
- *anything else* follows time as it passes: it fires at each minute whose wall-clock time matches, so twice in an hour
  that comes twice, and not in an hour that does not exist.

Zones come from the pinned `tzdata` package and never from the machine: all processes agree. Times are naive UTC.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from functools import cache, lru_cache
from importlib import resources
from typing import Final
from zoneinfo import ZoneInfo

import tzdata  # type: ignore[import-untyped]  # it has no types; one text is read
from cronsim import CronSim, CronSimError

from taskmill.model.state import Priority

EXPRESSION_LIMIT: Final = 255
"""Characters of an expression: refused before it is read."""
FIELDS: Final = ("minute", "hour", "day of month", "month", "day of week")
ZONES_VERSION: Final[str] = tzdata.IANA_VERSION
"""Such as 2026a: grows with each change of the rules."""
LAST_YEAR: Final = 9990
"""Beyond it nothing fires: the calendar of Python ends soon after."""

_FIELD: Final = re.compile(r"[0-9A-Z*,/#-]+")
_ONE: Final = re.compile(r"(?<![0-9A-Z])0*([0-9A-Z]+)-0*\1/0*[1-9][0-9]*(?![0-9A-Z/])")
"""A range of one number, with a step."""
_SECOND: Final = timedelta(seconds=1)
_STRIDE: Final = timedelta(hours=6)
"""No zone changes its clocks twice within it."""
_NEAR: Final = timedelta(days=4)
_NOTED: Final = timedelta(days=40)
"""How far back from a fire the words look for times that did not exist."""
_MARGIN: Final = timedelta(days=2)
"""More than any change of the clocks."""


class Misfire(IntEnum):
    """What becomes of times that passed while no scheduler ran. The number is what SQL stores."""

    SKIP = 1
    """Nothing: it goes on with the next one."""
    ONCE = 2
    """One task for the latest of them, unless that is too long ago."""
    ALL = 3
    """A task for each, for the newest 100 of them."""


class Overlap(IntEnum):
    """What a fire does while a task of an earlier one has not ended. The number is what SQL stores."""

    ALLOW = 1
    SKIP = 2
    QUEUE = 3
    """It waits until that task has ended; at most 100 wait."""
    CANCEL_RUNNING = 4
    """It cancels that task and does not wait for its end."""


@dataclass(frozen=True, slots=True)
class CronSpec:
    """A schedule that an app declares. `payload` is canonical JSON text; `type` names the handler."""

    name: str
    cron: str
    timezone: str = "UTC"
    type: str | None = None
    title: str | None = None
    """None: the name."""
    description: str | None = None
    payload: str = "{}"
    priority: Priority = Priority.NORMAL
    queue: str = "default"
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.ALLOW
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """One time at which a schedule fires. `at` is naive UTC, `local` carries its zone."""

    at: datetime
    local: datetime
    note: str | None
    """What a change of the clocks does to it, in words."""


def parse(expression: str, zone: str = "UTC") -> Cron:
    """The schedule that the two texts mean. ValueError, with a sentence for their author, for what is not taken:
    not five fields, a field out of range, a day that never comes, a zone that is not in the IANA database."""
    return _parse(_normal(expression), _known(zone))


def _normal(expression: str) -> str:
    if not expression.isascii():
        raise ValueError("cron: digits, names and * , - / # are expected")
    if len(expression) > EXPRESSION_LIMIT:
        raise ValueError(f"cron: {len(expression)} characters; at most {EXPRESSION_LIMIT} are taken")
    parts = expression.upper().split()
    if len(parts) != len(FIELDS):
        raise ValueError(
            f"cron: five fields are expected (minute, hour, day of month, month, day of week), got {len(parts)}"
        )
    for name, part in zip(FIELDS, parts, strict=True):
        if not _FIELD.fullmatch(part):
            raise ValueError(f"cron: the {name} may hold digits, names and * , - / # only")
    # cronsim reads 5-5/2 as 5/2: from 5 to the end.
    return " ".join(_ONE.sub(r"\1", part) for part in parts)


def _known(zone: str) -> str:
    if zone not in _zones():
        raise ValueError("timezone: a name of the IANA database is expected, such as Europe/Berlin or UTC")
    return zone


@cache
def _zones() -> frozenset[str]:
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()
    return frozenset(names)


@cache
def _zone(name: str) -> ZoneInfo:
    file = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with file.open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


@lru_cache(maxsize=1024)
def _parse(expression: str, zone: str) -> Cron:
    cron = Cron(expression, zone)
    if not cron.ever():
        raise ValueError("cron: it never fires: there is no such day")
    return cron


class Cron:
    """An expression in a zone. Made by `parse`."""

    def __init__(self, expression: str, zone: str) -> None:
        self.expression = expression
        self.zone = zone
        self._tz = _zone(zone)
        parts = expression.split()
        self.fixed = not parts[0].startswith("*") and not parts[1].startswith("*")
        """Whether it means wall-clock times, each once; else it follows time as it passes."""
        for place, (name, part) in enumerate(zip(FIELDS, parts, strict=True)):
            alone = ["*"] * len(FIELDS)
            alone[place] = part
            try:
                CronSim(" ".join(alone), datetime(2000, 1, 1))
            except (CronSimError, AssertionError):
                raise ValueError(f"cron: the {name} {part[:40]!r} is not understood") from None
        try:
            self._sim = CronSim(expression, datetime(2000, 1, 1))
        except CronSimError:
            # Each field alone is right.
            raise ValueError("cron: it never fires: there is no such day") from None

    def ever(self) -> bool:
        """Whether any day matches. These 28 years hold every kind of year; months pass by quickly."""
        months = self._sim.months
        days = (date(y, m, 1) for y in _YEARS for m in range(1, 13) if m in months)
        return any(self._sim.match_day(d) for first in days for d in _month(first))

    def after(self, at: datetime) -> datetime | None:
        """The first time after `at` at which it fires; None when the calendar ends before."""
        try:
            found = self._after_fixed(at) if self.fixed else self._after_passing(at)
        except (OverflowError, StopIteration):
            return None
        return found if found.year <= LAST_YEAR else None

    def upcoming(self, at: datetime, n: int, since: datetime | None = None) -> list[Firing]:
        """The first `n` times after `at`, with what the clocks do to them; fewer when they lie 50 years apart.

        `since`: from when on a time that does not exist is told; else, from `at` on.
        """
        found: list[Firing] = []
        horizon = at.year + 50
        while len(found) < n and at.year < horizon:
            nxt = self.after(at)
            if nxt is None:
                break
            previous = at if since is None or found else min(since, at)
            found.append(Firing(nxt, self.local(nxt), self.note(previous, nxt)))
            at = nxt
        return found

    def newest(self, start: datetime, end: datetime, most: int) -> list[datetime]:
        """The last `most` times in [start, end], oldest first; it never walks through all of a long stretch."""
        enough = 2 * most
        begin, many, few = start, start, end
        while True:
            found = self._between(begin, end, enough)
            if len(found) >= enough:
                many = begin
            elif len(found) >= most or begin == start:
                return found[-most:]
            else:
                few = begin
            # A minute holds one at most: between too many and too few there is a beginning that is right.
            begin = many + (few - many) / 2

    def _between(self, start: datetime, end: datetime, most: int) -> list[datetime]:
        """The first `most` in [start, end]."""
        found: list[datetime] = []
        at = self.after(start - _SECOND)
        while at is not None and at <= end and len(found) < most:
            if at >= start:
                found.append(at)
            at = self.after(at)
        return found

    def local(self, at: datetime) -> datetime:
        """Wall-clock time of a naive UTC time, with its zone."""
        return at.replace(tzinfo=UTC).astimezone(self._tz)

    # ---- fixed times ------------------------------------------------------------------------------------------------

    def _after_fixed(self, at: datetime) -> datetime:
        # What the wall has shown up to now has fired: the first time that it shows something only grows.
        for candidate in self._walls(self._wall(at)):
            found = self._instant(candidate)
            if found > at:
                return found
        raise StopIteration

    def _instant(self, wall: datetime) -> datetime:
        """When the wall shows it first; the end of the gap when it never does."""
        before = wall.replace(tzinfo=self._tz, fold=0).astimezone(UTC).replace(tzinfo=None)
        if self._wall(before) == wall:
            return before
        # In a gap, fold 0 reckons with the offset before the change, fold 1 with the one after: it lies between.
        earlier = wall.replace(tzinfo=self._tz, fold=1).astimezone(UTC).replace(tzinfo=None)
        change = self._change(earlier, before)
        return before if change is None else change

    # ---- time as it passes ------------------------------------------------------------------------------------------

    def _after_passing(self, at: datetime) -> datetime:
        """Between two changes of the clocks wall and time run alike: take the wall's next match, unless a change comes
        first; then go on from there, the moment of the change included."""
        here = at
        while True:
            offset = self._offset(here)
            wall = next(self._walls(here + offset))
            target = wall - offset
            change = self._change(here, min(target, here + _NEAR))
            if change is not None:
                if self._matches(self._wall(change)):
                    return change
                here = change
            elif target <= here + _NEAR:
                return target
            else:
                # Nothing matches before that wall-clock time, whatever the clocks do meanwhile.
                here = target - _MARGIN

    def _matches(self, wall: datetime) -> bool:
        return next(self._walls(wall - _SECOND)) == wall

    def _walls(self, wall: datetime) -> Iterator[datetime]:
        """Wall-clock times that match, after `wall`, on a clock that is never changed."""
        sim = copy.copy(self._sim)  # it moves its time only: the sets are shared
        sim.dt = wall.replace(microsecond=0)
        return sim

    # ---- the clocks -------------------------------------------------------------------------------------------------

    def _offset(self, at: datetime) -> timedelta:
        offset = self.local(at).utcoffset()
        assert offset is not None
        return offset

    def _wall(self, at: datetime) -> datetime:
        return at + self._offset(at)

    def _change(self, start: datetime, end: datetime) -> datetime | None:
        """The first time in (start, end] at which the clocks were changed."""
        low, before = start, self._offset(start)
        while low < end:
            high = min(low + _STRIDE, end)
            if self._offset(high) != before:
                low, high = low.replace(microsecond=0), high.replace(microsecond=0) + _SECOND
                while high - low > _SECOND:
                    middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
                    low, high = (low, middle) if self._offset(middle) != before else (middle, high)
                return high
            low = high
        return None

    # ---- in words ---------------------------------------------------------------------------------------------------

    def note(self, previous: datetime, at: datetime) -> str | None:
        """What a change of the clocks does to the fire at `at`, which is the first one after `previous`."""
        wall = self._wall(at)
        gap = self._gap(previous, at)
        if gap is not None:
            return gap
        first = wall.replace(tzinfo=self._tz, fold=0).astimezone(UTC).replace(tzinfo=None)
        second = wall.replace(tzinfo=self._tz, fold=1).astimezone(UTC).replace(tzinfo=None)
        if first == second:
            return None
        what = f"{wall:%H:%M} comes twice on {wall:%Y-%m-%d} in {self.zone}"
        if self.fixed:
            return f"{what}: runs once, the first time"
        return f"{what}: runs both times, this is the {'first' if at == first else 'second'}"

    def _gap(self, previous: datetime, at: datetime) -> str | None:
        """The last change forward on the way to `at` that swallowed a time of this schedule."""
        begin = max(previous, at - _NOTED)
        change = self._change(begin, at)
        while change is not None and (later := self._change(change, at)) is not None:
            change = later
        if change is None or (self.fixed and change != at):
            return None
        offset, wall = self._offset(change - _SECOND), self._wall(change)
        gone = change + offset
        if gone >= wall:
            return None  # the clocks went back
        missing = next(self._walls(gone - _SECOND))
        if missing >= wall:
            return None
        what = f"{missing:%H:%M} does not exist on {missing:%Y-%m-%d} in {self.zone}"
        return f"{what}: runs at {wall:%H:%M}" if self.fixed else f"{what}: not run"


def _month(first: date) -> Iterator[date]:
    day = first
    while day.month == first.month:
        yield day
        day += timedelta(days=1)


def _kinds() -> tuple[int, ...]:
    """One year of each kind: seven days to begin with, leap or not."""
    seen: dict[tuple[int, int], int] = {}
    for year in range(2000, 2028):
        first = date(year, 1, 1)
        seen.setdefault((first.weekday(), (date(year + 1, 1, 1) - first).days), year)
    return tuple(seen.values())


_YEARS: Final = _kinds()
