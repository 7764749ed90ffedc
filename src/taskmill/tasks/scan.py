"""Scans over (status, priority, check_at, id): one range per priority, one statement for all of them.

A single range over all priorities would sort; a scan without the index would read another queue's hundred thousand
rows. Scans lock nothing: who wants to change a row locks it by key and looks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Priority, Status
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.schema import tasks

_T: Final = tasks.c
Position = tuple[datetime, bytes]
"""(check_at, id) of the last row that was seen."""


def forced(query: sa.Select[Any]) -> sa.Select[Any]:
    """By the check index, whatever the statistics say: with few rows in a status both servers choose worse."""
    for server in ("mysql", "mariadb"):
        query = query.with_hint(tasks, "FORCE INDEX (ix_tasks_check)", server)
    return query


def page_query(
    status: Status,
    size: int,
    after: Mapping[Priority, Position],
    *,
    priorities: Iterable[Priority] = tuple(Priority),
    until: sa.ColumnElement[Any] | None = None,
) -> sa.CompoundSelect[Any]:
    """The next `size` rows of each priority behind its position in `after`: id, user_id, queue, priority, suspect,
    check_at, and the database's `now`, in index order within a priority. `until`: only rows whose time is not later."""
    parts = []
    for priority in priorities:
        columns = (_T.id, _T.user_id, _T.queue, _T.priority, _T.suspect, _T.check_at, db_now().label("now"))
        query = sa.select(*columns).where(_T.status == int(status), _T.priority == int(priority))
        if until is not None:
            query = query.where(_T.check_at <= until)
        if priority in after:
            # Not the row-value form: that read 51,001 rows where this reads 1,000.
            at, id_ = after[priority]
            query = query.where(_T.check_at >= at, sa.or_(_T.check_at > at, _T.id > id_))
        part = forced(query.order_by(_T.check_at, _T.id).limit(size))
        parts.append(sa.select(part.subquery()))
    return sa.union_all(*parts)


def due_query(status: Status, limit: int, seconds: float = 0.0) -> sa.CompoundSelect[Any]:
    """Rows of `status` whose `check_at` is `seconds` or more in the past, the oldest of each priority."""
    return page_query(status, limit, {}, until=from_now(-seconds) if seconds else db_now())


def due_ids(connection: Connection, status: Status, limit: int, seconds: float = 0.0) -> list[bytes]:
    """At most `limit` ids, the more urgent priorities first."""
    rows = sorted(
        connection.execute(due_query(status, limit, seconds)), key=lambda r: (r.priority, r.check_at)
    )
    return [r.id for r in rows[:limit]]


def next_query(status: Status) -> sa.CompoundSelect[Any]:
    """The earliest row of each priority."""
    return page_query(status, 1, {})


def next_due(connection: Connection, status: Status) -> float | None:
    """Seconds until the earliest row of `status` is due, 0 or less when it is; None when there is none."""
    rows: list[tuple[datetime, datetime]] = [
        (r.check_at, r.now) for r in connection.execute(next_query(status))
    ]
    return min(((at - now).total_seconds() for at, now in rows), default=None)
