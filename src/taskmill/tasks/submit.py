"""submit: SQL, then the index.

Concurrent calls share one transaction (group commit). A crash before the commit leaves nothing; after it, a QUEUED row
that the index does not know, which verify offers within seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import BadUserInput
from taskmill.model.ids import new_id
from taskmill.model.state import Status, Verb
from taskmill.model.task import NewTask
from taskmill.runtime.batcher import Batcher
from taskmill.sql.dialect import Shape, db_now, docs, unhex
from taskmill.sql.hot import Hot, run
from taskmill.sql.schema import task_payloads, tasks
from taskmill.tasks.journal import Change, append
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow

ROWS: Final = 500
BYTES: Final = 4 * 1024 * 1024

_SHAPE: Final = Shape(
    "v",
    id="hex",
    user_id="hex",
    queue="text",
    type="text",
    title="text",
    description="text",
    status="int",
    priority="int",
    max_retries="int",
    check_at="time",
    scheduled_at="time",
    created_at="time",
)
_PLAIN: Final = [c for c in _SHAPE.columns if c not in ("id", "user_id")]


def _insert_tasks() -> sa.Insert:
    v = _SHAPE.of()
    columns = [unhex(v.c.id), unhex(v.c.user_id), *(v.c[c] for c in _PLAIN), v.c.created_at]
    return sa.insert(tasks).from_select(["id", "user_id", *_PLAIN, "updated_at"], sa.select(*columns))


def _insert_payloads() -> sa.Insert:
    v = Shape("p", id="hex", payload="text").of()
    return sa.insert(task_payloads).from_select(["id", "payload"], sa.select(unhex(v.c.id), v.c.payload))


_INSERT_TASKS: Final = Hot(_insert_tasks())
_INSERT_PAYLOADS: Final = Hot(_insert_payloads())
_NOW: Final = sa.select(db_now())


def submit(
    connection: Connection, new: Sequence[tuple[bytes, NewTask]], *, foreign: bool = False
) -> list[TaskRow]:
    """Insert the tasks under the ids given, and their journal row. All or nothing.

    `foreign`: in a transaction that is not ours and may be long. Its tasks are PENDING and due, whatever they are
    scheduled for: verify may have passed by before the commit, while promote finds them by their state.
    """
    now: datetime = connection.execute(_NOW).scalar_one()
    rows = [_row(id_, task, now, foreign) for id_, task in new]
    inserts = [(_INSERT_TASKS, {"rows": part}) for part in docs(_values(r) for r in rows)]
    inserts += [(_INSERT_PAYLOADS, {"rows": part}) for part in docs((id_, task.payload) for id_, task in new)]
    run(connection, *inserts)
    append(connection, Verb.SUBMIT, [_change(r) for r in rows])
    return rows


class Submitter:
    """The async shell: one per process. `submit` answers when the tasks are committed."""

    def __init__(self, mill: Mill) -> None:
        self._mill = mill
        self._batcher: Batcher[Sequence[NewTask], list[TaskRow]] = Batcher(
            "submit", self._write, rows=ROWS, bytes=BYTES, lanes=2
        )

    async def submit(self, new: Sequence[NewTask]) -> list[TaskRow]:
        """Accept all of `new` or none; the rows as they were written, in order.

        Unavailable: the database does not answer, or too much waits; CommitUnknown: it may have been accepted.
        BadUserInput: the database refuses a value. At most a few thousand tasks and some MiB a call.
        """
        if not new:
            return []
        size = sum(len(t.payload) + len(t.description or "") for t in new)
        return await self._batcher.put(new, rows=len(new), bytes=size)

    async def drain(self) -> None:
        await self._batcher.drain()

    async def _write(self, calls: Sequence[Sequence[NewTask]]) -> Sequence[list[TaskRow] | BaseException]:
        # The ids are made now, not when the call came in: pages of the primary key stay in order.
        new = [(new_id(), task) for call in calls for task in call]
        try:
            with self._mill.probes.verb_seconds.labels(verb=Verb.SUBMIT.value).time():
                rows = await self._transaction(new)
        except (exc.DataError, exc.IntegrityError, UnicodeError) as error:
            return await self._bisect(calls, error)
        self._mill.probes.verb_rows.labels(verb=Verb.SUBMIT.value).inc(len(rows))
        self._mill.submitted(rows)
        answers: list[list[TaskRow]] = []
        start = 0
        for call in calls:
            answers.append(rows[start : start + len(call)])
            start += len(call)
        return answers

    async def _transaction(self, new: Sequence[tuple[bytes, NewTask]]) -> list[TaskRow]:
        written: list[TaskRow] = []

        def first(connection: Connection) -> list[TaskRow]:
            written[:] = submit(connection, new)
            return written

        def again(connection: Connection) -> list[TaskRow]:
            # The reply to COMMIT was lost. The insert waits for a commit in flight; a duplicate id means it stands.
            with contextlib.suppress(exc.IntegrityError), connection.begin_nested():
                written[:] = submit(connection, new)
            return written

        return await self._mill.db.write(first, resend=again)

    async def _bisect(
        self, calls: Sequence[Sequence[NewTask]], error: Exception
    ) -> Sequence[list[TaskRow] | BaseException]:
        """The database refuses some row: the calls without it go through."""
        if len(calls) == 1:
            refusal = BadUserInput(
                "The database refuses a value of this task: a text it cannot store, or too long."
            )
            refusal.__cause__ = error
            return [refusal]
        middle = len(calls) // 2
        return [*await self._write(calls[:middle]), *await self._write(calls[middle:])]


def _row(id_: bytes, task: NewTask, now: datetime, foreign: bool) -> TaskRow:
    later = task.scheduled_at is not None and task.scheduled_at > now
    return TaskRow(
        id=id_,
        user_id=task.user_id,
        queue=task.queue,
        type=task.type,
        title=task.title,
        description=task.description,
        status=Status.PENDING if later or foreign else Status.QUEUED,
        priority=task.priority,
        result=None,
        error=None,
        attempts=0,
        max_retries=task.max_retries,
        crashes=0,
        suspect=False,
        releases=0,
        fence=0,
        check_at=task.scheduled_at if later and task.scheduled_at and not foreign else now,
        op_id=None,
        worker_id=None,
        scheduled_at=task.scheduled_at,
        created_at=now,
        updated_at=now,
        started_at=None,
        completed_at=None,
        progress=None,
        cancel_requested_at=None,
    )


def _values(row: TaskRow) -> list[Any]:
    return [
        row.id,
        row.user_id,
        row.queue,
        row.type,
        row.title,
        row.description,
        int(row.status),
        int(row.priority),
        row.max_retries,
        row.check_at,
        row.scheduled_at,
        row.created_at,
    ]


def _change(row: TaskRow) -> Change:
    p = int(row.priority)
    return Change(row.id, row.user_id, row.queue, p, p, None, int(row.status), 0)
