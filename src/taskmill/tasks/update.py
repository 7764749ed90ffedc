"""update: title, description, priority, payload, due time, while the task waits. SQL, then the index.

A given `scheduled_at` moves the due time, null means now; without it a task that waits for a retry keeps its time. A
new priority gives the index a new score and sets `check_at` to now, so that verify would offer it too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.errors import CommitUnknown, Conflict
from taskmill.model.state import Priority, Status, Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import task_payloads, tasks
from taskmill.tasks import one
from taskmill.tasks.journal import append
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow


class Unset(Enum):
    """Not given, which is not the same as null."""

    UNSET = 0


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class TaskChanges:
    """What to change. Checked already, as a NewTask is."""

    title: str | Unset = UNSET
    description: str | Unset | None = UNSET
    priority: Priority | Unset = UNSET
    payload: str | Unset = UNSET
    scheduled_at: datetime | Unset | None = UNSET

    @property
    def empty(self) -> bool:
        return all(getattr(self, f.name) is UNSET for f in fields(self))


def update_task(connection: Connection, task_id: bytes, owner: bytes | None, changes: TaskChanges) -> TaskRow:
    """Change it. NotFound; Conflict unless it is PENDING or QUEUED."""
    row = one.lock(connection, task_id, owner)
    if row.status not in (Status.PENDING, Status.QUEUED):
        raise Conflict(f"The task is {row.status.name}: only a PENDING or QUEUED one can be changed.")
    if changes.empty:
        return row
    if not isinstance(changes.payload, Unset):
        connection.execute(
            sa.update(task_payloads).where(task_payloads.c.id == task_id).values(payload=changes.payload)
        )
    values = _values(row, changes, one.now(connection))
    connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(updated_at=db_now(), **values))
    after = one.again(connection, task_id)
    append(connection, Verb.UPDATE, [one.change(row, after)])
    return after


def _values(row: TaskRow, changes: TaskChanges, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if not isinstance(changes.title, Unset):
        values["title"] = changes.title
    if not isinstance(changes.description, Unset):
        values["description"] = changes.description
    if not isinstance(changes.priority, Unset):
        values["priority"] = int(changes.priority)
        if row.status is Status.QUEUED:
            values["check_at"] = now
    if not isinstance(changes.scheduled_at, Unset):
        ahead = changes.scheduled_at is not None and changes.scheduled_at > now
        values["scheduled_at"] = changes.scheduled_at
        values["status"] = int(Status.PENDING if ahead else Status.QUEUED)
        values["check_at"] = changes.scheduled_at if ahead else now
    return values


async def update(mill: Mill, task_id: bytes, owner: bytes | None, changes: TaskChanges) -> TaskRow:
    """The async shell. `owner` None: any user's task. A resend changes it to the same again."""

    def work(connection: Connection) -> TaskRow:
        return update_task(connection, task_id, owner, changes)

    def again(connection: Connection) -> TaskRow:
        try:
            return work(connection)
        except Conflict as error:
            # It may have started after our change: that is not a refusal.
            raise CommitUnknown("The task has started meanwhile: the change may or may not stand.") from error

    row = await mill.db.write(work, resend=again)
    mill.hint("journal", *({"due"} if row.status is Status.PENDING else ()))
    if row.status is Status.QUEUED:
        mill.offer([row])
    return row
