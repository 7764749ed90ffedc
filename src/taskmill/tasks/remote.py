"""What a remote worker does to tasks that it holds: the same verbs, for a caller that is known by (worker, id, fence) alone.

The API process that takes a write may never have seen the claim: what settle needs of a run is read from its row, and
the worker's id on that row says whose run it is. Operation ids are made from the caller's and from what it brings, so
that the same write sent again is found, and another one under the same id is not taken for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import BadUserInput, Stale
from taskmill.model.clock import boottime, micros
from taskmill.model.ids import id_of
from taskmill.model.state import Priority, Status, Verb
from taskmill.model.task import Claimed, Ended, NewTask, Outcome, Renewal, Renewed
from taskmill.sql.dialect import from_now
from taskmill.sql.schema import runs, task_payloads, tasks, workers
from taskmill.tasks.claim import RUN, claimed_from
from taskmill.tasks.mill import Mill
from taskmill.tasks.renew import renew, renew_by
from taskmill.tasks.row import TaskRow
from taskmill.tasks.settle import Kept, prepare, settle_batch
from taskmill.tasks.submit import submit
from taskmill.tasks.workers import ask_again, known_types, touch

NOT_YOURS: Final = (
    "This run is not yours any more: its lease ran out, it was settled, or another worker has it."
)

LAST_WORDS: Final = 60.0
"""Seconds after its end in which a run's log lines are still taken."""

_T: Final = tasks.c
_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("ids", expanding=True)
_PRIORITIES: Final = {int(p): p for p in Priority}


def worker_id(owner: bytes, boot: bytes) -> bytes:
    """The id of a remote worker in the record: of its own boot id and of whose key (or login) it uses, so that knowing
    a boot id is not being that worker."""
    return hashlib.sha256(b"worker" + owner + boot).digest()[:16]


def operation(worker: bytes, *parts: object) -> bytes:
    """An operation id that follows from what is written: 16 bytes."""
    return hashlib.sha256(worker + msgspec.msgpack.encode(parts)).digest()[:16]


# ---- claim, again -------------------------------------------------------------------------------------------------

_AGAIN: Final = (
    sa.select(*RUN)
    .join(task_payloads, task_payloads.c.id == _T.id)
    .where(_T.id.in_(_IDS), _T.worker_id == sa.bindparam("worker"), _T.status + 0 == int(Status.PROCESSING))
    .order_by(_T.id)
)


def claimed_before(connection: Connection, worker: bytes, op: bytes, lease: float) -> list[Claimed] | None:
    """The runs that this operation of the worker claimed and that still are its own, their leases begun anew; None when
    it has claimed nothing so far."""
    ids = ask_again(connection, worker, op)
    if not ids:
        return None
    sent = boottime()
    rows = list(connection.execute(_AGAIN, {"ids": sorted(ids), "worker": worker}))
    held = renew(connection, [Renewal(r.id, r.fence) for r in rows], lease) if rows else {}
    return [claimed_from(r, sent + lease) for r in rows if (r.id, r.fence) in held]


# ---- renew --------------------------------------------------------------------------------------------------------

_MINE: Final = sa.select(_T.id, _T.fence).where(_T.id.in_(_IDS), _T.worker_id == sa.bindparam("worker"))


async def renew_remote(mill: Mill, worker: bytes, leases: Sequence[Renewal], *, seen: bool) -> Renewed:
    """Prolong the leases that are this worker's. `seen`: refresh its row too. Unavailable: nothing is known."""

    def work(connection: Connection) -> dict[tuple[bytes, int], bool]:
        if seen:
            touch(connection, worker)
        if not leases:
            return {}
        rows = connection.execute(_MINE, {"ids": [r.id for r in leases], "worker": worker})
        mine = {(r.id, r.fence) for r in rows}
        ours = [r for r in leases if (r.id, r.fence) in mine]
        return renew(connection, ours, mill.options.lease) if ours else {}

    return await renew_by(mill, leases, work)


# ---- settle -------------------------------------------------------------------------------------------------------


class Settled(Enum):
    """What became of an outcome that was sent in."""

    RECORDED = "RECORDED"
    """It stands: written now, or by an earlier send of the same."""
    STALE = "STALE"
    """The run is not this worker's any more, or never was. Nothing was written."""
    CONFLICT = "CONFLICT"
    """This worker has settled this run before, with another outcome. That one stands."""


@dataclass(frozen=True, slots=True)
class Brought:
    """An outcome as a remote worker sends it. `op` is `operation(…)` of all that it says."""

    worker: bytes
    id: bytes
    fence: int
    outcome: Outcome
    op: bytes


_LOOK: Final = (
    sa.select(
        _T.id,
        _T.fence,
        _T.status,
        _T.worker_id,
        _T.op_id,
        _T.user_id,
        _T.queue,
        _T.priority,
        _T.type,
        _T.attempts,
        _T.max_retries,
        _T.crashes,
        _T.suspect,
        _T.releases,
        workers.c.name,
    )
    .select_from(sa.outerjoin(tasks, workers, workers.c.boot_id == _T.worker_id))
    .where(_T.id.in_(_IDS))
)
_RAN: Final = sa.select(runs.c.task_id, runs.c.fence, runs.c.op_id, runs.c.outcome).where(
    runs.c.task_id.in_(_IDS), runs.c.fence.in_(sa.bindparam("fences", expanding=True))
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the record says of the runs of a batch, and which types live workers know (when that is asked for)."""

    rows: dict[bytes, Any]
    ran: dict[tuple[bytes, int], Any]
    known: frozenset[tuple[str, str]]

    def judge(self, b: Brought) -> Settled | None:
        """None: its run goes on, and is this worker's."""
        row, ran = self.rows.get(b.id), self.ran.get((b.id, b.fence))
        if row is None:
            return Settled.STALE
        mine = row.fence == b.fence and row.worker_id == b.worker
        if mine and row.status == Status.PROCESSING:
            return None
        if (mine and row.op_id == b.op) or (ran is not None and ran.op_id == b.op):
            return Settled.RECORDED
        lost = ran is not None and ran.outcome == Ended.LEASE_LOST
        return Settled.CONFLICT if mine and not lost else Settled.STALE


async def settle_remote(mill: Mill, batch: Sequence[Brought], *, patience: float) -> list[Settled]:
    """Settle outcomes of any workers in one transaction; an answer for each, when it is committed.

    Unavailable: they may stand or not. The same sent again is safe.
    """
    found = await mill.db.read(lambda c: _look(c, batch, mill.options.worker_ttl))
    answers: dict[int, Settled] = {}
    first: dict[bytes, int] = {}
    twice: list[tuple[int, Brought]] = []
    for i, b in enumerate(batch):
        verdict = found.judge(b)
        if verdict is not None:
            answers[i] = verdict
        elif b.id in first:  # twice in one batch: the first is written
            twice.append((i, b))
        else:
            first[b.id] = i
    kept: Kept = {}
    going = [(_run(found.rows[b.id]), b) for b in (batch[i] for i in first.values())]
    for run, b in going:
        name = found.rows[b.id].name or "remote"
        settlement = prepare(run, b.outcome, found.known, name, mill.options.policy, mill.rng)
        kept[settlement.key] = replace(settlement, op=b.op)
    written = (
        await settle_batch(mill, [(run, b.outcome) for run, b in going], "", patience=patience, kept=kept)
        if going
        else []
    )
    for i, ok in zip(first.values(), written, strict=True):
        answers[i] = Settled.RECORDED if ok else Settled.STALE
    for i, b in twice:
        same = batch[first[b.id]].op == b.op
        answers[i] = answers[first[b.id]] if same else Settled.CONFLICT
    # settle_batch has counted its own.
    stale = list(answers.values()).count(Settled.STALE) - written.count(False)
    mill.probes.stale_writes.labels(verb=Verb.SETTLE.value).inc(stale)
    return [answers[i] for i in range(len(batch))]


def _look(connection: Connection, batch: Sequence[Brought], ttl: float) -> _Found:
    rows = {r.id: r for r in connection.execute(_LOOK, {"ids": sorted({b.id for b in batch})})}
    past = [b for b in batch if b.id in rows and not _goes_on(rows[b.id], b)]
    ran = {}
    if past:
        values = {"ids": sorted({b.id for b in past}), "fences": sorted({b.fence for b in past})}
        ran = {(r.task_id, r.fence): r for r in connection.execute(_RAN, values)}
    asks = any(b.outcome.ended is Ended.UNKNOWN_TYPE for b in batch)
    return _Found(rows, ran, known_types(connection, ttl) if asks else frozenset())


def _goes_on(row: Any, b: Brought) -> bool:
    return bool(row.status == Status.PROCESSING and row.fence == b.fence and row.worker_id == b.worker)


def _run(row: Any) -> Claimed:
    """The run, as far as settle looks at it."""
    return Claimed(
        row.id,
        row.fence,
        row.user_id,
        row.queue,
        _PRIORITIES[row.priority],
        row.type,
        "",
        "",
        row.attempts,
        row.max_retries,
        row.crashes,
        bool(row.suspect),
        row.releases,
        0.0,
    )


# ---- whose run it is: for logs, and for what a handler submits ------------------------------------------------------

_OWNERS: Final = sa.select(_T.id, _T.fence, _T.user_id, _T.started_at).where(
    _T.id.in_(_IDS), _T.worker_id == sa.bindparam("worker"), _T.status + 0 == int(Status.PROCESSING)
)
_SPEAKERS: Final = sa.select(_T.id, _T.fence).where(
    _T.id.in_(_IDS),
    _T.worker_id == sa.bindparam("worker"),
    sa.or_(_T.status + 0 == int(Status.PROCESSING), _T.updated_at > from_now(-LAST_WORDS)),
)
_THERE: Final = sa.select(_T.id).where(_T.id == sa.bindparam("id"))


def owners(connection: Connection, worker: bytes, ids: Iterable[bytes]) -> dict[tuple[bytes, int], Any]:
    """(id, fence) → user_id and started_at, for those of these tasks that this worker runs now."""
    rows = connection.execute(_OWNERS, {"ids": sorted(set(ids)), "worker": worker})
    return {(r.id, r.fence): r for r in rows}


def speakers(connection: Connection, worker: bytes, ids: Iterable[bytes]) -> set[tuple[bytes, int]]:
    """(id, fence) of the runs of these tasks that this worker may log for: those that it runs, and those that it has
    just settled, for what a run says at its end and its outcome are two calls."""
    rows = connection.execute(_SPEAKERS, {"ids": sorted(set(ids)), "worker": worker})
    return {(r.id, r.fence) for r in rows}


async def submit_remote(
    mill: Mill, worker: bytes, lease: tuple[bytes, int], op: bytes, new: Sequence[NewTask]
) -> list[bytes]:
    """Record tasks that a run submits, as its task's user, whatever user they name. Their ids.

    All or nothing, in one transaction. The ids follow from the operation, so that the same sent again finds them,
    whatever was heard of the first. Stale: it is no run of this worker. BadUserInput: the database refuses a value.
    """

    def work(connection: Connection) -> tuple[list[bytes], list[TaskRow]]:
        parent = owners(connection, worker, [lease[0]]).get(lease)
        if parent is None:
            raise Stale(NOT_YOURS)
        began = micros(parent.started_at) // 1000
        ids = [id_of(began, op + n.to_bytes(4, "big")) for n in range(len(new))]
        if connection.execute(_THERE, {"id": ids[0]}).first() is not None:
            return ids, []
        theirs = [replace(task, user_id=parent.user_id) for task in new]
        return ids, submit(connection, list(zip(ids, theirs, strict=True)))

    try:
        with mill.probes.verb_seconds.labels(verb=Verb.SUBMIT.value).time():
            try:
                ids, rows = await mill.db.write(work, resend=work)
            except exc.IntegrityError:  # the same at the same time: by now it is there
                ids, rows = await mill.db.write(work, resend=work)
    except Stale:
        mill.probes.stale_writes.labels(verb=Verb.SUBMIT.value).inc()
        raise
    except (exc.DataError, UnicodeError) as error:
        raise BadUserInput("The database refuses a value of these tasks.") from error
    mill.probes.verb_rows.labels(verb=Verb.SUBMIT.value).inc(len(rows))
    mill.submitted(rows)
    return ids
