"""log: what runs said, written in batches, joined on (id, fence): a stale run logs nothing.

Lines are bounded where they are made (runner) and here; a full buffer drops the newest with a counter: a log may never
hold up a task. A crash loses what was not written yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import Unavailable
from taskmill.model.ids import new_id
from taskmill.model.task import LOG_FIELDS_LIMIT, LOG_MESSAGE_LIMIT, LogLine
from taskmill.runtime.batcher import Batcher
from taskmill.sql.dialect import Shape, docs, unhex
from taskmill.sql.schema import logs, tasks
from taskmill.tasks.mill import Mill
from taskmill.tasks.settle import storable

BUFFER: Final = 20_000


def _insert() -> sa.Insert:
    v = Shape(
        "v", task="hex", id="hex", fence="int", level="text", message="text", fields="text", created_at="time"
    ).of()
    columns = ["task_id", "id", "fence", "level", "message", "fields", "created_at"]
    query = sa.select(
        tasks.c.id, unhex(v.c.id), v.c.fence, v.c.level, v.c.message, v.c.fields, v.c.created_at
    ).where(tasks.c.id == unhex(v.c.task), tasks.c.fence == v.c.fence)
    return sa.insert(logs).from_select(columns, query)


_INSERT: Final = _insert()


def log(connection: Connection, lines: Sequence[tuple[bytes, LogLine]]) -> None:
    """Write the lines of current runs under the ids given; those of stale runs are left out."""
    for part in docs(_values(id_, line) for id_, line in lines):
        connection.execute(_INSERT, {"rows": part})


class LogWriter:
    """The async shell: one per worker."""

    def __init__(self, mill: Mill) -> None:
        self._mill = mill
        self._batcher: Batcher[LogLine, None] = Batcher("log", self._write, rows=1000, waiting=BUFFER)

    async def write(self, lines: Sequence[LogLine]) -> None:
        """Take the lines; never waits, never raises. Dropped and counted when the buffer is full."""
        for line in lines:
            size = len(line.message) + len(line.fields or "")
            if not self._batcher.post(line, bytes=size):
                self._mill.probes.logs_dropped.inc()

    async def drain(self) -> None:
        await self._batcher.drain()

    async def _write(self, lines: Sequence[LogLine]) -> Sequence[None]:
        batch = [(new_id(), line) for line in lines]

        def first(connection: Connection) -> None:
            log(connection, batch)

        def again(connection: Connection) -> None:
            with contextlib.suppress(exc.IntegrityError), connection.begin_nested():
                log(connection, batch)

        try:
            await self._mill.db.write(first, resend=again)
        except (Unavailable, exc.SQLAlchemyError):
            # Bad text cannot be among them (storable); the database is away: the tasks matter, these do not.
            self._mill.probes.logs_dropped.inc(len(lines))
        return [None] * len(lines)


def _values(id_: bytes, line: LogLine) -> list[Any]:
    return [
        line.task_id,
        id_,
        line.fence,
        storable(line.level, 10),
        storable(line.message, LOG_MESSAGE_LIMIT),
        storable(line.fields, LOG_FIELDS_LIMIT) if line.fields else None,
        line.at,
    ]
