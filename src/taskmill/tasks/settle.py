"""settle: a run has ended; one fenced statement writes what becomes of the task.

Blind first: the batch is one UPDATE guarded by fence, state and "no cancel requested". When fewer rows match than were
named, all is rolled back, the rows are locked and each is looked at. A crash before the commit leaves a lease that runs
out; a lost COMMIT reply is settled by looking: every outcome has an operation id of its own, kept for the resend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.model.decide import Decision, Policy, RunState, cancelled, decide
from taskmill.model.ids import new_op
from taskmill.model.state import TERMINAL, Status, Verb
from taskmill.model.task import ERROR_LIMIT, TRACEBACK_LIMIT, Claimed, Ended, Outcome
from taskmill.sql.dialect import Shape, db_now, docs, from_now, unhex
from taskmill.sql.engine import code_of
from taskmill.sql.hot import Hot, in_packets, run, run_last
from taskmill.sql.schema import runs, tasks
from taskmill.tasks.journal import Change, append, append_if
from taskmill.tasks.mill import Mill
from taskmill.tasks.workers import DEFAULT, known_types

RUNS_KEPT: Final = 100
"""Runs that are kept of a task: a type that only others know could otherwise add rows for ever."""

_T: Final = tasks.c


@dataclass(frozen=True, slots=True)
class Settlement:
    """One outcome to write, with the decision and the operation id that it keeps for ever."""

    claimed: Claimed
    outcome: Outcome
    decision: Decision
    op: bytes
    worker: str

    @property
    def key(self) -> tuple[bytes, int]:
        return self.claimed.id, self.claimed.fence


_SHAPE: Final = Shape(
    "v",
    id="hex",
    fence="int",
    status="int",
    delay="real",
    finished="int",
    attempts="int",
    crashes="int",
    suspect="int",
    releases="int",
    result="text",
    error="text",
    op="hex",
)
_V: Final = _SHAPE.of()


def _write(*, guard: bool) -> sa.Update:
    conditions = [_T.id == unhex(_V.c.id), _T.fence == _V.c.fence, _T.status + 0 == int(Status.PROCESSING)]
    if guard:
        conditions.append(_T.cancel_requested_at.is_(None))
    return (
        sa.update(tasks)
        .where(*conditions)
        .values(
            status=_V.c.status,
            check_at=from_now(_V.c.delay),
            completed_at=sa.case((_V.c.finished == 1, db_now()), else_=None),
            attempts=_V.c.attempts,
            crashes=_V.c.crashes,
            suspect=_V.c.suspect,
            releases=_V.c.releases,
            # The last report of a short run may not have ridden on a renewal; completed is all of it.
            progress=sa.case(
                (sa.and_(_V.c.status == int(Status.COMPLETED), _T.progress.is_not(None)), 1.0),
                else_=_T.progress,
            ),
            result=_V.c.result,
            error=_V.c.error,
            op_id=unhex(_V.c.op),
            updated_at=db_now(),
        )
    )


_BLIND: Final = Hot(_write(guard=True))
_LOCKED: Final = Hot(_write(guard=False))

_RUN: Final = Shape(
    "r",
    id="hex",
    fence="int",
    attempt="int",
    op="hex",
    worker="text",
    outcome="text",
    error_type="text",
    message="text",
    trace="text",
)


def _insert_runs() -> sa.Insert:
    r = _RUN.of()
    columns = [
        "task_id",
        "fence",
        "attempt",
        "op_id",
        "worker",
        "started_at",
        "ended_at",
        "outcome",
        "error_type",
    ]
    query = sa.select(
        _T.id,
        r.c.fence,
        r.c.attempt,
        unhex(r.c.op),
        r.c.worker,
        _T.started_at,
        db_now(),
        r.c.outcome,
        r.c.error_type,
        r.c.message,
        r.c.trace,
    ).where(_T.id == unhex(r.c.id))
    return sa.insert(runs).from_select([*columns, "message", "traceback"], query)


_INSERT_RUNS: Final = _insert_runs()
_FORGET_RUNS: Final = sa.delete(runs).where(
    runs.c.task_id == sa.bindparam("task"), runs.c.fence <= sa.bindparam("until")
)
_LOOK: Final = (
    sa.select(
        _T.id,
        _T.fence,
        _T.status,
        _T.op_id,
        _T.cancel_requested_at,
        _T.attempts,
        _T.max_retries,
        _T.crashes,
        _T.suspect,
        _T.releases,
    )
    .where(_T.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_T.id)
    .with_for_update()
)
_RAN: Final = sa.select(runs.c.task_id, runs.c.fence, runs.c.op_id).where(
    runs.c.task_id.in_(sa.bindparam("ids", expanding=True))
)


SHORT_CODE: Final = 1048
"""What the servers say to `append_if` when fewer rows matched."""


class Short(Exception):
    """Inside settle only: fewer rows matched than were named."""


def settle(connection: Connection, batch: Sequence[Settlement]) -> None:
    """The blind way: all of the batch, or Short and nothing."""
    if len({s.claimed.id for s in batch}) < len(batch):
        raise Short  # two fences of one task: at most one of them matches
    completed = all(s.decision.status is Status.COMPLETED for s in batch)
    if completed and in_packets(connection) and len(parts := _documents(batch)) == 1:
        # The usual batch of a busy worker: update, journal and COMMIT in one packet, and a short match fails the commit.
        run_last(connection, _BLIND, {"rows": parts[0]})
        append_if(connection, Verb.SETTLE, [_change(s) for s in batch], len(batch))
        return
    matched = _write_all(connection, _BLIND, batch)
    if matched != len(batch):
        raise Short
    _record(connection, batch, Verb.SETTLE)


def settle_looking(connection: Connection, batch: Sequence[Settlement]) -> list[bool]:
    """The careful way: lock the rows, look at each, write what is still ours. Also the resend after a lost COMMIT.

    An answer for each: True when the outcome stands (written now, or by the first send), False when it is stale.
    """
    ids = sorted({s.claimed.id for s in batch})
    rows = {r.id: r for r in connection.execute(_LOOK, {"ids": ids})}
    ran = {(r.task_id, r.fence): r.op_id for r in connection.execute(_RAN, {"ids": ids})}
    answers: list[bool] = []
    ours: list[Settlement] = []
    for s in batch:
        row = rows.get(s.claimed.id)
        if row is not None and row.fence == s.claimed.fence and row.status == Status.PROCESSING:
            ours.append(_cancelled(s, row) if row.cancel_requested_at is not None else s)
            answers.append(True)
        else:
            answers.append(row is not None and _stands(s, row, ran))
    write_locked(connection, ours, Verb.SETTLE)
    return answers


def write_locked(connection: Connection, batch: Sequence[Settlement], verb: Verb) -> None:
    """Write decisions for rows that this transaction has locked and looked at."""
    if not batch:
        return
    matched = _write_all(connection, _LOCKED, batch)
    if matched != len(batch):
        raise AssertionError(f"{verb}: {matched} of {len(batch)} locked rows matched")
    _record(connection, batch, verb)


def _stands(s: Settlement, row: Any, ran: Mapping[tuple[bytes, int], bytes]) -> bool:
    """Whether this very outcome was written before. A completed task never leaves its state by itself, any other
    outcome has its row in `runs`, whatever happened to the task since."""
    return (row.fence == s.claimed.fence and row.op_id == s.op) or ran.get(s.key) == s.op


def _cancelled(s: Settlement, row: Any) -> Settlement:
    state = RunState(row.attempts, row.max_retries, row.crashes, bool(row.suspect), row.releases)
    return Settlement(s.claimed, s.outcome, cancelled(state, s.outcome), s.op, s.worker)


def _record(connection: Connection, batch: Sequence[Settlement], verb: Verb) -> None:
    """`runs` for what did not complete, and the journal."""
    failed = [s for s in batch if s.decision.status is not Status.COMPLETED]
    if failed:
        for part in docs(_run(s) for s in failed):
            connection.execute(_INSERT_RUNS, {"rows": part})
        for s in failed:
            if s.claimed.fence > RUNS_KEPT:
                until = s.claimed.fence - RUNS_KEPT
                connection.execute(_FORGET_RUNS, {"task": s.claimed.id, "until": until})
    append(connection, verb, [_change(s) for s in batch])


def _write_all(connection: Connection, statement: Hot, batch: Sequence[Settlement]) -> int:
    """Rows matched. Sorted by id: they are locked in this order, and a renewal or a rescue locks the same rows so too."""
    return sum(run(connection, (statement, {"rows": part}))[0].matched for part in _documents(batch))


def _documents(batch: Sequence[Settlement]) -> list[str]:
    return list(docs(_values(s) for s in sorted(batch, key=lambda s: s.claimed.id)))


def _values(s: Settlement) -> list[Any]:
    d = s.decision
    return [
        s.claimed.id,
        s.claimed.fence,
        int(d.status),
        d.delay,
        int(d.status in TERMINAL),
        d.attempts,
        d.crashes,
        int(d.suspect),
        d.releases,
        d.result,
        storable(d.error, ERROR_LIMIT),
        s.op,
    ]


def _run(s: Settlement) -> list[Any]:
    o = s.outcome
    return [
        s.claimed.id,
        s.claimed.fence,
        s.claimed.attempts,
        s.op,
        storable(s.worker, 100),
        s.decision.ran.value,
        storable(s.decision.error_type, 100),
        storable(o.message, ERROR_LIMIT),
        storable(o.traceback, TRACEBACK_LIMIT),
    ]


def storable(text: str | None, limit: int) -> str | None:
    """A text that every database takes: no NUL, no lone surrogate, at most `limit` characters."""
    if text is None:
        return None
    return text[:limit].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _change(s: Settlement) -> Change:
    c, p = s.claimed, int(s.claimed.priority)
    return Change(c.id, c.user_id, c.queue, p, p, int(Status.PROCESSING), int(s.decision.status), c.fence)


# ---- the async shell ----------------------------------------------------------------------------------------------


Kept = dict[tuple[bytes, int], Settlement]
"""Settlements that were sent and not answered, by (id, fence)."""
Known = frozenset[tuple[str, str]]
"""(queue, type) that live workers know; empty when no outcome asks for it."""


async def settle_batch(
    mill: Mill,
    batch: Sequence[tuple[Claimed, Outcome]],
    worker: str,
    *,
    patience: float,
    kept: Kept | None = None,
) -> list[bool]:
    """Settle a batch in one transaction; an answer for each, when it is committed.

    False: stale, another run owns the task. Unavailable when the database did not answer within `patience` seconds:
    the outcomes may stand or not. Send them again with the same `kept`, so that each keeps its decision and its
    operation, in whatever batch it comes.
    """
    kept = {} if kept is None else kept
    known = await _known(mill, batch)
    settlements = [_prepare_once(mill, c, o, known, worker, kept) for c, o in batch]

    def blind(connection: Connection) -> list[bool]:
        settle(connection, settlements)
        return [True] * len(settlements)

    def looking(connection: Connection) -> list[bool]:
        return settle_looking(connection, settlements)

    with mill.probes.verb_seconds.labels(verb=Verb.SETTLE.value).time():
        try:
            answers = await mill.db.write(blind, resend=looking, patience=patience)
        except (Short, exc.IntegrityError) as error:
            if not isinstance(error, Short) and code_of(error) != SHORT_CODE:
                raise
            answers = await mill.db.write(looking, resend=looking, patience=patience)
    for s in settlements:
        kept.pop(s.key, None)
    _count(mill, settlements, answers)
    return answers


def _prepare_once(
    mill: Mill, claimed: Claimed, outcome: Outcome, known: Known, worker: str, kept: Kept
) -> Settlement:
    settlement = kept.get((claimed.id, claimed.fence))
    if settlement is None or settlement.outcome is not outcome:
        settlement = prepare(claimed, outcome, known, worker, mill.options.policy, mill.rng)
        kept[settlement.key] = settlement
    return settlement


def prepare(
    claimed: Claimed, outcome: Outcome, known: Known, worker: str, policy: Policy, rng: Random
) -> Settlement:
    """Decide once: a resend writes the same."""
    state = RunState(
        claimed.attempts, claimed.max_retries, claimed.crashes, claimed.suspect, claimed.releases
    )
    type_ = DEFAULT if claimed.type is None else claimed.type
    elsewhere = (claimed.queue, type_) in known
    decision = decide(state, outcome, known_elsewhere=elsewhere, policy=policy, rng=rng)
    return Settlement(claimed, outcome, decision, new_op(), worker)


async def _known(mill: Mill, batch: Sequence[tuple[Claimed, Outcome]]) -> Known:
    if all(o.ended is not Ended.UNKNOWN_TYPE for _, o in batch):
        return frozenset()
    return await mill.db.read(lambda c: known_types(c, mill.options.worker_ttl))


def _count(mill: Mill, settlements: Sequence[Settlement], answers: Sequence[bool]) -> None:
    probes = mill.probes
    probes.verb_rows.labels(verb=Verb.SETTLE.value).inc(len(settlements))
    stale = answers.count(False)
    if stale:
        probes.stale_writes.labels(verb=Verb.SETTLE.value).inc(stale)
    done = [s.decision.status for s, ok in zip(settlements, answers, strict=True) if ok]
    probes.tasks_completed.inc(done.count(Status.COMPLETED))
    probes.tasks_failed.inc(done.count(Status.FAILED))
    probes.task_retries.inc(done.count(Status.PENDING))
    if Status.PENDING in done:
        mill.hint("due")
    mill.offer_again(
        [
            s.claimed
            for s, ok in zip(settlements, answers, strict=True)
            if ok and s.decision.status is Status.QUEUED
        ]
    )
    mill.hint("journal")
