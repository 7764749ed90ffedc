"""verify: the index must offer every QUEUED row. It writes to the index only.

A cursor walks QUEUED rows in (priority, check_at, id) order and pushes each page: what is there is untouched, what is
missing is added. The same walk from 0 refills an index that was lost. The cursor belongs to this process, to the
generations of the queues and to the server's run id: any change sets it to 0, since a failover keeps the generation and
loses entries. It moves only past pages that the index took.

Rows become visible out of order, so there are two cursors: one a short grace behind now, one behind the longest
transaction that is allowed. Once in a while both start from 0 anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
import structlog

from taskmill.index.index import Entry, Index
from taskmill.model.clock import boottime, micros
from taskmill.model.ids import new_op
from taskmill.model.state import Priority, Status
from taskmill.sql.dialect import from_now
from taskmill.sql.schema import tasks
from taskmill.tasks.mill import Mill
from taskmill.tasks.scan import Position, page_query
from taskmill.tasks.workers import queues_of_workers
from taskmill.upkeep.options import UpkeepOptions

log = structlog.get_logger(__name__)

PAGE: Final = 500
"""Rows of each priority."""
PAGES: Final = 20
"""Pages of one turn: a refill of many thousands does not hold up the loop."""
QUEUES: Final = 10_000
LISTED: Final = 5.0
"""Seconds until the queues of live workers are read again."""

_T: Final = tasks.c


@dataclass(slots=True)
class _Cursor:
    """How far one walk has come, in each priority."""

    grace: float
    at: dict[Priority, Position] = field(default_factory=dict)
    ended: bool = False
    """It has reached the end at least once since it was at 0."""

    def restart(self) -> None:
        self.at.clear()
        self.ended = False


class Verifier:
    """One per scheduler. `run_once` is a turn; IndexUnavailable and Unavailable end it, and the next goes on."""

    def __init__(self, mill: Mill, index: Index, options: UpkeepOptions) -> None:
        self._mill = mill
        self._index = index
        self._options = options
        self._fast = _Cursor(options.verify_grace)
        self._late = _Cursor(options.verify_late)
        self._generations: dict[str, bytes] = {}
        self._run_ids: dict[str, str] = {}
        self._filling: set[str] = set()
        self._served: frozenset[str] = frozenset()
        """The queues of live workers."""
        self._met: set[str] = set()
        """Queues of which a row was seen since the last full walk began."""
        self._listed_until = 0.0
        self._full_at = boottime() + options.verify_full

    @property
    def queues(self) -> list[str]:
        """The queues that it looks after."""
        return sorted(self._generations)

    async def run_once(self) -> float:
        """Check whose index this is, walk on, end a refill. Seconds until the next turn."""
        await self._recognise()
        walked = await self._walk(self._fast, 0.0 if self._filling else self._fast.grace)
        if self._filling and self._fast.ended:
            await self._warm()
        if not self._filling:
            walked |= await self._walk(self._late, self._late.grace)
        if boottime() >= self._full_at:
            self._forget()
            self._restart()
            self._full_at = boottime() + self._options.verify_full
        return 0.0 if walked else self._options.verify

    async def _recognise(self) -> None:
        """The generations in force and the server's run id; a change sets the cursors to 0."""
        if boottime() >= self._listed_until:
            self._served = await self._mill.db.read(
                lambda c: queues_of_workers(c, self._mill.options.worker_ttl)
            )
            self._listed_until = boottime() + LISTED
        queues = self._served | self._generations.keys()
        # Each server of a cluster has its own id; elsewhere one answer holds for all queues.
        servers = sorted(queues)[:QUEUES] if self._index.clustered else [""]
        run_ids = {queue: await self._index.run_id(queue) for queue in servers}
        changed = any(self._run_ids.get(queue) != run_id for queue, run_id in run_ids.items())
        for queue in sorted(queues)[:QUEUES]:
            changed |= await self._settle_on(queue)
        if changed:
            self._restart()
        self._run_ids = run_ids

    async def _settle_on(self, queue: str) -> bool:
        """Give the queue a generation if it has none; whether it has another one than we knew."""
        ours = new_op()
        generation = await self._index.reset(queue, ours)
        if self._generations.get(queue) == generation:
            return False
        self._generations[queue] = generation
        # Another scheduler's fill may have died half-way: whoever meets a new generation fills it, warm ends it once.
        self._filling.add(queue)
        if generation == ours:
            self._mill.probes.index_refills.inc()
        log.info("verify.fill" if generation == ours else "verify.walk", queue=queue)
        return True

    def _forget(self) -> None:
        """Drop queues that no worker serves and of which the whole last walk has met no row: users choose their names,
        and each costs a call a turn. Whoever meets such a queue again settles on its generation first."""
        if self._fast.ended and not self._filling:
            for queue in self._generations.keys() - self._met - self._served:
                del self._generations[queue]
            self._met.clear()

    def _restart(self) -> None:
        self._fast.restart()
        self._late.restart()

    async def _walk(self, cursor: _Cursor, grace: float) -> bool:
        """Up to PAGES pages; whether it stopped for their number, or for a change (there is more to walk)."""
        left = list(Priority)
        for _ in range(PAGES):
            rows = await self._page(left, cursor, grace)
            if rows and not await self._offer(rows):
                return True
            for priority in list(left):
                found = [r for r in rows if r.priority == priority]
                if found:
                    cursor.at[priority] = max((r.check_at, r.id) for r in found)
                if len(found) < PAGE:
                    left.remove(priority)
            if not left:
                cursor.ended = True
                return False
        return True

    async def _page(self, priorities: Sequence[Priority], cursor: _Cursor, grace: float) -> Sequence[Any]:
        """QUEUED rows behind the cursor that are older than the grace."""
        query = page_query(Status.QUEUED, PAGE, cursor.at, priorities=priorities, until=from_now(-grace))
        return await self._mill.db.read(lambda c: c.execute(query).all())

    async def _offer(self, rows: Sequence[Any]) -> bool:
        """Push a page; False when the index under it has changed: the cursors are at 0 then."""
        for queue, entries in _by_queue(rows).items():
            self._met.add(queue)
            if queue not in self._generations:
                # First met: none of its rows lies behind the cursors, so the walk goes on. Users choose the names of
                # queues: a restart for each would walk all rows again. Its fill ends when this walk does.
                await self._settle_on(queue)
                self._fast.ended = False
            pushed = await self._index.push(queue, entries, self._generations[queue])
            if pushed.generation != self._generations[queue]:
                # Nothing of it is filled any more; who meets the queue again settles on its generation first.
                self._generations.pop(queue, None)
                self._filling.discard(queue)
                self._restart()
                return False
            if pushed.added and queue not in self._filling:
                self._mill.probes.index_repairs.inc(pushed.added)
                log.info("verify.repair", queue=queue, added=pushed.added)
        return True

    async def _warm(self) -> None:
        """Everything that was in SQL is in the index: workers need not ask SQL too."""
        for queue in sorted(self._filling):
            await self._index.warm(queue, self._generations[queue])
            log.info("verify.refilled", queue=queue)
        self._filling.clear()


def _by_queue(rows: Sequence[Any]) -> Mapping[str, list[Entry]]:
    queues: dict[str, list[Entry]] = {}
    for r in rows:
        entry = Entry(id=r.id, fair=r.user_id, band=r.priority, at=micros(r.check_at))
        queues.setdefault(r.queue, []).append(entry)
    return queues


# ---- dead entries -------------------------------------------------------------------------------------------------

FAIR_KEYS: Final = 200
TAKEN: Final = 200
TAKES: Final = 10
_STATUS: Final = sa.select(_T.id).where(
    _T.id.in_(sa.bindparam("ids", expanding=True)), _T.status + 0 == int(Status.QUEUED)
)


async def drop_dead(mill: Mill, index: Index, queue: str) -> int:
    """Drop entries of one queue whose row is not QUEUED (cancelled, deleted): how many.

    It is a worker too: it takes, asks SQL, and drops or gives back. Bounded: the first pages of the first fair keys.
    What it does not reach, a claim drops when it comes up. A crash in between leaves reservations that run out.
    """
    dropped = 0
    for fair in (await index.fair_keys(queue, most=FAIR_KEYS))[:FAIR_KEYS]:
        place = 0
        for _ in range(TAKES):
            taken = (await index.take(queue, n=TAKEN, fair=fair, place=place)).reserved
            alive = await _queued(mill, [r.id for r in taken]) if taken else frozenset()
            dead = [r for r in taken if r.id not in alive]
            if taken:
                await index.next(queue, n=0, drop=dead, give_back=[r for r in taken if r.id in alive])
            dropped += len(dead)
            place += len(taken) - len(dead)
            if len(taken) < TAKEN:
                break
    return dropped


async def _queued(mill: Mill, ids: Sequence[bytes]) -> frozenset[bytes]:
    return frozenset(await mill.db.read(lambda c: c.execute(_STATUS, {"ids": ids}).scalars().all()))
