"""claim: the index reserves, SQL decides, the index confirms.

    next      → members reserved under a token that only this call has
    UPDATE    → QUEUED becomes PROCESSING: fence + 1, attempts + 1, the lease
    confirm   → with the next `next`, or at once when no slot is left

With no index, or while it is being filled, ids come from SQL, and the same UPDATE decides. A crash leaves a reservation
that expires by itself, or a lease that rescue ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.ids import new_op
from taskmill.model.state import Priority, Status, Verb
from taskmill.model.task import Claimed, Registry
from taskmill.sql.dialect import db_now, elapsed, from_now
from taskmill.sql.hot import Hot, run
from taskmill.sql.schema import task_payloads, tasks
from taskmill.tasks.journal import Change, append
from taskmill.tasks.scan import Position, page_query
from taskmill.tasks.workers import note_claim

DEADLINE: Final = 5.0
"""Seconds from asking the index to the commit. With the index's own time-out (5 s) it ends before a reservation does (10 s)."""

_T: Final = tasks.c
RUN: Final = [
    _T.id,
    _T.fence,
    _T.user_id,
    _T.queue,
    _T.priority,
    _T.type,
    _T.title,
    task_payloads.c.payload,
    _T.attempts,
    _T.max_retries,
    _T.crashes,
    _T.suspect,
    _T.releases,
]
"""What a run is made of, in the order in which `claimed_from` takes it apart."""
_READ: Final = [
    *RUN,
    # How long it has waited, worked out there: three more times a row would cost more than all the rest of it.
    elapsed(sa.case((_T.scheduled_at > _T.created_at, _T.scheduled_at), else_=_T.created_at), _T.started_at),
]
_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("ids", expanding=True)


@dataclass(frozen=True, slots=True)
class Note:
    """Of a claim whose answer has a long way to go: what it brings is written into the worker's row by the claim's own
    transaction, so that the same operation, asked for again anywhere, finds it."""

    op: bytes
    ids: tuple[bytes, ...] = ()
    """Noted under this operation so far: one claim may be two transactions."""

    def after(self, ids: Iterable[bytes]) -> Note:
        return Note(self.op, (*self.ids, *ids))


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, fixed when it is first sent: a resend names the same operation."""

    worker: bytes
    lease: float
    sent: float
    """`boottime()` before it was sent: this worker's own deadline is `sent` + lease."""
    suspects: int
    """How many suspects may be among them."""
    op: bytes = field(default_factory=new_op)
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the ids of a claim. Each is in exactly one place."""

    claimed: list[Claimed]
    waits: list[float]
    """Seconds from eligible to first start, for those that started for the first time."""
    busy: set[bytes]
    """PROCESSING, another's: the index may confirm it."""
    parked: set[bytes]
    """QUEUED, but a suspect, and there is no room to run one alone now."""
    moved: set[bytes]
    """QUEUED, and not taken: it came back meanwhile. Give it back."""
    dead: set[bytes]
    """Not claimable: drop it."""


class Statement:
    """The claim's UPDATE, built once for a worker: what it fills into `max_retries` follows from its registry."""

    def __init__(self, registry: Registry, default: int) -> None:
        # `status + 0`: with a plain comparison the optimizer leaves the primary key for the status index when few rows
        # have the status; two claimers then lock in opposite orders.
        update = (
            sa.update(tasks)
            .where(_T.id.in_(_IDS), _T.status + 0 == int(Status.QUEUED))
            .values(
                status=int(Status.PROCESSING),
                fence=_T.fence + 1,
                attempts=_T.attempts + 1,
                max_retries=max_retries_of(registry, default),
                op_id=sa.bindparam("op"),
                worker_id=sa.bindparam("worker"),
                started_at=db_now(),
                updated_at=db_now(),
                check_at=from_now(sa.bindparam("lease", type_=sa.Double())),
                progress=None,
            )
        )
        self.any = Hot(update)
        self.plain = Hot(update.where(_T.suspect + 0 == 0))


def claim(connection: Connection, ids: Sequence[bytes], this: Claim, statement: Statement) -> Taken:
    """Claim what is claimable among `ids`, write the journal row, and say what became of each."""
    ids = sorted(ids)
    values = {"op": this.op, "worker": this.worker, "lease": this.lease}
    rows = _claim(connection, statement.plain, ids, values)
    taken = {row[0] for row in rows}
    states = _states(connection, [i for i in ids if i not in taken])
    suspects = [i for i, (status, suspect) in states.items() if status == Status.QUEUED and suspect]
    room = suspects[: this.suspects]
    if room:
        rows += [r for r in _claim(connection, statement.any, sorted(room), values) if r[0] not in taken]
    if this.note is not None and rows:
        note_claim(connection, this.worker, this.note.op, this.note.after(r[0] for r in rows).ids)
    return _taken(connection, ids, rows, states, this)


def _claim(connection: Connection, update: Hot, ids: Sequence[bytes], values: Mapping[str, Any]) -> list[Any]:
    """Update by id, and read back by id and operation, in one round trip."""
    values = {"ids": ids, **values}
    return list(run(connection, (update, values), (_READ_BACK, values))[1].rows)


def claim_again(
    connection: Connection, ids: Sequence[bytes], this: Claim, statement: Statement
) -> tuple[Taken, Claim]:
    """The reply to COMMIT was lost. What is ours under this operation is taken as it is: it is journalled already.

    Locking waits for a COMMIT in flight. None found: it never happened, claim anew under a new operation. The claim
    that now stands, or will, comes with the answer: its own reply may be lost as well.
    """
    ids = sorted(ids)
    values = {"ids": ids, "op": this.op}
    # By id and operation: the answer to "did my commit happen?".
    rows = list(connection.execute(_READ_BACK_LOCKED, values))
    if not rows:
        anew = replace(this, op=new_op())
        return claim(connection, ids, anew, statement), anew
    states = _states(connection, [i for i in ids if i not in {r[0] for r in rows}])
    return _taken(None, ids, rows, states, this), this


def max_retries_of(registry: Registry, default: int) -> sa.ColumnElement[Any]:
    """What a first claim fills into `max_retries`: the handler's own, else the default. Unknown types stay open."""
    known = {h.type: default if h.max_retries is None else h.max_retries for h in registry.handlers}
    typed = {t: n for t, n in known.items() if t is not None}
    whens = [(_T.type == t, sa.literal(n)) for t, n in sorted(typed.items())]
    if None in known:
        whens.append((_T.type.is_(None), sa.literal(known[None])))
    return sa.func.coalesce(_T.max_retries, sa.case(*whens, else_=None)) if whens else _T.max_retries


_read_back: Final = (
    sa.select(*_READ)
    .join(task_payloads, task_payloads.c.id == _T.id)
    .where(_T.id.in_(_IDS), _T.op_id == sa.bindparam("op"), _T.status + 0 == int(Status.PROCESSING))
    .order_by(_T.id)
)
_READ_BACK: Final = Hot(_read_back)
_READ_BACK_LOCKED: Final = _read_back.with_for_update()

_STATES: Final = sa.select(_T.id, _T.status, _T.suspect).where(_T.id.in_(_IDS))


def _states(connection: Connection, ids: Sequence[bytes]) -> Mapping[bytes, tuple[int, bool]]:
    if not ids:
        return {}
    return {r.id: (r.status, bool(r.suspect)) for r in connection.execute(_STATES, {"ids": list(ids)})}


def _taken(
    connection: Connection | None,
    ids: Sequence[bytes],
    rows: Sequence[Any],
    states: Mapping[bytes, tuple[int, bool]],
    this: Claim,
) -> Taken:
    """`connection` None: they are journalled already."""
    deadline = this.sent + this.lease
    claimed = [claimed_from(r, deadline) for r in rows]
    mine = {c.id for c in claimed}
    rest = [i for i in ids if i not in mine]
    queued = {i for i in rest if states.get(i, (0, False))[0] == Status.QUEUED}
    busy = {i for i in rest if states.get(i, (0, False))[0] == Status.PROCESSING}
    parked = {i for i in queued if states[i][1]}
    if connection is not None:
        append(connection, Verb.CLAIM, [_change(c) for c in claimed])
    waits = [w for c, r in zip(claimed, rows, strict=True) if (w := _waited(c, r)) is not None]
    return Taken(claimed, waits, busy, parked, queued - parked, set(rest) - queued - busy)


NOTHING: Final = Taken([], [], set(), set(), set(), set())


def claimed_from(row: Any, deadline: float) -> Claimed:
    """A row that begins with the columns of RUN."""
    # By position: by name, a row costs three times as much, for each task that is ever claimed.
    (
        id_,
        fence,
        user,
        queue,
        priority,
        type_,
        title,
        payload,
        attempts,
        limit,
        crashes,
        suspect,
        releases,
        *_,
    ) = row
    return Claimed(
        id_,
        fence,
        user,
        queue,
        _PRIORITIES[priority],
        type_,
        title,
        payload,
        attempts,
        limit,
        crashes,
        bool(suspect),
        releases,
        deadline,
    )


_PRIORITIES: Final = {int(p): p for p in Priority}


def _change(c: Claimed) -> Change:
    p = int(c.priority)
    return Change(c.id, c.user_id, c.queue, p, p, int(Status.QUEUED), int(Status.PROCESSING), c.fence)


def _waited(claimed: Claimed, row: Any) -> float | None:
    if claimed.attempts != 1:
        return None
    return max(float(row[-1]) / 1e6, 0.0)


# ---- ids straight from SQL ----------------------------------------------------------------------------------------

PAGE: Final = 50
PAGES: Final = 4


class Scan:
    """Finds claimable ids without an index: pages over (status, priority, check_at).

    Another queue's rows may lie ahead by the thousand: the position is kept between calls and moves past pages that
    hold nothing for us; a page that is not full starts it over. Priority holds within that window.
    """

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = frozenset(queues)
        self._after: dict[Priority, Position] = {}

    def lock(self, connection: Connection, n: int, *, suspects: int) -> list[bytes]:
        """Up to n ids, locked until the transaction ends; rows that another claimer holds are passed over."""
        found: list[bytes] = []
        searching: list[Priority] = list(Priority)
        for _ in range(PAGES):
            candidates, searching = self._page(connection, searching, max(PAGE, 2 * n), suspects)
            while candidates and len(found) < n:
                part, candidates = candidates[: n - len(found)], candidates[n - len(found) :]
                found += _lock(connection, part)
            if len(found) >= n or not searching:
                break
        return found

    def _page(
        self, connection: Connection, priorities: Sequence[Priority], size: int, suspects: int
    ) -> tuple[list[bytes], list[Priority]]:
        """Candidates of the next pages, the more urgent first, and the priorities that may have more behind."""
        pages: dict[int, list[Any]] = {int(p): [] for p in priorities}
        for row in connection.execute(page_query(Status.QUEUED, size, self._after, priorities=priorities)):
            pages[row.priority].append(row)
        candidates: list[bytes] = []
        searching: list[Priority] = []
        for priority in priorities:
            rows = sorted(pages[priority], key=lambda r: (r.check_at, r.id))
            ours = [r for r in rows if r.queue in self._queues]
            lone = [r.id for r in ours if r.suspect][:suspects]
            found = [r.id for r in ours if not r.suspect] + lone
            suspects -= len(lone)
            candidates += found
            if len(rows) < size:
                self._after.pop(priority, None)
            elif not found:
                self._after[priority] = (rows[-1].check_at, rows[-1].id)
                searching.append(priority)
        return candidates, searching


def _lock(connection: Connection, ids: Sequence[bytes]) -> list[bytes]:
    query = (
        sa.select(_T.id)
        .where(_T.id.in_(_IDS), _T.status + 0 == int(Status.QUEUED))
        .order_by(_T.id)
        .with_for_update(skip_locked=True)
    )
    locked = {r.id for r in connection.execute(query, {"ids": sorted(ids)})}
    return [i for i in ids if i in locked]


def claim_scanned(connection: Connection, scan: Scan, n: int, this: Claim, statement: Statement) -> Taken:
    """Find, lock and claim in one transaction."""
    ids = scan.lock(connection, n, suspects=this.suspects)
    return claim(connection, ids, this, statement) if ids else NOTHING
