"""Following the journal: what changed since the last look, in order, nothing missed and nothing twice.

Sequence numbers are taken before the commit, so they become visible out of order: a number that is missing is looked
for again until `window` seconds have passed; then its transaction was rolled back. Our transactions are shorter than
that. When rows that were never seen have been deleted (this process slept, or SQL was away, longer than the journal is
kept), the follower is told to look at everything again: RESYNC.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.clock import boottime
from taskmill.sql.engine import Database
from taskmill.sql.schema import journal
from taskmill.tasks.journal import Change, decode

WINDOW: Final = 10.0
"""Seconds after which a missing number is taken for a rollback: twice what a unit of work may take, so that a COMMIT held
up by a slow disk is not one. What waits is bounded by GAPS."""
ROWS: Final = 200
"""Journal rows of one read; each has up to 1,000 changes."""
RECENT: Final = 1000
"""How far back the start looks for numbers that are still on their way."""
BEFORE_FIRST: Final = 200
GAPS: Final = 1000
"""Missing numbers that are waited for; more of them at once is a RESYNC."""

_c: Final = journal.c
_last: Final = sa.select(sa.func.max(_c.seq))
_recent: Final = sa.select(_c.seq).where(_c.seq > sa.bindparam("low")).order_by(_c.seq)
_new: Final = (
    sa.select(_c.seq, _c.changes)
    .where(_c.seq > sa.bindparam("low"))
    .order_by(_c.seq)
    .limit(sa.bindparam("rows", type_=sa.Integer()))
)
_late: Final = (
    sa.select(_c.seq, _c.changes).where(_c.seq.in_(sa.bindparam("gaps", expanding=True))).order_by(_c.seq)
)
_oldest: Final = sa.select(sa.func.min(_c.seq))


@dataclass(frozen=True, slots=True)
class News:
    """What one look at the journal brought. `resync`: something was missed. `more`: look again at once."""

    changes: Sequence[Change] = ()
    resync: bool = False
    more: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    new: list[tuple[int, bytes]]
    late: list[tuple[int, bytes]]
    oldest: int | None


class Tail:
    """A place in the journal. `start` puts it at the end; each `read` goes on from there. Neither is for two at once.

    A read that raised has not moved it.
    """

    def __init__(self, db: Database, *, window: float = WINDOW) -> None:
        self._db = db
        self._window = window
        self._low: int | None = 0
        """The last number seen; None where the journal was empty: the next one may be any."""
        self._gaps: dict[int, float] = {}

    async def start(self) -> None:
        """From now on: also what was under way already and becomes visible later."""
        self._low, recent = await self._db.read(_end)
        self._gaps = dict.fromkeys(_missing(recent), boottime())

    async def read(self) -> News:
        """What became visible since the last read. Unavailable when SQL does not answer."""
        now = boottime()
        low, gaps = self._low or 0, list(self._gaps)
        found = await self._db.read(lambda connection: _look(connection, low, gaps))
        if self._low is None:
            if not found.new:
                return News()
            # Numbers just before the first may still be on their way.
            low = max(found.new[0][0] - 1 - BEFORE_FIRST, 0)
        elif found.oldest is not None and found.oldest > low + 1:
            await self.start()
            return News(resync=True)
        fresh = _missing([low, *(seq for seq, _ in found.new)])
        late = {seq for seq, _ in found.late}
        self._gaps = {
            seq: since for seq, since in self._gaps.items() if seq not in late and now - since < self._window
        }
        if len(self._gaps) + len(fresh) > GAPS:
            await self.start()
            return News(resync=True)
        self._gaps.update(dict.fromkeys(fresh, now))
        if found.new:
            self._low = found.new[-1][0]
        changes = [change for _, blob in (*found.late, *found.new) for change in decode(blob)]
        return News(changes, more=len(found.new) == ROWS)


def _end(connection: Connection) -> tuple[int | None, list[int]]:
    last = connection.execute(_last).scalar()
    if last is None:
        return None, []
    return last, list(connection.execute(_recent, {"low": last - RECENT}).scalars())


def _look(connection: Connection, low: int, gaps: Sequence[int]) -> _Found:
    new = [(row[0], row[1]) for row in connection.execute(_new, {"low": low, "rows": ROWS})]
    late = [(row[0], row[1]) for row in connection.execute(_late, {"gaps": list(gaps)})] if gaps else []
    # After the rows: what is deleted in between must not go unnoticed. Only a hole at the start can be a deletion.
    holed = bool(new) and new[0][0] != low + 1
    return _Found(new, late, connection.execute(_oldest).scalar() if holed else None)


def _missing(sequence: Iterable[int]) -> list[int]:
    """The numbers that an ascending sequence leaves out, the GAPS + 1 first ones."""
    missing: list[int] = []
    before: int | None = None
    for number in sequence:
        if before is not None:
            missing.extend(range(before + 1, min(number, before + 2 + GAPS - len(missing))))
        before = number
    return missing
