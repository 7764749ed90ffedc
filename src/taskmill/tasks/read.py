"""Reading tasks: one, a page, the numbers, and what hangs on many at once. Nothing here locks or writes.

Plain functions over a Connection, for `Database.read`; `stats` wants `Database.snapshot`. `owner` None sees all tasks,
else its own only: a foreign task is an absent one. The long texts (description, result, error, payload) are read on
their own, by those who show them: a page of 100 tasks would carry up to 25 MiB of results otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from taskmill.model.state import Priority, Status
from taskmill.model.task import Ended
from taskmill.sql import schema
from taskmill.tasks.journal import decode, tally

RARE: Final = 1000
"""Tasks in a state, in the whole installation: up to here sorting them is cheaper than walking a longer index."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task without its long texts. Times are naive UTC. `max_retries` None: the installation's default holds."""

    id: bytes
    user_id: bytes
    queue: str
    type: str | None
    title: str
    status: Status
    priority: Priority
    attempts: int
    max_retries: int | None
    fence: int
    progress: float | None
    scheduled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    cancel_requested_at: datetime | None


@dataclass(frozen=True, slots=True)
class Texts:
    """The long texts of the hot row; `result` is JSON text."""

    description: str | None
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tasks: all conditions that are given must hold."""

    owner: bytes | None = None
    status: Status | None = None
    priority: Priority | None = None
    type: str | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class LogRow:
    id: bytes
    level: str
    message: str
    fields: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. `outcome` None: it goes on; `worker`: the name, where it is still known."""

    task_id: bytes
    fence: int
    attempt: int
    outcome: str | None
    error_type: str | None
    error: str | None
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None


_t: Final = schema.tasks.c
_COLUMNS: Final = tuple(f.name for f in fields(TaskView))
_STATUS_AT: Final = _COLUMNS.index("status")
_PRIORITY_AT: Final = _COLUMNS.index("priority")
_select: Final = sa.select(*(_t[name] for name in _COLUMNS))
_one: Final = _select.where(_t.id == sa.bindparam("id"))
_many: Final = _select.where(_t.id.in_(sa.bindparam("ids", expanding=True)))


def _view(row: sa.Row[Any]) -> TaskView:
    values = list(row)
    values[_STATUS_AT] = Status(values[_STATUS_AT])
    values[_PRIORITY_AT] = Priority(values[_PRIORITY_AT])
    return TaskView(*values)


def task(connection: Connection, task_id: bytes, owner: bytes | None) -> TaskView | None:
    """The task, or None when it is absent or another's."""
    row = connection.execute(_one, {"id": task_id}).one_or_none()
    found = None if row is None else _view(row)
    return found if found is not None and owner in (None, found.user_id) else None


def tasks(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, TaskView]:
    """The tasks of these ids that are there, whoever's they are."""
    rows = connection.execute(_many, {"ids": list(ids)})
    return {row[0]: _view(row) for row in rows}


# ---- a page -------------------------------------------------------------------------------------------------------


class _plain(FunctionElement[Any]):
    """A column that SQLite may not look up in an index; the servers are told by FORCE INDEX which one to take."""

    inherit_cache = True
    name = "plain"


@compiles(_plain)
def _plain_server(element: _plain, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(next(iter(element.clauses)), **kw)


@compiles(_plain, "sqlite")
def _plain_sqlite(element: _plain, compiler: SQLCompiler, **kw: Any) -> str:
    return "+" + compiler.process(next(iter(element.clauses)), **kw)


_INDEXES: Final = {
    "status": "ix_tasks_check",
    "owner": "ix_tasks_user",
    "type": "ix_tasks_type",
    "queue": "ix_tasks_queue",
    "": "PRIMARY",
}
_beyond_rare: Final = (
    sa.select(_t.id)
    .where(_t.status == sa.bindparam("status"))
    .with_hint(schema.tasks, "FORCE INDEX (ix_tasks_check)", "mysql")
    .with_hint(schema.tasks, "FORCE INDEX (ix_tasks_check)", "mariadb")
    .limit(1)
    .offset(RARE)
)


def page(
    connection: Connection, filters: Filters, *, limit: int, after: bytes | None = None
) -> list[TaskView]:
    """At most `limit` tasks, newest first; `after`: those older than this id, which need not exist any more.

    Ids grow with time, so every index that ends in the id has the order already, and the first match is read at once.
    Only a state with few tasks is taken by its own index and sorted.
    """
    statement = page_statement(filters, by=_index(connection, filters), after=after is not None)
    values = {"limit": limit, **_bound(filters)}
    if after is not None:
        values["after"] = after
    return [_view(row) for row in connection.execute(statement, values)]


def page_statement(filters: Filters, *, by: str, after: bool) -> sa.Select[Any]:
    """The SELECT of a page by one index: a key of `_INDEXES`. Parameters: limit, after, and the filters' names."""
    columns = {
        "owner": _t.user_id,
        "status": _t.status,
        "priority": _t.priority,
        "type": _t.type,
        "queue": _t.queue,
    }
    statement = _select.order_by(_t.id.desc()).limit(sa.bindparam("limit", type_=sa.Integer()))
    for server in ("mysql", "mariadb"):
        statement = statement.with_hint(schema.tasks, f"FORCE INDEX ({_INDEXES[by]})", server)
    for name in _bound(filters):
        column = columns[name]
        looked_up = name == by or (by == "status" and name == "priority")
        parameter = sa.bindparam(name, type_=column.type)
        statement = statement.where((column if looked_up else _plain(column)) == parameter)
    if after:
        # By the status index the rows are sorted anyway; elsewhere the id is the rest of the index's key.
        key = _plain(_t.id) if by == "status" else _t.id
        statement = statement.where(key < sa.bindparam("after", type_=_t.id.type))
    return statement


def _bound(filters: Filters) -> dict[str, Any]:
    """The conditions that are given, by name, as SQL takes them."""
    return {
        name: int(value) if isinstance(value, int) else value
        for name in ("owner", "status", "priority", "type", "queue")
        if (value := getattr(filters, name)) is not None
    }


def _index(connection: Connection, filters: Filters) -> str:
    if filters.status is not None:
        common = connection.execute(_beyond_rare, {"status": int(filters.status)}).first()
        if common is None:
            return "status"
    return next((name for name in ("owner", "type", "queue") if getattr(filters, name) is not None), "")


# ---- the numbers --------------------------------------------------------------------------------------------------

_counts: Final = sa.select(schema.counts.c.status, sa.func.sum(schema.counts.c.n)).group_by(
    schema.counts.c.status
)
_counts_of: Final = _counts.where(schema.counts.c.user_id == sa.bindparam("owner"))
_unfolded: Final = sa.select(schema.journal.c.changes).where(schema.journal.c.folded == 0)


def stats(connection: Connection, owner: bytes | None) -> dict[Status, int]:
    """How many tasks are in each state: what is folded plus what is not yet. Exact, inside one snapshot."""
    rows = connection.execute(_counts) if owner is None else connection.execute(_counts_of, {"owner": owner})
    numbers = dict.fromkeys(Status, 0)
    for status, n in rows:
        numbers[Status(status)] += int(n)
    for blob in connection.execute(_unfolded).scalars():
        for (user, _, _, status), n in tally(decode(blob)).items():
            if owner in (None, user):
                numbers[Status(status)] += n
    return numbers


# ---- what hangs on many tasks, one statement for all -----------------------------------------------------------------

_texts: Final = sa.select(_t.id, _t.description, _t.result, _t.error).where(
    _t.id.in_(sa.bindparam("ids", expanding=True))
)
_payloads: Final = sa.select(schema.task_payloads.c.id, schema.task_payloads.c.payload).where(
    schema.task_payloads.c.id.in_(sa.bindparam("ids", expanding=True))
)


def texts(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, Texts]:
    return {row[0]: Texts(row[1], row[2], row[3]) for row in connection.execute(_texts, {"ids": list(ids)})}


def payloads(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, str]:
    """The payloads, as JSON text."""
    return {row[0]: row[1] for row in connection.execute(_payloads, {"ids": list(ids)})}


def _ranked(*, after: bool) -> sa.Select[Any]:
    log = schema.logs.c
    rank = sa.func.row_number().over(partition_by=log.task_id, order_by=log.id).label("place")
    inner = sa.select(log.task_id, log.id, log.level, log.message, log.fields, log.created_at, rank).where(
        log.task_id.in_(sa.bindparam("ids", expanding=True))
    )
    if after:
        inner = inner.where(log.id > sa.bindparam("after", type_=log.id.type))
    found = inner.subquery("found")
    columns = [c for c in found.c if c.name != "place"]
    return (
        sa.select(*columns)
        .where(found.c.place <= sa.bindparam("limit"))
        .order_by(found.c.task_id, found.c.id)
    )


_logs: Final = _ranked(after=False)
_logs_after: Final = _ranked(after=True)


def logs(
    connection: Connection, ids: Sequence[bytes], *, limit: int, after: bytes | None = None
) -> dict[bytes, list[LogRow]]:
    """The first `limit` lines of each task, oldest first; `after`: those behind this line's id."""
    values: dict[str, Any] = {"ids": list(ids), "limit": limit}
    if after is not None:
        values["after"] = after
    lines: dict[bytes, list[LogRow]] = {}
    for row in connection.execute(_logs if after is None else _logs_after, values):
        lines.setdefault(row[0], []).append(LogRow(*row[1:]))
    return lines


def _ranked_runs() -> sa.Select[Any]:
    run = schema.runs.c
    rank = sa.func.row_number().over(partition_by=run.task_id, order_by=run.fence.desc()).label("place")
    inner = (
        sa.select(
            run.task_id,
            run.fence,
            run.attempt,
            run.outcome,
            run.error_type,
            run.message,
            run.started_at,
            run.ended_at,
            run.worker,
            rank,
        )
        .where(run.task_id.in_(sa.bindparam("ids", expanding=True)))
        .subquery("found")
    )
    columns = [c for c in inner.c if c.name != "place"]
    return (
        sa.select(*columns)
        .where(inner.c.place <= sa.bindparam("limit"))
        .order_by(inner.c.task_id, inner.c.fence.desc())
    )


_runs: Final = _ranked_runs()
_latest: Final = (
    sa.select(_t.id, _t.fence, _t.attempts, _t.status, _t.started_at, _t.completed_at, schema.workers.c.name)
    .select_from(sa.outerjoin(schema.tasks, schema.workers, schema.workers.c.boot_id == _t.worker_id))
    .where(_t.id.in_(sa.bindparam("ids", expanding=True)))
)


def runs(connection: Connection, ids: Sequence[bytes], *, limit: int) -> dict[bytes, list[RunRow]]:
    """The last `limit` runs of each task, newest first.

    `runs` holds those that did not complete; the one that goes on or completed is on the task's own row.
    """
    found: dict[bytes, list[RunRow]] = {task_id: [] for task_id in ids}
    for row in connection.execute(_latest, {"ids": list(ids)}):
        if row.status in (Status.PROCESSING, Status.COMPLETED):
            done = row.status == Status.COMPLETED
            outcome = Ended.SUCCEEDED.value if done else None
            ended = row.completed_at if done else None
            found[row.id].append(
                RunRow(row.id, row.fence, row.attempts, outcome, None, None, row.started_at, ended, row.name)
            )
    for row in connection.execute(_runs, {"ids": list(ids), "limit": limit}):
        found[row.task_id].append(RunRow(*tuple(row)))  # in the order of its columns
    return {task_id: rows[:limit] for task_id, rows in found.items()}


_tracebacks: Final = sa.select(schema.runs.c.task_id, schema.runs.c.fence, schema.runs.c.traceback).where(
    schema.runs.c.task_id.in_(sa.bindparam("ids", expanding=True)),
    schema.runs.c.fence.in_(sa.bindparam("fences", expanding=True)),
)


def tracebacks(connection: Connection, keys: Iterable[tuple[bytes, int]]) -> dict[tuple[bytes, int], str]:
    """The tracebacks of runs that raised, by (task, fence): up to 16 KiB each, so they are read only when asked for."""
    wanted = set(keys)
    values = {"ids": list({k[0] for k in wanted}), "fences": list({k[1] for k in wanted})}
    rows = connection.execute(_tracebacks, values)
    return {(r[0], r[1]): r[2] for r in rows if r[2] is not None and (r[0], r[1]) in wanted}
