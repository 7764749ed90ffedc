"""renew: the worker lives. One statement prolongs all of its leases; its answer tells which are lost or cancelled.

Accepted on fence and state, never on time: a late renewal of a task that nobody took saves the run. Progress rides
along. A lost reply is no harm: the same again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.clock import boottime
from taskmill.model.state import Status, Verb
from taskmill.model.task import Renewal, Renewed
from taskmill.sql.dialect import Shape, db_now, doc, from_now, unhex
from taskmill.sql.schema import tasks
from taskmill.tasks.journal import Change, append
from taskmill.tasks.mill import Mill

_T: Final = tasks.c
_V: Final = Shape("v", id="hex", fence="int", progress="real").of()
_RENEW: Final = (
    sa.update(tasks)
    .where(_T.id == unhex(_V.c.id), _T.fence == _V.c.fence, _T.status + 0 == int(Status.PROCESSING))
    .values(
        check_at=from_now(sa.bindparam("lease", type_=sa.Double())),
        updated_at=sa.case((_V.c.progress.is_(None), _T.updated_at), else_=db_now()),
        progress=sa.func.coalesce(_V.c.progress, _T.progress),
    )
)
_ANSWER: Final = sa.select(_T.id, _T.fence, _T.user_id, _T.queue, _T.priority, _T.cancel_requested_at).where(
    _T.id.in_(sa.bindparam("ids", expanding=True)), _T.status + 0 == int(Status.PROCESSING)
)


def renew(connection: Connection, leases: Sequence[Renewal], lease: float) -> dict[tuple[bytes, int], bool]:
    """Prolong the leases that are still held. (id, fence) → whether a cancel was requested; the lost are not in it."""
    leases = sorted(leases, key=lambda r: r.id)
    values = {"rows": doc((r.id, r.fence, r.progress) for r in leases), "lease": lease}
    connection.execute(_RENEW, values)
    asked = {(r.id, r.fence): r for r in leases}
    rows = [
        r for r in connection.execute(_ANSWER, {"ids": [r.id for r in leases]}) if (r.id, r.fence) in asked
    ]
    append(connection, Verb.RENEW, [_change(r) for r in rows if asked[r.id, r.fence].progress is not None])
    return {(r.id, r.fence): r.cancel_requested_at is not None for r in rows}


async def renew_leases(mill: Mill, leases: Sequence[Renewal]) -> Renewed:
    """Renew a worker's leases. Unavailable: nothing is known, the old deadline holds, try again."""
    return await renew_by(mill, leases, lambda c: renew(c, leases, mill.options.lease))


async def renew_by(
    mill: Mill, leases: Sequence[Renewal], work: Callable[[Connection], dict[tuple[bytes, int], bool]]
) -> Renewed:
    """As `renew_leases`, by a transaction that answers as `renew` does. What it does not answer for is lost."""
    sent, lease = boottime(), mill.options.lease
    with mill.probes.verb_seconds.labels(verb=Verb.RENEW.value).time():
        found = await mill.db.write(work, resend=work, patience=max(lease / 3, 1.0))
    if any(r.progress is not None for r in leases):
        mill.hint("journal")
    asked = {(r.id, r.fence) for r in leases}
    held = frozenset(k for k, cancel in found.items() if not cancel)
    cancelled = frozenset(k for k, cancel in found.items() if cancel)
    lost = frozenset(asked - held - cancelled)
    if lost:
        mill.probes.stale_writes.labels(verb=Verb.RENEW.value).inc(len(lost))
    mill.probes.verb_rows.labels(verb=Verb.RENEW.value).inc(len(leases))
    return Renewed(held, cancelled, lost, sent + lease)


def _change(row: Any) -> Change:
    p, s = int(row.priority), int(Status.PROCESSING)
    return Change(row.id, row.user_id, row.queue, p, p, s, s, row.fence)
