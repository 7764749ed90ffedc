"""One task under its row's lock: what cancel, update and redrive have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.errors import NotFound
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import tasks
from taskmill.tasks.journal import Change
from taskmill.tasks.row import TaskRow, select_rows, to_row

_ONE: Final = select_rows().where(tasks.c.id == sa.bindparam("task"))
_LOCKED: Final = _ONE.with_for_update()
_NOW: Final = sa.select(db_now())


def lock(connection: Connection, task_id: bytes, owner: bytes | None) -> TaskRow:
    """The task's row, locked until the transaction ends. NotFound when it is absent or not `owner`'s (None: anyone's):
    a foreign task and an absent one are the same."""
    found = connection.execute(_LOCKED, {"task": task_id}).one_or_none()
    if found is None or (owner is not None and found.user_id != owner):
        raise NotFound("No such task.")
    return to_row(found)


def again(connection: Connection, task_id: bytes) -> TaskRow:
    """The row as this transaction has left it."""
    return to_row(connection.execute(_ONE, {"task": task_id}).one())


def now(connection: Connection) -> datetime:
    """The database's clock."""
    at: datetime = connection.execute(_NOW).scalar_one()
    return at


def change(before: TaskRow, after: TaskRow) -> Change:
    """The journal's word for it."""
    return Change(
        after.id,
        after.user_id,
        after.queue,
        int(before.priority),
        int(after.priority),
        int(before.status),
        int(after.status),
        after.fence,
    )
