"""The hot row as a value: every column of `tasks`, not the payload."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from taskmill.model.decide import RunState
from taskmill.model.state import Priority, Status
from taskmill.sql.schema import tasks


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One row of `tasks`. Times are naive UTC. `max_retries` None: the installation's default holds."""

    id: bytes
    user_id: bytes
    queue: str
    type: str | None
    title: str
    description: str | None
    status: Status
    priority: Priority
    result: str | None
    error: str | None
    attempts: int
    max_retries: int | None
    crashes: int
    suspect: bool
    releases: int
    fence: int
    check_at: datetime
    op_id: bytes | None
    worker_id: bytes | None
    scheduled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    progress: float | None
    cancel_requested_at: datetime | None

    @property
    def run(self) -> RunState:
        return RunState(self.attempts, self.max_retries, self.crashes, self.suspect, self.releases)


COLUMNS: Final = tuple(TaskRow.__dataclass_fields__)
_columns: Final = tuple(tasks.c[name] for name in COLUMNS)
_STATUS: Final = {int(s): s for s in Status}
_PRIORITY: Final = {int(p): p for p in Priority}


def select_rows() -> sa.Select[Any]:
    """SELECT of all the columns of a TaskRow: add WHERE, ORDER BY, LIMIT."""
    return sa.select(*_columns)


def to_row(row: sa.Row[Any]) -> TaskRow:
    """The value of a row that `select_rows` brought."""
    values = list(row)
    values[6] = _STATUS[values[6]]
    values[7] = _PRIORITY[values[7]]
    values[13] = bool(values[13])
    return TaskRow(*values)


assert (COLUMNS[6], COLUMNS[7], COLUMNS[13]) == ("status", "priority", "suspect")
