"""fold: journal rows become counts, and old folded rows go.

In one transaction the changes of unfolded rows are added to `counts` and the rows are marked: whoever reads counts plus
unfolded rows in one snapshot has the exact numbers, whatever the order of commits. Nobody waits for a hot counter row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.sql.dialect import Shape, db_now, doc, from_now, insert_or_add, unhex
from taskmill.sql.schema import counts, journal
from taskmill.tasks.journal import decode, tally
from taskmill.tasks.mill import Mill

_J: Final = journal.c
_TAKE: Final = (
    sa.select(_J.seq, _J.changes)
    .where(_J.folded == 0, _J.seq > sa.bindparam("after"))
    .order_by(_J.seq)
    .limit(sa.bindparam("n"))
    .with_for_update(skip_locked=True)
)
FIRST: Final = 50
"""Rows that are read first: one may hold a change, or a thousand of them."""
CHANGES: Final = 10_000
"""Changes after which no more rows are taken into one transaction."""
_SEQS: Final[sa.BindParameter[Any]] = sa.bindparam("seqs", expanding=True)
_MARK: Final = sa.update(journal).where(_J.seq.in_(_SEQS)).values(folded=1)
_DELTA: Final = Shape("d", user="hex", queue="text", priority="int", status="int", delta="int")
_D: Final = _DELTA.of()
_ADD: Final = insert_or_add(
    counts,
    ["user_id", "queue", "priority", "status", "n"],
    sa.select(unhex(_D.c.user), _D.c.queue, _D.c.priority, _D.c.status, _D.c.delta),
    "n",
    _D.c.delta,
)


def fold(connection: Connection, n: int, kind: str) -> int:
    """Fold up to n journal rows, fewer when they hold many changes; how many there were, n also when it stopped for that.
    Rows that another fold holds are passed over."""
    sums: Counter[tuple[bytes, str, int, int]] = Counter()
    seqs: list[int] = []
    changes, size = 0, FIRST
    while len(seqs) < n and changes < CHANGES:
        size = min(size, n - len(seqs))
        rows = list(connection.execute(_TAKE, {"n": size, "after": seqs[-1] if seqs else 0}))
        decoded = [decode(row.changes) for row in rows]
        sums.update(tally(change for part in decoded for change in part))
        seqs += [row.seq for row in rows]
        changes += sum(map(len, decoded))
        if len(rows) < size:
            break
        size *= 2
    if not seqs:
        return 0
    # Sorted, so that two folds lock the counts in the same order.
    deltas = [(*key, delta) for key, delta in sorted(sums.items()) if delta]
    if deltas:
        connection.execute(_ADD[kind], {"rows": doc(deltas)})
    connection.execute(_MARK, {"seqs": seqs})
    return n if changes >= CHANGES else len(seqs)


async def fold_journal(mill: Mill, n: int) -> int:
    """Fold one batch. After a lost COMMIT reply the next batch is simply the next: the mark is in the same commit."""

    def work(connection: Connection) -> int:
        return fold(connection, n, mill.db.kind)

    return await mill.db.write(work, resend=work)


_OLDEST: Final = (
    sa.select(_J.seq, _J.folded, (_J.at < from_now(sa.bindparam("age", type_=sa.Double()))).label("old"))
    .where(_J.seq > sa.bindparam("low"))
    .order_by(_J.seq)
    .limit(sa.bindparam("n"))
)
_NEWEST: Final = sa.select(sa.func.max(_J.seq))
_DROP: Final = sa.delete(journal).where(_J.seq.in_(_SEQS), _J.folded + 0 == 1)
_LAG: Final = sa.select(sa.func.count(), sa.func.min(_J.at), db_now()).where(_J.folded == 0)


def oldest(connection: Connection, low: int, age: float, rows: int, n: int) -> list[int]:
    """Folded rows that may go: older than `age` seconds, or more than `rows` behind the newest. It stops at the first
    row that stays, so it never reads the window. `low` is where the last call ended: delete marks under an open
    snapshot make an empty scan slow."""
    surplus = (connection.execute(_NEWEST).scalar() or 0) - rows
    seqs: list[int] = []
    for row in connection.execute(_OLDEST, {"low": low, "age": -age, "n": n}):
        if not row.folded or not (row.old or row.seq <= surplus):
            break
        seqs.append(row.seq)
    return seqs


async def trim_journal(mill: Mill, low: int, *, age: float, rows: int, n: int) -> int | None:
    """Delete one batch of old folded rows; the new `low`, None when there was nothing to delete."""
    seqs: Sequence[int] = await mill.db.read(lambda c: oldest(c, low, age, rows, n))
    if not seqs:
        return None
    await mill.db.write(lambda c: c.execute(_DROP, {"seqs": seqs}), resend=lambda c: None)
    return seqs[-1]


async def journal_lag(mill: Mill) -> tuple[int, float]:
    """Unfolded rows, and the age of the oldest in seconds."""
    count, first, now = await mill.db.read(lambda c: c.execute(_LAG).one())
    return int(count), (now - first).total_seconds() if first is not None else 0.0
