"""Schedules as rows: create, change, pause, resume, delete, read.

`next_at` is when one fires next; NULL: never (paused, ended, or no such day any more). Whoever changes a schedule holds
its row's lock, as a fire does, so that an edit comes before or after a fire and never in between. Times that passed
while it was paused, or under its earlier expression, are not made up for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import BadUserInput, Conflict, NotFound
from taskmill.model.cron import Cron, Misfire, Overlap, parse
from taskmill.model.ids import new_id
from taskmill.model.state import Priority
from taskmill.sql.schema import fires, schedules, users
from taskmill.tasks import one
from taskmill.tasks.mill import Mill
from taskmill.tasks.update import UNSET, Unset

ABSENT: Final = "There is no such schedule."
_TICK: Final = timedelta(microseconds=1)


class Fired(IntEnum):
    """What became of a time at which a schedule fires. The number is what SQL stores."""

    SUBMITTED = 1
    """A task was made."""
    MISSED = 2
    """It passed while no scheduler ran (or its user was disabled): by the misfire policy there is no task."""
    OVERLAPPED = 3
    """A task of an earlier one had not ended: by the overlap policy there is no task."""
    WAITING = 4
    """Its task is made when the one before has ended."""
    REFUSED = 5
    """The record, or the rules of its zone, refused it; the log of the scheduler says why."""
    RUN_NOW = 6
    """Somebody asked for it: a task was made."""


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule that was checked. `payload` is canonical JSON text; times are naive UTC."""

    user_id: bytes
    name: str
    cron: str
    timezone: str
    title: str
    payload: str = "{}"
    description: str | None = None
    type: str | None = None
    priority: Priority = Priority.NORMAL
    queue: str = "default"
    max_retries: int | None = None
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.ALLOW
    enabled: bool = True
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    declared: str | None = None
    """The app that declares it."""


@dataclass(frozen=True, slots=True)
class ScheduleChanges:
    """What to change. Checked already, as a NewSchedule is."""

    name: str | Unset = UNSET
    cron: str | Unset = UNSET
    timezone: str | Unset = UNSET
    title: str | Unset = UNSET
    payload: str | Unset = UNSET
    description: str | Unset | None = UNSET
    type: str | Unset | None = UNSET
    priority: Priority | Unset = UNSET
    queue: str | Unset = UNSET
    max_retries: int | Unset | None = UNSET
    misfire: Misfire | Unset = UNSET
    overlap: Overlap | Unset = UNSET
    enabled: bool | Unset = UNSET
    starts_at: datetime | Unset | None = UNSET
    ends_at: datetime | Unset | None = UNSET

    def given(self) -> dict[str, Any]:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in values if value is not UNSET}


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One row of `schedules`. Times are naive UTC."""

    id: bytes
    user_id: bytes
    name: str
    cron: str
    timezone: str
    type: str | None
    title: str
    description: str | None
    payload: str | None
    """None: not read."""
    priority: Priority
    queue: str
    max_retries: int | None
    misfire: Misfire
    overlap: Overlap
    enabled: bool
    starts_at: datetime | None
    ends_at: datetime | None
    next_at: datetime | None
    last_at: datetime | None
    last_task_id: bytes | None
    waiting: int
    """Fires whose task is made later: rows of `fires` with the outcome WAITING."""
    declared: str | None
    version: int
    """One more with each change; a fire leaves it."""
    created_at: datetime
    updated_at: datetime

    def rule(self) -> Cron:
        """ValueError when the zone or the expression is no longer understood."""
        return parse(self.cron, self.timezone)

    def after(self, at: datetime) -> datetime | None:
        """When it fires next after `at`, within its bounds."""
        if self.starts_at is not None and self.starts_at > at:
            at = self.starts_at - _TICK
        found = self.rule().after(at)
        return None if found is None or (self.ends_at is not None and found > self.ends_at) else found


@dataclass(frozen=True, slots=True)
class FireRow:
    """One time at which a schedule fired. `nominal_at` is the time of the schedule, `at` when it was seen to."""

    schedule_id: bytes
    nominal_at: datetime
    outcome: Fired
    task_id: bytes | None
    at: datetime


_S: Final = schedules.c
_F: Final = fires.c
_NAMES: Final = tuple(f.name for f in fields(ScheduleRow))
_SELECT: Final = sa.select(*(_S[name] for name in _NAMES))
_LEAN: Final = sa.select(*(sa.null().label(name) if name == "payload" else _S[name] for name in _NAMES))
_KINDS: Final[Mapping[str, type]] = {
    "priority": Priority,
    "misfire": Misfire,
    "overlap": Overlap,
    "enabled": bool,
}
_TIMING: Final = frozenset({"cron", "timezone", "enabled", "starts_at", "ends_at"})
"""What, when it changes, moves the next fire."""


def select_schedules() -> sa.Select[Any]:
    """SELECT of all the columns of a ScheduleRow."""
    return _SELECT


def select_lean() -> sa.Select[Any]:
    """The same without payloads: a hundred of them may be 25 MiB."""
    return _LEAN


def to_schedule(row: sa.Row[Any]) -> ScheduleRow:
    """The value of a row that begins with the columns of `select_schedules`."""
    values = {name: _KINDS[name](v) if name in _KINDS else v for name, v in zip(_NAMES, row, strict=False)}
    return ScheduleRow(**values)


def lock(connection: Connection, schedule_id: bytes, owner: bytes | None) -> ScheduleRow:
    """The schedule, locked until the transaction ends. NotFound when it is absent or not `owner`'s (None: anyone's)."""
    found = connection.execute(_SELECT.where(_S.id == schedule_id).with_for_update()).one_or_none()
    if found is None or (owner is not None and found.user_id != owner):
        raise NotFound(ABSENT)
    return to_schedule(found)


# ---- writing ------------------------------------------------------------------------------------------------------


def create_schedule(connection: Connection, schedule_id: bytes, new: NewSchedule, quota: int) -> ScheduleRow:
    """Insert it. Conflict when its user has one of that name, or as many as `quota`."""
    # Two at once would both see the last free place.
    connection.execute(sa.select(users.c.id).where(users.c.id == new.user_id).with_for_update())
    has = connection.execute(
        sa.select(sa.func.count()).select_from(schedules).where(_S.user_id == new.user_id)
    ).scalar_one()
    if has >= quota:
        raise Conflict(f"There are {has} schedules already, and {quota} is the most: delete one first.")
    values = {f.name: getattr(new, f.name) for f in fields(new)}
    now = one.now(connection)
    made = ScheduleRow(
        **values,
        id=schedule_id,
        next_at=None,
        last_at=None,
        last_task_id=None,
        waiting=0,
        version=1,
        created_at=now,
        updated_at=now,
    )
    made = _timed(made, now)
    _check_name(connection, made)
    connection.execute(sa.insert(schedules).values({name: _plain(getattr(made, name)) for name in _NAMES}))
    return made


def change_schedule(
    connection: Connection, schedule_id: bytes, owner: bytes | None, changes: ScheduleChanges
) -> ScheduleRow:
    """Change it. NotFound; Conflict when another of its user has that name. Doing it twice is doing it once."""
    return apply(connection, lock(connection, schedule_id, owner), changes.given())


def apply(connection: Connection, row: ScheduleRow, given: Mapping[str, Any]) -> ScheduleRow:
    """Write what differs from the row, which is locked."""
    changed = {name: value for name, value in given.items() if getattr(row, name) != value}
    if not changed:
        return row
    now = one.now(connection)
    after = replace(row, **changed, version=row.version + 1, updated_at=now)
    if changed.keys() & _TIMING:
        after = _timed(after, now)
    if "name" in changed:
        _check_name(connection, after)
    names = {*changed, "version", "updated_at", "next_at"}
    values = {name: _plain(getattr(after, name)) for name in names}
    connection.execute(sa.update(schedules).where(_S.id == row.id).values(values))
    return after


def delete_schedule(connection: Connection, schedule_id: bytes, owner: bytes | None) -> ScheduleRow:
    """Delete it; its tasks stay, its history goes with age. NotFound."""
    row = lock(connection, schedule_id, owner)
    connection.execute(sa.delete(schedules).where(_S.id == schedule_id))
    return row


def _timed(row: ScheduleRow, now: datetime) -> ScheduleRow:
    """The row with its next fire: after now, and after the last one, should the clock have stepped back."""
    if row.starts_at is not None and row.ends_at is not None and row.ends_at < row.starts_at:
        raise BadUserInput("endsAt: it lies before startsAt")
    seen = now if row.last_at is None else max(now, row.last_at)
    try:
        return replace(row, next_at=row.after(seen) if row.enabled else None)
    except ValueError as error:
        raise BadUserInput(str(error)) from None


def _check_name(connection: Connection, row: ScheduleRow) -> None:
    taken = connection.execute(
        sa.select(_S.id).where(_S.user_id == row.user_id, _S.name == row.name, _S.id != row.id)
    ).first()
    if taken is not None:
        raise Conflict(_taken(row.name))


def _taken(name: str) -> str:
    return f"There is a schedule named {name!r} already."


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, (IntEnum, bool)) else value


# ---- the async shells ---------------------------------------------------------------------------------------------


async def create(mill: Mill, new: NewSchedule) -> ScheduleRow:
    """Conflict: the name is taken, or there are too many."""
    schedule_id = new_id()

    def work(connection: Connection) -> ScheduleRow:
        return create_schedule(connection, schedule_id, new, mill.options.schedules)

    def again(connection: Connection) -> ScheduleRow:
        found = one_schedule(connection, schedule_id, None)
        return work(connection) if found is None else found

    try:
        return await mill.db.write(work, resend=again)
    except exc.IntegrityError as error:
        raise Conflict(_taken(new.name)) from error


async def change(
    mill: Mill, schedule_id: bytes, owner: bytes | None, changes: ScheduleChanges
) -> ScheduleRow:
    """`owner` None: any user's. A change committed at the time of a fire comes before it or after it."""

    def work(connection: Connection) -> ScheduleRow:
        return change_schedule(connection, schedule_id, owner, changes)

    try:
        return await mill.db.write(work, resend=work)
    except exc.IntegrityError as error:
        raise Conflict(_taken(str(changes.name))) from error


async def delete(mill: Mill, schedule_id: bytes, owner: bytes | None) -> ScheduleRow:
    """`owner` None: any user's. A fire that waits for the row's lock meanwhile makes no task."""
    gone: list[ScheduleRow] = []

    def work(connection: Connection) -> ScheduleRow:
        gone[:] = [delete_schedule(connection, schedule_id, owner)]
        return gone[0]

    def again(connection: Connection) -> ScheduleRow:
        try:
            return work(connection)
        except NotFound:
            return gone[0]  # the first one stands

    return await mill.db.write(work, resend=again)


# ---- reading ------------------------------------------------------------------------------------------------------


def one_schedule(connection: Connection, schedule_id: bytes, owner: bytes | None) -> ScheduleRow | None:
    """The schedule, or None when it is absent or another's."""
    row = connection.execute(_LEAN.where(_S.id == schedule_id)).one_or_none()
    found = None if row is None else to_schedule(row)
    return found if found is not None and owner in (None, found.user_id) else None


def page(
    connection: Connection, owner: bytes | None, *, limit: int, after: bytes | None
) -> list[ScheduleRow]:
    """At most `limit` schedules, newest first; `after`: those older than this id."""
    statement = _LEAN.order_by(_S.id.desc()).limit(limit)
    if owner is not None:
        statement = statement.where(_S.user_id == owner)
    if after is not None:
        statement = statement.where(_S.id < after)
    return [to_schedule(row) for row in connection.execute(statement)]


def payloads(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, str]:
    """The payloads, as JSON text."""
    rows = connection.execute(sa.select(_S.id, _S.payload).where(_S.id.in_(list(ids))))
    return {row[0]: row[1] for row in rows}


def history(connection: Connection, ids: Iterable[bytes], *, limit: int) -> dict[bytes, list[FireRow]]:
    """The last `limit` fires of each schedule, newest first."""
    found: dict[bytes, list[FireRow]] = {}
    for (
        schedule_id
    ) in ids:  # by the primary key, from its end: a ranking of all would read each schedule whole
        rows = connection.execute(
            sa.select(_F.schedule_id, _F.nominal_at, _F.outcome, _F.task_id, _F.at)
            .where(_F.schedule_id == schedule_id)
            .order_by(_F.nominal_at.desc())
            .limit(limit)
        )
        found[schedule_id] = [FireRow(r[0], r[1], Fired(r[2]), r[3], r[4]) for r in rows]
    return found
