"""promote: PENDING tasks whose time has come become QUEUED. SQL, then the index.

Ids are found outside the transaction, then locked by key and checked again: a second scheduler passes over them. A
crash after the commit leaves QUEUED rows that the index does not know; verify offers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Status, Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import tasks
from taskmill.tasks.journal import Change, append
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow, select_rows, to_row
from taskmill.tasks.scan import due_ids, next_due

_T: Final = tasks.c
_IDS: Final[sa.BindParameter[Sequence[bytes]]] = sa.bindparam("ids", expanding=True)
_LOCK: Final = (
    select_rows()
    .where(_T.id.in_(_IDS), _T.status + 0 == int(Status.PENDING), _T.check_at <= db_now())
    .order_by(_T.id)
    .with_for_update(skip_locked=True)
)
_QUEUE: Final = (
    sa.update(tasks)
    .where(_T.id.in_(_IDS))
    .values(status=int(Status.QUEUED), check_at=db_now(), updated_at=db_now())
)
_POSTPONE: Final = (
    sa.update(tasks).where(_T.id.in_(_IDS)).values(check_at=_T.scheduled_at, updated_at=db_now())
)
_AFTER: Final = select_rows().where(_T.id.in_(_IDS))


def promote(connection: Connection, ids: Sequence[bytes]) -> list[TaskRow]:
    """Queue those of `ids` that are still due; the rows as they are now.

    A task that a foreign transaction recorded for later comes by once at its birth: it gets its true time here, and is
    journalled again, since that transaction may have been long.
    """
    rows = [to_row(r) for r in connection.execute(_LOCK, {"ids": sorted(ids)})]
    if not rows:
        return []
    now = connection.execute(sa.select(db_now())).scalar_one()
    early = [r for r in rows if r.scheduled_at is not None and r.scheduled_at > now]
    due = [r.id for r in rows if r.scheduled_at is None or r.scheduled_at <= now]
    if early:
        connection.execute(_POSTPONE, {"ids": [r.id for r in early]})
    if due:
        connection.execute(_QUEUE, {"ids": due})
    early_ids = {r.id for r in early}
    append(connection, Verb.PROMOTE, [_change(r, r.id in early_ids) for r in rows])
    return [to_row(r) for r in connection.execute(_AFTER, {"ids": due})] if due else []


async def promote_due(mill: Mill, batch: int, poll: float) -> float:
    """Promote one batch; seconds until the next look: 0 when there may be more, at most `poll`."""
    wait = await mill.db.read(lambda c: next_due(c, Status.PENDING))
    if wait is None:
        return poll
    if wait <= 0:
        ids = await mill.db.read(lambda c: due_ids(c, Status.PENDING, batch))
        with mill.probes.verb_seconds.labels(verb=Verb.PROMOTE.value).time():
            rows = await mill.db.write(lambda c: promote(c, ids), resend=lambda c: promote(c, ids))
        if rows:
            mill.probes.verb_rows.labels(verb=Verb.PROMOTE.value).inc(len(rows))
            mill.offer(rows)
            mill.hint("journal")
            return 0.0
        # All of them are in other hands right now.
        return min(0.05, poll)
    return min(wait, poll)


def _change(row: TaskRow, early: bool) -> Change:
    p, pending = int(row.priority), int(Status.PENDING)
    after = pending if early else int(Status.QUEUED)
    return Change(row.id, row.user_id, row.queue, p, p, pending, after, row.fence)
