"""rescue: a lease has run out. The run's attempt is spent and the task becomes a suspect, whatever its type.

By the lease on the row, never by age or by the worker's row. Locked by key, decided, written; the fence has not grown,
but the state has moved, so the late worker's settle is stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from taskmill.model.decide import Policy, cancelled, decide
from taskmill.model.ids import new_op
from taskmill.model.state import Status, Verb
from taskmill.model.task import Claimed, Ended, Outcome
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import tasks, workers
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow, select_rows, to_row
from taskmill.tasks.scan import due_ids
from taskmill.tasks.settle import Settlement, write_locked

log = structlog.get_logger(__name__)

_T: Final = tasks.c
_LOCK: Final = (
    select_rows()
    .where(
        _T.id.in_(sa.bindparam("ids", expanding=True)),
        _T.status + 0 == int(Status.PROCESSING),
        _T.check_at <= db_now(),
    )
    .order_by(_T.id)
    .with_for_update(skip_locked=True)
)


_REMOTE: Final = sa.select(workers.c.boot_id).where(workers.c.claim_op.is_not(None))
_EXPIRE: Final = (
    sa.update(tasks)
    .where(_T.status == int(Status.PROCESSING), sa.or_(_T.worker_id.is_(None), _T.worker_id.not_in(_REMOTE)))
    .values(check_at=db_now())
)


def rescue(connection: Connection, ids: Sequence[bytes], policy: Policy, rng: Random) -> list[Settlement]:
    """End those of `ids` whose lease has run out; what became of each."""
    rows = [to_row(r) for r in connection.execute(_LOCK, {"ids": sorted(ids)})]
    settlements = [_settlement(row, policy, rng) for row in rows]
    write_locked(connection, settlements, Verb.RESCUE)
    return settlements


async def rescue_lost(mill: Mill, batch: int) -> int:
    """Rescue one batch; how many there were."""
    ids = await mill.db.read(lambda c: due_ids(c, Status.PROCESSING, batch))
    if not ids:
        return 0

    def work(connection: Connection) -> list[Settlement]:
        return rescue(connection, ids, mill.options.policy, mill.rng)

    with mill.probes.verb_seconds.labels(verb=Verb.RESCUE.value).time():
        done = await mill.db.write(work, resend=work)
    if done:
        mill.probes.task_rescues.inc(len(done))
        mill.probes.tasks_failed.inc(sum(s.decision.status is Status.FAILED for s in done))
        mill.probes.verb_rows.labels(verb=Verb.RESCUE.value).inc(len(done))
        mill.hint("journal", "due")
        log.warning("rescue", tasks=len(done), workers=sorted({s.worker for s in done})[:5])
    return len(done)


async def expire_leases(mill: Mill) -> None:
    """End every lease but those of remote workers. Only for who knows that no other worker lives: the owner of a SQLite
    file's lock, before it starts one."""

    def work(connection: Connection) -> None:
        connection.execute(_EXPIRE)

    await mill.db.write(work, resend=work)


def _settlement(row: TaskRow, policy: Policy, rng: Random) -> Settlement:
    worker = row.worker_id.hex() if row.worker_id is not None else "unknown"
    outcome = Outcome(
        Ended.LEASE_LOST,
        error_type=Ended.LEASE_LOST.value,
        message=f"The lease of worker {worker} ran out: it died, or could not reach the database.",
    )
    if row.cancel_requested_at is not None:
        decision = cancelled(row.run, outcome)
    else:
        decision = decide(row.run, outcome, known_elsewhere=False, policy=policy, rng=rng)
    return Settlement(_claimed(row), outcome, decision, new_op(), worker)


def _claimed(row: TaskRow) -> Claimed:
    values: dict[str, Any] = {
        name: getattr(row, name)
        for name in Claimed.__dataclass_fields__
        if name not in ("payload", "deadline")
    }
    return Claimed(payload="", deadline=0.0, **values)
