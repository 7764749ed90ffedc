"""Scans over (status, priority, check_at): one range per priority, so that nothing is sorted and nothing else is read."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Priority, Status
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.schema import tasks

_T: Final = tasks.c
HINTS: Final = ("mysql", "mariadb")


def forced(query: sa.Select[Any]) -> sa.Select[Any]:
    """By the check index, whatever the statistics say: with few rows in a status both servers choose worse."""
    for server in HINTS:
        query = query.with_hint(tasks, "FORCE INDEX (ix_tasks_check)", server)
    return query


def due_query(status: Status, limit: int, seconds: float = 0.0) -> sa.CompoundSelect[Any]:
    """Ids of `status` whose `check_at` is `seconds` or more in the past, oldest first in each priority."""
    moment = from_now(-seconds) if seconds else db_now()
    parts = []
    for priority in Priority:
        part = forced(
            sa.select(_T.id, _T.check_at)
            .where(_T.status == int(status), _T.priority == int(priority), _T.check_at <= moment)
            .order_by(_T.check_at, _T.id)
            .limit(limit)
        )
        parts.append(sa.select(part.subquery()))
    return sa.union_all(*parts)


def due_ids(connection: Connection, status: Status, limit: int, seconds: float = 0.0) -> list[bytes]:
    """At most `limit` ids, the more urgent priorities first. Locks nothing."""
    return [r[0] for r in connection.execute(due_query(status, limit, seconds))][:limit]


def next_query(status: Status) -> sa.CompoundSelect[Any]:
    """The earliest `check_at` of each priority, with the database's now."""
    parts = []
    for priority in Priority:
        part = forced(
            sa.select(_T.check_at, db_now().label("now"))
            .where(_T.status == int(status), _T.priority == int(priority))
            .order_by(_T.check_at, _T.id)
            .limit(1)
        )
        parts.append(sa.select(part.subquery()))
    return sa.union_all(*parts)


def next_due(connection: Connection, status: Status) -> float | None:
    """Seconds until the earliest row of `status` is due; None when there is none."""
    rows: list[tuple[datetime, datetime]] = [(r[0], r[1]) for r in connection.execute(next_query(status))]
    return min(((at - now).total_seconds() for at, now in rows), default=None)
