"""fire: a schedule whose time has come makes a task. SQL in one transaction, then the index.

The row of `fires` (unique on schedule and nominal time), the task and the next fire are one commit, under the schedule's
lock: with any number of schedulers, killed anywhere, there is one task for each fire. What is due is planned without
locks; under the lock a plan holds only while version and `next_at` are those that it was made for. A crash after the
commit leaves QUEUED rows that the index does not know; verify offers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.errors import Conflict, NotFound
from taskmill.model.cron import Misfire, Overlap
from taskmill.model.ids import new_id
from taskmill.model.state import TERMINAL, Status
from taskmill.model.task import NewTask
from taskmill.sql.dialect import Shape, db_now, doc, docs, elapsed, unhex
from taskmill.sql.schema import fires, schedules, tasks, users
from taskmill.tasks.cancel import cancel_task
from taskmill.tasks.row import TaskRow
from taskmill.tasks.schedules import Fired, ScheduleRow, select_lean, select_schedules, to_schedule
from taskmill.tasks.submit import submit

NEWEST: Final = 100
"""Of the times that were missed, the newest so many count: a long outage cannot wedge a schedule."""
WAITING: Final = 100
"""Fires of one schedule that may wait for their turn."""
BATCH: Final = 20
"""Tasks that one transaction makes: each may carry 256 KiB."""

_S: Final = schedules.c
_F: Final = fires.c
_T: Final = tasks.c
_LIVE: Final = tuple(int(s) for s in Status if s not in TERMINAL)
_DUE: Final = (
    select_lean()
    .add_columns(users.c.disabled_at, db_now().label("now"))
    .select_from(sa.outerjoin(schedules, users, users.c.id == _S.user_id))
    .where(_S.next_at <= db_now())
    .order_by(_S.next_at, _S.id)
    .limit(BATCH)
)
_NEXT: Final = sa.select(_S.next_at, db_now()).where(_S.next_at.is_not(None)).order_by(_S.next_at).limit(1)
_SHAPE: Final = Shape("f", schedule_id="hex", nominal_at="time", outcome="int", task_id="hex", at="time")
Move = tuple[bytes, datetime, datetime | None, datetime | None, int, bytes | None]
_V: Final = Shape(
    "m", id="hex", due="time", next_at="time", last_at="time", waiting="int", last_task_id="hex"
).of()
_MOVE: Final = (
    sa.update(schedules)
    # Behind a function, else MariaDB looks the row up by the index of `next_at`, and locks entries of others.
    .where(_S.id == unhex(_V.c.id), elapsed(_S.next_at, _V.c.due) == 0)
    .values(
        next_at=_V.c.next_at,
        last_at=_V.c.last_at,
        waiting=_V.c.waiting,
        last_task_id=unhex(_V.c.last_task_id),
    )
)
"""One statement for a batch: thousands may be due at the same time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with one schedule, if it still is as it was when this was made."""

    id: bytes
    version: int
    due: datetime
    """Its `next_at` then."""
    run: tuple[datetime, ...] = ()
    missed: tuple[datetime, ...] = ()
    refused: tuple[datetime, ...] = ()
    next: datetime | None = None
    alone: bool = False
    """It locks tasks, in the order of their ids: with another's in between, that order would be lost."""


@dataclass(frozen=True, slots=True)
class Late:
    """Seconds. A fire later than `after` is a misfire; ONCE makes up for one that is not older than `grace`."""

    after: float = 60.0
    grace: float = 86400.0


@dataclass(slots=True)
class Made:
    """What a transaction did."""

    rows: list[TaskRow] = field(default_factory=list)
    """The new tasks."""
    stopping: list[TaskRow] = field(default_factory=list)
    """Tasks that were asked to stop."""
    fires: list[tuple[bytes, datetime, Fired, bytes | None]] = field(default_factory=list)
    moved: int = 0
    """Schedules whose next fire was set."""


# ---- what is due --------------------------------------------------------------------------------------------------


def due_schedules(connection: Connection) -> list[tuple[ScheduleRow, bool, datetime]]:
    """The schedules whose time has come, the longest overdue first: each with whether its user may act, and now."""
    return [(to_schedule(r), r.disabled_at is None, r.now) for r in connection.execute(_DUE)]


def next_due(connection: Connection) -> float | None:
    """Seconds until the next fire of any schedule; None when there is none."""
    row = connection.execute(_NEXT).one_or_none()
    return None if row is None else float((row[0] - row[1]).total_seconds())


def plan(row: ScheduleRow, active: bool, now: datetime, late: Late) -> Plan:
    """What the misfire policy says of all that is due. `active` False: its user is disabled, so nothing runs.

    At most BATCH run in one transaction: what is left stays due. ValueError when zone or expression are not understood.
    """
    assert row.next_at is not None
    end = now if row.ends_at is None else min(now, row.ends_at)
    due = row.rule().newest(row.next_at, end, NEWEST) if row.next_at <= end else []
    if not active:
        run: list[datetime] = []
    elif row.misfire is Misfire.ALL:
        run = due
    else:
        run = [at for at in due if now - at <= timedelta(seconds=late.after)]
        if not run and row.misfire is Misfire.ONCE and due and now - due[-1] <= timedelta(seconds=late.grace):
            run = due[-1:]
    chosen = set(run)
    missed = tuple(at for at in due if at not in chosen)
    first = tuple(run[:BATCH])
    return Plan(
        row.id,
        row.version,
        row.next_at,
        first,
        missed,
        next=run[BATCH] if len(run) > BATCH else row.after(now),
        alone=row.overlap is Overlap.CANCEL_RUNNING,
    )


def give_up(row: ScheduleRow) -> Plan:
    """For a schedule that the record or the rules refuse: it fires no more until somebody changes it."""
    assert row.next_at is not None
    return Plan(row.id, row.version, row.next_at, refused=(row.next_at,))


# ---- the transaction ----------------------------------------------------------------------------------------------


def fire(connection: Connection, plans: Sequence[Plan], *, careful: bool = False) -> Made:
    """Carry out those plans that still hold. A schedule in other hands is passed over: it stays due.

    `careful` looks for times that were fired already, which only a clock that stepped back can bring.
    """
    made = Made()
    now: datetime = connection.execute(sa.select(db_now())).scalar_one()
    rows = connection.execute(
        select_schedules()
        .where(_S.id.in_([p.id for p in plans]), _S.enabled == 1)
        .order_by(_S.id)
        .with_for_update(skip_locked=True)
    )
    locked = {row.id: row for row in map(to_schedule, rows)}
    new: list[tuple[bytes, NewTask]] = []
    moves: list[Move] = []
    for p in sorted(plans, key=lambda p: p.id):
        row = locked.get(p.id)
        if row is None or row.version != p.version or row.next_at != p.due:
            continue
        done = _fired(connection, p) if careful else frozenset()
        before = len(new)
        waiting = row.waiting
        for at, outcome in _outcomes(connection, row, [at for at in p.run if at not in done], made):
            task_id = new_id() if outcome is Fired.SUBMITTED else None
            if task_id is not None:
                new.append((task_id, task_of(row, at)))
            waiting += outcome is Fired.WAITING
            made.fires.append((row.id, at, outcome, task_id))
        made.fires += [(row.id, at, Fired.MISSED, None) for at in p.missed if at not in done]
        made.fires += [(row.id, at, Fired.REFUSED, None) for at in p.refused if at not in done]
        last_task = new[-1][0] if len(new) > before else row.last_task_id
        moves.append((row.id, p.due, p.next, _last(row, p), waiting, last_task))
    _move(connection, moves)
    made.moved = len(moves)
    record(connection, made.fires, now)
    if new:
        made.rows = submit(connection, new)
    return made


def _last(row: ScheduleRow, p: Plan) -> datetime | None:
    times = [*p.run, *p.missed, *p.refused, *([row.last_at] if row.last_at else [])]
    return max(times, default=None)


def _outcomes(
    connection: Connection, row: ScheduleRow, times: Iterable[datetime], made: Made
) -> list[tuple[datetime, Fired]]:
    """What the overlap policy says of each time, oldest first."""
    at = sorted(times)
    if row.overlap is Overlap.ALLOW or not at:
        return [(t, Fired.SUBMITTED) for t in at]
    live = live_tasks(connection, row)
    if row.overlap is Overlap.CANCEL_RUNNING:
        for task_id in sorted(live):
            # It may have ended since: then there is nothing to stop.
            with suppress(Conflict, NotFound):
                made.stopping.append(cancel_task(connection, task_id, None))
        return [*((t, Fired.OVERLAPPED) for t in at[:-1]), (at[-1], Fired.SUBMITTED)]
    busy = bool(live) or row.waiting > 0
    found = []
    room = WAITING - row.waiting if row.overlap is Overlap.QUEUE else 0
    for t in at:
        if not busy:
            outcome, busy = Fired.SUBMITTED, True
        elif room > 0:
            outcome, room = Fired.WAITING, room - 1
        else:
            outcome = Fired.OVERLAPPED
        found.append((t, outcome))
    return found


def live_tasks(connection: Connection, row: ScheduleRow) -> list[bytes]:
    """Tasks of its last fires that have not ended."""
    recent = (
        sa.select(_F.task_id).where(_F.schedule_id == row.id).order_by(_F.nominal_at.desc()).limit(NEWEST)
    )
    ids = {i for i in connection.execute(recent).scalars() if i is not None}
    if row.last_task_id is not None:
        ids.add(row.last_task_id)
    if not ids:
        return []
    # By the primary key, as SQL.md says: a state that is rare would take the optimizer to its index.
    alive = sa.select(_T.id).where(_T.id.in_(sorted(ids)), (_T.status + 0).in_(_LIVE))
    return list(connection.execute(alive).scalars())


def _fired(connection: Connection, p: Plan) -> frozenset[datetime]:
    times = [*p.run, *p.missed, *p.refused]
    query = sa.select(_F.nominal_at).where(_F.schedule_id == p.id, _F.nominal_at.in_(times))
    return frozenset(connection.execute(query).scalars())


def _move(connection: Connection, moves: Sequence[Move]) -> None:
    """Compare and set: under the lock it cannot fail, so that a second scheduler with the same plan finds it moved."""
    done = connection.execute(_MOVE, {"rows": doc(moves)}).rowcount if moves else 0
    if done != len(moves):
        raise AssertionError(
            f"schedules moved under their lock: {done} of {len(moves)} were as they had been"
        )


def record(
    connection: Connection, rows: Sequence[tuple[bytes, datetime, Fired, bytes | None]], now: datetime
) -> None:
    """Write rows of `fires`: schedule, its nominal time, what became of it, the task that was made."""
    v = _SHAPE.of()
    names = list(_SHAPE.columns)
    columns = [unhex(v.c.schedule_id), v.c.nominal_at, v.c.outcome, unhex(v.c.task_id), v.c.at]
    insert = sa.insert(fires).from_select(names, sa.select(*columns))
    if rows:
        for part in docs((s, at, int(outcome), task, now) for s, at, outcome, task in rows):
            connection.execute(insert, {"rows": part})


def task_of(row: ScheduleRow, at: datetime | None) -> NewTask:
    """The task of a fire; `scheduled_at` tells its handler which time it is for."""
    assert row.payload is not None
    return NewTask(
        user_id=row.user_id,
        title=row.title,
        payload=row.payload,
        description=row.description,
        type=row.type,
        queue=row.queue,
        priority=row.priority,
        scheduled_at=at,
        max_retries=row.max_retries,
    )


# ---- fires that wait ----------------------------------------------------------------------------------------------


def waiting_query(limit: int) -> sa.Select[Any]:
    """Schedules whose fires wait, by their index: by the primary key all the others would be read. Those of a user who
    is disabled wait on, as paused ones do. Parameter: after."""
    query = (
        select_lean()
        .select_from(sa.outerjoin(schedules, users, users.c.id == _S.user_id))
        .where(_S.waiting > 0, _S.enabled == 1, users.c.disabled_at.is_(None))
        .where(_S.id > sa.bindparam("after", type_=_S.id.type))
    )
    for server in ("mysql", "mariadb"):
        query = query.with_hint(schedules, "FORCE INDEX (ix_schedules_waiting)", server)
    return query.order_by(_S.id).limit(limit)


def idle_waiters(connection: Connection, after: bytes, limit: int) -> tuple[list[bytes], bytes | None]:
    """Schedules with a fire that waits and no task that it waits for, out of the next `limit` behind `after`; and where
    to go on, None at the end."""
    rows = connection.execute(waiting_query(limit), {"after": after})
    found = [to_schedule(row) for row in rows]
    idle = [row.id for row in found if not live_tasks(connection, row)]
    return idle, found[-1].id if len(found) == limit else None


def release(connection: Connection, ids: Sequence[bytes]) -> Made:
    """Make the task of the oldest fire that waits, for each of these schedules that has none running."""
    made = Made()
    rows = connection.execute(
        select_schedules()
        .where(_S.id.in_(ids), _S.waiting + 0 > 0, _S.enabled == 1)  # by the primary key, however few wait
        .order_by(_S.id)
        .with_for_update(skip_locked=True)
    )
    new: list[tuple[bytes, NewTask]] = []
    for row in map(to_schedule, rows):
        if live_tasks(connection, row):
            continue
        waiting = (_F.schedule_id == row.id, _F.outcome == int(Fired.WAITING))
        at = connection.execute(
            sa.select(_F.nominal_at).where(*waiting).order_by(_F.nominal_at).limit(1)
        ).scalar()
        if at is None:
            connection.execute(sa.update(schedules).where(_S.id == row.id).values(waiting=0))
            continue
        task_id = new_id()
        new.append((task_id, task_of(row, at)))
        made.fires.append((row.id, at, Fired.SUBMITTED, task_id))
        connection.execute(
            sa.update(fires)
            .where(_F.schedule_id == row.id, _F.nominal_at == at)
            .values(outcome=int(Fired.SUBMITTED), task_id=task_id, at=db_now())
        )
        values = {"waiting": row.waiting - 1, "last_task_id": task_id}
        connection.execute(sa.update(schedules).where(_S.id == row.id).values(values))
    if new:
        made.rows = submit(connection, new)
    return made


def refuse_waiting(connection: Connection, schedule_id: bytes) -> Made:
    """No task for any of its fires that wait: the record does not take it."""
    made = Made()
    own = sa.select(_S.id).where(_S.id == schedule_id).with_for_update()
    if connection.execute(own).one_or_none() is None:
        return made
    waiting = sa.select(_F.nominal_at).where(_F.schedule_id == schedule_id, _F.outcome == int(Fired.WAITING))
    for at in list(connection.execute(waiting).scalars()):
        values = {"outcome": int(Fired.REFUSED), "at": db_now()}
        connection.execute(
            sa.update(fires).where(_F.schedule_id == schedule_id, _F.nominal_at == at).values(values)
        )
        made.fires.append((schedule_id, at, Fired.REFUSED, None))
    connection.execute(sa.update(schedules).where(_S.id == schedule_id).values(waiting=0))
    return made
