"""The claimer: a worker's way to work, over the index or straight from SQL.

It holds what it owes to the index (confirms, drops, give-backs) and pays with the next call, or after a moment when
there is none: a busy worker needs one round trip a claim.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from taskmill.errors import IndexUnavailable, Unavailable
from taskmill.index.index import Index, Next, Reserved
from taskmill.model.clock import boottime
from taskmill.model.ids import new_op
from taskmill.model.state import Verb
from taskmill.model.task import Claimed, Registry
from taskmill.runtime.loop import wait_for_event
from taskmill.tasks.claim import (
    DEADLINE,
    NOTHING,
    Claim,
    Note,
    Scan,
    Statement,
    Taken,
    claim,
    claim_again,
    claim_scanned,
)
from taskmill.tasks.mill import Mill

log = structlog.get_logger(__name__)

BATCH: Final = 500
PARKED: Final = 1000
PAYDAY: Final = 1.0
"""Seconds after which debts are paid when no claim did. With the claim's deadline it ends before a reservation does."""

_ONE: Final = sa.select(sa.literal(1))


@dataclass(slots=True)
class _Debts:
    """What the index of one queue must still be told."""

    confirm: list[Reserved] = field(default_factory=list)
    drop: list[Reserved] = field(default_factory=list)
    give_back: list[Reserved] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.confirm or self.drop or self.give_back)


class Claimer:
    """Claims for one worker. Not for concurrent use: one call at a time."""

    def __init__(self, mill: Mill, worker: bytes, queues: Sequence[str], registry: Registry) -> None:
        self._mill = mill
        self._worker = worker
        self._queues = list(queues)
        self._statement = Statement(registry, mill.options.policy.max_retries)
        self._scan = Scan(queues)
        self._debts: defaultdict[str, _Debts] = defaultdict(_Debts)
        self._parked: list[tuple[float, str, Reserved]] = []
        self._turn = 0
        self._idle = False
        self._cut_off = False
        """SQL did not answer the last claim."""
        self.fruitless = False
        """The last claim was offered tasks and could take none of them (cancelled since, suspects without room): others
        may stand behind these, so ask again at once."""
        self._closing = asyncio.Event()
        self._payday: asyncio.Task[None] | None = None

    async def claim(
        self, n: int, *, suspects: int, wait: bool = False, note: Note | None = None
    ) -> list[Claimed]:
        """Claim up to n tasks, at most `suspects` of them suspects. One transaction; [] when there is nothing.

        `wait`: when the index has nothing for us, our name is put on its list of those to wake. `note`: what the claim
        brings is noted in the worker's row.
        Unavailable when SQL does not answer: what was reserved is given back at once, and nothing more is reserved until
        it answers again: a worker that is cut off from the record would only keep tasks from the others.
        """
        if self._cut_off:
            await self._mill.db.read(lambda c: c.execute(_ONE).scalar_one())
            self._cut_off = False
        try:
            return await self._claim(min(n, BATCH), suspects, wait, note)
        except Exception:
            self._cut_off = True
            await self.settle_up()
            raise

    async def _claim(self, n: int, suspects: int, wait: bool, note: Note | None) -> list[Claimed]:
        sent = boottime()
        reserved, blind = await self._reserve(n, suspects, wait)
        this = Claim(self._worker, self._mill.options.lease, sent, suspects, note=note)
        taken = await self._take(reserved, this) if reserved else NOTHING
        claimed = list(taken.claimed)
        if blind and len(claimed) < n:
            rest = replace(
                this,
                sent=boottime(),
                suspects=suspects - _suspects(claimed),
                op=new_op(),
                note=note and note.after(c.id for c in claimed),
            )
            try:
                claimed += (await self._take_from_sql(n - len(claimed), rest)).claimed
            except Unavailable:
                if not claimed:  # what there is must run, or its leases run out
                    raise
        self.fruitless = bool(reserved) and not claimed
        if len(claimed) >= n:
            # Perhaps no slot is left, and no next call is near: a reservation must not outlive its time unconfirmed.
            self._pay_later()
        return claimed

    def _pay_later(self) -> None:
        if self._payday is None:
            self._payday = asyncio.create_task(self._pay(), name="claim:pay")

    async def _pay(self) -> None:
        try:
            await wait_for_event(self._closing, PAYDAY)
            await self.settle_up()
        finally:
            self._payday = None

    async def settle_up(self) -> None:
        """Tell the index what is owed. Its failure costs nothing: reservations expire, and claims find them taken."""
        for queue in [q for q, d in self._debts.items() if d]:
            # A claim may have paid this queue while we told another.
            debts = self._debts.pop(queue, None)
            if debts:
                await self._next(queue, 0, debts=debts)

    async def close(self) -> None:
        """Give back every reservation that is not a claim."""
        for _, queue, reserved in self._parked:
            self._debts[queue].give_back.append(reserved)
        self._parked.clear()
        self._closing.set()
        if self._payday is not None:
            await asyncio.wait((self._payday,))
        await self.settle_up()

    # ---- the index proposes ---------------------------------------------------------------------------------------

    async def _reserve(self, n: int, suspects: int, wait: bool) -> tuple[list[tuple[str, Reserved]], bool]:
        """Reservations, and whether SQL must be asked too: no index, or it is being filled."""
        index = self._mill.index
        if index is None:
            return [], True
        reserved = self._unpark(suspects) if suspects else []
        self._turn += 1
        start = self._turn % len(self._queues)
        order = [*self._queues[start:], *self._queues[:start]]
        if self._idle and len(order) > 1 and not reserved:
            return await self._look(index, order, n, wait)
        blind = False
        for queue in order:
            room = n - len(reserved)
            if room <= 0:
                break
            answer = await self._next(
                queue, room, wait=wait and not reserved, debts=self._debts.pop(queue, None)
            )
            blind |= _is_blind(answer)
            reserved += [(queue, r) for r in (answer.reserved if answer is not None else ())]
        self._idle = not reserved
        return reserved, blind

    async def _look(
        self, index: Index, order: Sequence[str], n: int, wait: bool
    ) -> tuple[list[tuple[str, Reserved]], bool]:
        """An idle worker's turn: one round trip for all queues. The first may give; the others tell if there is work."""
        await self.settle_up()
        wants = {queue: n if queue == order[0] else 0 for queue in order}
        try:
            answers = await index.next_many(wants, worker=self._worker, wait=wait)
        except IndexUnavailable:
            self._mill.probes.index_errors.inc()
            return [], True
        blind = any(_is_blind(answer) for answer in answers.values())
        reserved = [(order[0], r) for r in answers[order[0]].reserved]
        for queue in order[1:]:
            if answers[queue].more and len(reserved) < n:
                answer = await self._next(queue, n - len(reserved))
                reserved += [(queue, r) for r in (answer.reserved if answer is not None else ())]
        self._idle = not reserved
        return reserved, blind

    async def _next(
        self, queue: str, n: int, *, wait: bool = False, debts: _Debts | None = None
    ) -> Next | None:
        index = self._mill.index
        if index is None:
            return None
        debts = debts or _Debts()
        try:
            return await index.next(
                queue,
                n=n,
                worker=self._worker,
                wait=wait,
                confirm=debts.confirm,
                drop=debts.drop,
                give_back=debts.give_back,
            )
        except IndexUnavailable as error:
            self._mill.probes.index_errors.inc()
            log.debug("claim.no_index", queue=queue, error=error.message)
            return None

    def _unpark(self, most: int) -> list[tuple[str, Reserved]]:
        """Suspects that waited for room, and whose reservation is young enough for a claim."""
        young = [p for p in self._parked if p[0] > boottime()]
        chosen, self._parked = young[:most], young[most:]
        return [(queue, reserved) for _, queue, reserved in chosen]

    # ---- SQL decides ----------------------------------------------------------------------------------------------

    async def _take(self, reserved: Sequence[tuple[str, Reserved]], this: Claim) -> Taken:
        ids = [r.id for _, r in reserved]
        patience = max(this.sent + DEADLINE - boottime(), 0.0)
        try:
            with self._mill.probes.verb_seconds.labels(verb=Verb.CLAIM.value).time():
                taken = await self._mill.db.write(
                    lambda c: claim(c, ids, this, self._statement),
                    resend=self._resend(ids, this),
                    patience=patience,
                )
        except Exception:
            for queue, r in reserved:
                self._debts[queue].give_back.append(r)
            raise
        self._count(taken)
        mine = {c.id for c in taken.claimed}
        for queue, r in reserved:
            debts = self._debts[queue]
            if r.id in mine or r.id in taken.busy:
                debts.confirm.append(r)
            elif r.id in taken.moved:
                debts.give_back.append(r)
            elif r.id in taken.parked:
                # Not given back: it would be the first to come again. Unclaimed, its reservation runs out by itself.
                if len(self._parked) < PARKED:
                    self._parked.append((this.sent + DEADLINE, queue, r))
            else:
                debts.drop.append(r)
        return taken

    async def _take_from_sql(self, n: int, this: Claim) -> Taken:
        got: list[bytes] = []

        def first(connection: Connection) -> Taken:
            taken = claim_scanned(connection, self._scan, n, this, self._statement)
            got[:] = [c.id for c in taken.claimed]
            return taken

        with self._mill.probes.verb_seconds.labels(verb=Verb.CLAIM.value).time():
            taken = await self._mill.db.write(
                first,
                resend=self._resend(got, this),
                patience=DEADLINE,
            )
        self._count(taken)
        return taken

    def _resend(self, ids: Sequence[bytes], this: Claim) -> Callable[[Connection], Taken]:
        """What to do when a COMMIT's reply was lost, and when that of the resend is lost too: what the last try may
        have written is looked for under the operation of that try."""
        latest = this

        def again(connection: Connection) -> Taken:
            nonlocal latest
            if not ids:
                return NOTHING
            taken, latest = claim_again(connection, ids, latest, self._statement)
            return taken

        return again

    def _count(self, taken: Taken) -> None:
        for waited in taken.waits:
            self._mill.probes.task_wait_seconds.observe(waited)
        if taken.claimed:
            self._mill.probes.verb_rows.labels(verb=Verb.CLAIM.value).inc(len(taken.claimed))
            self._mill.hint("journal")


def _is_blind(answer: Next | None) -> bool:
    """Whether SQL must be asked too: no index, no generation, or one that is being filled."""
    return answer is None or answer.generation is None or answer.filling


def _suspects(claimed: Sequence[Claimed]) -> int:
    return sum(c.suspect for c in claimed)
