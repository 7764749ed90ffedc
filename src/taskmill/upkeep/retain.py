"""retain: tasks that finished long ago go, with their payload, runs and logs, in small batches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Status, Verb
from taskmill.sql.dialect import from_now
from taskmill.sql.schema import logs, meta, runs, task_payloads, tasks
from taskmill.tasks.journal import Change, append
from taskmill.tasks.mill import Mill
from taskmill.tasks.scan import due_ids

DAY: Final = 86400.0
_T: Final = tasks.c
_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("ids", expanding=True)
_LOCK: Final = (
    sa.select(_T.id, _T.user_id, _T.queue, _T.priority, _T.status, _T.fence)
    .where(
        _T.id.in_(_IDS),
        _T.status + 0 == sa.bindparam("status"),
        _T.check_at <= from_now(sa.bindparam("age", type_=sa.Double())),
    )
    .order_by(_T.id)
    .with_for_update(skip_locked=True)
)


def retain(connection: Connection, ids: Sequence[bytes], status: Status, seconds: float) -> int:
    """Delete those of `ids` that are still in `status` since `seconds` or more; how many."""
    values = {"ids": sorted(ids), "status": int(status), "age": -seconds}
    rows = list(connection.execute(_LOCK, values))
    if not rows:
        return 0
    gone = {"ids": [r.id for r in rows]}
    connection.execute(sa.delete(logs).where(logs.c.task_id.in_(_IDS)), gone)
    connection.execute(sa.delete(runs).where(runs.c.task_id.in_(_IDS)), gone)
    connection.execute(sa.delete(task_payloads).where(task_payloads.c.id.in_(_IDS)), gone)
    connection.execute(sa.delete(tasks).where(_T.id.in_(_IDS)), gone)
    append(connection, Verb.RETAIN, [_change(r) for r in rows])
    return len(rows)


async def retain_batch(mill: Mill, status: Status, days: float, batch: int = 100) -> int:
    """Delete one batch of tasks that have been in `status` for `days`; how many."""
    seconds = days * DAY
    ids = await mill.db.read(lambda c: due_ids(c, status, batch, seconds))
    if not ids:
        return 0

    def work(connection: Connection) -> int:
        return retain(connection, ids, status, seconds)

    with mill.probes.verb_seconds.labels(verb=Verb.RETAIN.value).time():
        gone = await mill.db.write(work, resend=work)
    mill.probes.verb_rows.labels(verb=Verb.RETAIN.value).inc(gone)
    if gone:
        mill.hint("journal")
    return gone


_NAME: Final = "retained"


def retained_until(connection: Connection) -> datetime | None:
    """The daily retention that was done last, by any scheduler; None before the first."""
    found = connection.execute(sa.select(meta.c.value).where(meta.c.name == _NAME)).scalar()
    return None if found is None else datetime.fromisoformat(found)


def note_retained(connection: Connection, at: datetime) -> None:
    """Remember it. Twice is once."""
    values = {"value": at.isoformat()}
    if not connection.execute(sa.update(meta).where(meta.c.name == _NAME).values(values)).rowcount:
        connection.execute(sa.insert(meta).values(name=_NAME, **values))


def _change(row: Any) -> Change:
    return Change(row.id, row.user_id, row.queue, row.priority, row.priority, row.status, None, row.fence)
