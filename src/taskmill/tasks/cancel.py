"""cancel: under the row's lock. What has not started ends at once; a run is asked to stop, and then every way out of it
ends CANCELLED.

One lock, one decision: two guarded updates in a row can both miss a moving row. The first commit wins: a settle that
committed before makes the cancel answer with the final state. A crash after the commit loses at most the signal to the
worker, which its next renewal brings.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.errors import Conflict
from taskmill.model.state import Status, Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import tasks
from taskmill.tasks import one
from taskmill.tasks.journal import append
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow


def cancel_task(connection: Connection, task_id: bytes, owner: bytes | None) -> TaskRow:
    """Cancel it, or ask its run to stop. Doing it twice is doing it once. NotFound; Conflict when it completed."""
    row = one.lock(connection, task_id, owner)
    match row.status:
        case Status.COMPLETED:
            raise Conflict("The task is COMPLETED: it can no longer be cancelled.")
        case Status.CANCELLED:
            return row
        case Status.PROCESSING if row.cancel_requested_at is not None:
            return row
        case Status.PROCESSING:
            values: dict[str, Any] = {"cancel_requested_at": db_now()}
        case _:
            values = {"status": int(Status.CANCELLED), "completed_at": db_now(), "check_at": db_now()}
            values["cancel_requested_at"] = db_now()
    connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(updated_at=db_now(), **values))
    after = one.again(connection, task_id)
    append(connection, Verb.CANCEL, [one.change(row, after)])
    return after


async def cancel(mill: Mill, task_id: bytes, owner: bytes | None) -> TaskRow:
    """The async shell. `owner` None: any user's task."""

    def work(connection: Connection) -> TaskRow:
        return cancel_task(connection, task_id, owner)

    row = await mill.db.write(work, resend=work)
    mill.hint("journal")
    if row.status is Status.PROCESSING and row.worker_id is not None:
        await mill.bell.ring(f"worker:{row.worker_id.hex()}", signal(row.id, row.fence))
    return row


def signal(task_id: bytes, fence: int) -> bytes:
    """The cancel signal on a worker's bell: told apart from a queue's name by its first byte."""
    return b"\0" + task_id + fence.to_bytes(8, "big")


def read_signal(data: bytes) -> tuple[bytes, int] | None:
    """(id, fence) of a cancel signal, or None for any other ring."""
    if len(data) != 25 or data[0] != 0:
        return None
    return data[1:17], int.from_bytes(data[17:], "big")
