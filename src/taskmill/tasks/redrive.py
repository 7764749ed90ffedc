"""redrive: a FAILED or CANCELLED task starts over, with all its attempts. SQL, then the index.

The fence keeps growing. The operation id on the row tells a resend, after a lost COMMIT reply, that it is done.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.errors import Conflict
from taskmill.model.ids import new_op
from taskmill.model.state import Status, Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import tasks
from taskmill.tasks import one
from taskmill.tasks.journal import append
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow


def redrive_task(connection: Connection, task_id: bytes, owner: bytes | None, op: bytes) -> TaskRow:
    """Start it over under the operation `op`. NotFound; Conflict from any other state."""
    row = one.lock(connection, task_id, owner)
    if row.op_id == op:
        return row
    if row.status not in (Status.FAILED, Status.CANCELLED):
        raise Conflict(f"The task is {row.status.name}: only a FAILED or CANCELLED one can be retried.")
    at = one.now(connection)
    ahead = row.scheduled_at is not None and row.scheduled_at > at
    connection.execute(
        sa.update(tasks)
        .where(tasks.c.id == task_id)
        .values(
            status=int(Status.PENDING if ahead else Status.QUEUED),
            check_at=row.scheduled_at if ahead else at,
            attempts=0,
            crashes=0,
            suspect=0,
            releases=0,
            result=None,
            error=None,
            progress=None,
            cancel_requested_at=None,
            completed_at=None,
            op_id=op,
            updated_at=db_now(),
        )
    )
    after = one.again(connection, task_id)
    append(connection, Verb.REDRIVE, [one.change(row, after)])
    return after


async def redrive(mill: Mill, task_id: bytes, owner: bytes | None) -> TaskRow:
    """The async shell. `owner` None: any user's task."""
    op = new_op()
    seen: list[int] = []

    def work(connection: Connection) -> TaskRow:
        row = redrive_task(connection, task_id, owner, op)
        seen[:] = [row.fence]
        return row

    def again(connection: Connection) -> TaskRow:
        # Claimed since: the claim has overwritten our operation, and could only come after a redrive.
        row = one.lock(connection, task_id, owner)
        return row if row.fence > seen[0] else work(connection)

    row = await mill.db.write(work, resend=again)
    mill.hint("journal", *({"due"} if row.status is Status.PENDING else ()))
    if row.status is Status.QUEUED:
        mill.offer([row])
    return row
