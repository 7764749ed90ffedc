"""run now: a task of a schedule at once, because somebody asks for it. SQL in one transaction, then the index."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.ids import new_id
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import schedules, tasks
from taskmill.tasks.fire import record, task_of
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow, select_rows, to_row
from taskmill.tasks.schedules import Fired, lock
from taskmill.tasks.submit import submit

_S: Final = schedules.c
_T: Final = tasks.c


def fire_now(connection: Connection, schedule_id: bytes, owner: bytes | None, task_id: bytes) -> TaskRow:
    """A task of this schedule at once, whatever its policies, paused or not; its next fire stays. NotFound."""
    row = lock(connection, schedule_id, owner)
    now: datetime = connection.execute(sa.select(db_now())).scalar_one()
    # A whole minute belongs to the schedule; and the last one may be of this very microsecond.
    at = max(now, row.last_at or now)
    at += timedelta(microseconds=1 if at.microsecond == 0 or at == row.last_at else 0)
    record(connection, [(row.id, at, Fired.RUN_NOW, task_id)], now)
    values = {"last_at": at, "last_task_id": task_id}
    connection.execute(sa.update(schedules).where(_S.id == row.id).values(values))
    [task] = submit(connection, [(task_id, task_of(row, None))])
    return task


async def run_now(mill: Mill, schedule_id: bytes, owner: bytes | None) -> TaskRow:
    """The async shell. `owner` None: any user's."""
    task_id = new_id()

    def work(connection: Connection) -> TaskRow:
        return fire_now(connection, schedule_id, owner, task_id)

    def again(connection: Connection) -> TaskRow:
        lock(connection, schedule_id, owner)  # waits for a COMMIT in flight
        found = connection.execute(select_rows().where(_T.id == task_id)).one_or_none()
        return work(connection) if found is None else to_row(found)

    row = await mill.db.write(work, resend=again)
    mill.submitted([row])
    return row
