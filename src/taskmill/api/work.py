"""Remote workers at this API process: a place to wait for each that claims here, and their writes in batches.

All that must outlive the process is in SQL: a worker may speak to any API process, to another one for each call. What
is kept here is bounded, and losing it costs a moment: bells, reservations, the progress that waits for its second.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from sqlalchemy.engine import Connection

from taskmill.errors import Conflict, Unavailable
from taskmill.model.clock import boottime
from taskmill.model.task import (
    LOG_LINES_PER_RUN,
    Claimed,
    Ended,
    LogLine,
    Outcome,
    Registry,
    Renewal,
    Renewed,
)
from taskmill.runtime.batcher import Batcher
from taskmill.runtime.loop import wait_for_event
from taskmill.runtime.recent import Recent
from taskmill.tasks import workers
from taskmill.tasks.cancel import read_signal
from taskmill.tasks.claim import Note
from taskmill.tasks.log import LogWriter
from taskmill.tasks.mill import Mill
from taskmill.tasks.remote import Brought, Settled, claimed_before, renew_remote, settle_remote, speakers
from taskmill.tasks.settle import settle_batch
from taskmill.tasks.waiter import Waiter

POSTS: Final = 1000
"""Workers that one API process keeps a place for."""
POSTS_OF_ONE: Final = 200
"""Of these, of one key or user."""
BOOTS: Final = 1000
"""New workers of one key or user within the time that a worker's row holds."""
SWEEP: Final = 5.0
PATIENCE: Final = 8.0
"""Seconds that a settle is tried here; the worker tries again as long as its lease holds."""
PROGRESS_EVERY: Final = 1.0
"""Seconds between two writes of one run's progress."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    """A remote worker, as it describes itself. `id` is made of its boot id and of whose key it uses (`owner`)."""

    id: bytes
    owner: bytes
    name: str
    queues: tuple[str, ...]
    registry: Registry
    host: str = ""
    slots: int = 1
    version: str = ""


@dataclass(slots=True)
class _Post:
    """A worker's place here. `busy`: calls that use it now; `claims`: how many there were."""

    owner: bytes
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiter: Waiter | None = None
    busy: int = 0
    claims: int = 0
    used: float = 0.0


class Desk:
    """A service. Without `run` all works, only idle workers keep their place until others need it."""

    name = "desk"

    def __init__(self, mill: Mill) -> None:
        self._mill = mill
        self._logs = LogWriter(mill)
        self._posts: dict[bytes, _Post] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._settles: Batcher[Sequence[Brought], list[Settled]] = Batcher(
            "settle", self._settle_all, rows=500, lanes=2
        )
        self._seen: Recent[bytes, tuple[float, Who]] = Recent()
        self._boots: Counter[bytes] = Counter()
        self._boots_since = 0.0
        self._progress: Recent[tuple[bytes, int], tuple[float, float | None]] = Recent()
        self._lines: Recent[tuple[bytes, int], int] = Recent()
        self._listening: Counter[bytes] = Counter()
        self._logged: Recent[bytes, int] = Recent(2000)

    async def run(self) -> None:
        """Lets go of places that nobody uses, until `stop`; then of all."""
        while not await wait_for_event(self._stopping, SWEEP):
            idle = boottime() - self._mill.options.worker_ttl
            self._let_go([w for w, p in self._posts.items() if not p.busy and p.used < idle])
        await self.close()

    async def close(self) -> None:
        """Ends every wait, gives back what is reserved, writes what was taken."""
        self.stop()
        self._let_go(list(self._posts))
        while self._ending:
            await asyncio.wait(set(self._ending))
        await self._settles.drain()
        await self._logs.drain()

    def stop(self) -> None:
        """Claims that wait come back empty-handed, and new ones are turned away."""
        self._stopping.set()
        for post in self._posts.values():
            if post.waiter is not None:
                post.waiter.poke()

    # ---- claim ----------------------------------------------------------------------------------------------------

    async def claim(
        self,
        who: Who,
        n: int,
        *,
        suspects: int,
        wait: float,
        op: bytes,
        again: bool,
        connected: Callable[[], Awaitable[bool]],
    ) -> list[Claimed]:
        """Up to n tasks, as soon as there are any; [] after `wait` seconds. The same `op` again brings the same tasks.
        `again`: these only, and nothing new.

        `connected`: whether the caller still is there, and still may claim. One that is gone gets nothing: its tasks
        would wait for a lease.
        A newer claim of the same worker ends one that waits: its caller does not, or would not have sent another.
        """
        post = self._post(who)
        post.busy += 1
        post.claims += 1
        mine = post.claims

        async def wanted() -> bool:
            return post.claims == mine and not self._stopping.is_set() and await connected()

        try:
            if post.waiter is not None:
                post.waiter.poke()
            async with post.lock:
                waiter = await self._waiter(post, who)
                before = await self._before(who, op)
                if before is not None or again:
                    return before or []
                claimed = await waiter.claim(n, suspects=suspects, wait=wait, note=Note(op), wanted=wanted)
            if claimed and not await connected():
                await self._give_back(claimed, who, op)
                return []
            return claimed
        finally:
            post.busy -= 1
            post.used = boottime()

    async def register(self, who: Who) -> None:
        """Write or refresh its row, at most four times within the time that a row holds."""
        known = self._seen.get(who.id)
        now = boottime()
        if known is not None and known[1] == who and now - known[0] < self._mill.options.worker_ttl / 4:
            return
        if known is None:
            self._count_boot(who.owner, now)

        def work(connection: Connection) -> None:
            workers.register(
                connection,
                who.id,
                name=who.name,
                host=who.host,
                queues=who.queues,
                types=workers.names(who.registry),
                slots=who.slots,
                version=who.version,
            )

        await self._mill.db.write(work, resend=work)
        self._seen.put(who.id, (now, who))

    def _count_boot(self, owner: bytes, now: float) -> None:
        """Each new worker is a row until it was not seen for long. Conflict: there are too many."""
        if now - self._boots_since > self._mill.options.worker_ttl:
            self._boots.clear()
            self._boots_since = now
        if self._boots[owner] >= BOOTS:
            raise Conflict(
                f"{BOOTS} workers were started with this key within a minute: keep the UUID of each."
            )
        self._boots[owner] += 1

    async def leave(self, worker: bytes) -> None:
        """It says goodbye: its row and its place go."""
        if worker in self._posts and not self._posts[worker].busy:
            self._let_go([worker])
        self._seen.forget(worker)
        await self._mill.db.write(
            lambda c: workers.leave(c, worker), resend=lambda c: workers.leave(c, worker)
        )

    def _post(self, who: Who) -> _Post:
        if self._stopping.is_set():
            raise Unavailable("This process is stopping. Ask again: another one answers, or this one soon.")
        post = self._posts.get(who.id)
        if post is not None:
            return post
        if sum(p.owner == who.owner for p in self._posts.values()) >= POSTS_OF_ONE:
            self._make_room([w for w, p in self._posts.items() if p.owner == who.owner])
        if len(self._posts) >= POSTS:
            self._make_room(list(self._posts))
        post = self._posts[who.id] = _Post(who.owner, used=boottime())
        return post

    def _make_room(self, among: Sequence[bytes]) -> None:
        """The place that was not used for the longest time goes. Conflict: all of these are in use."""
        idle = [(self._posts[w].used, w) for w in among if not self._posts[w].busy]
        if not idle:
            raise Conflict(
                f"{len(among)} remote workers wait here already: give one worker more slots instead."
            )
        self._let_go([min(idle)[1]])

    async def _waiter(self, post: _Post, who: Who) -> Waiter:
        """Its waiter, a new one when it has other queues or types now; and its row is fresh."""
        await self.register(who)
        known = post.waiter
        if known is not None and (known.queues, known.registry) == (who.queues, who.registry):
            return known
        if known is not None:
            post.waiter = None
            await _end(known)
        waiter = Waiter(self._mill, who.id, who.queues, who.registry)
        await waiter.open()
        post.waiter = waiter
        return waiter

    def _let_go(self, gone: Sequence[bytes]) -> None:
        """These places are no more; their reservations go back in the background."""
        for worker in gone:
            waiter = self._posts.pop(worker).waiter
            if waiter is not None:
                task = asyncio.create_task(_end(waiter), name="desk:end")
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def _before(self, who: Who, op: bytes) -> list[Claimed] | None:
        """What this operation has claimed before; None when it is new."""
        db, lease = self._mill.db, self._mill.options.lease
        if not await db.read(lambda c: workers.noted_claim(c, who.id, op)):
            return None

        def work(connection: Connection) -> list[Claimed] | None:
            return claimed_before(connection, who.id, op, lease)

        return await db.write(work, resend=work)

    async def _give_back(self, claimed: Sequence[Claimed], who: Who, op: bytes) -> None:
        """Unstarted, so no attempt is spent; unless the same claim, sent again, has brought them to the worker meanwhile.
        Unavailable is no harm: their leases run out."""
        released, ids = Outcome(Ended.RELEASED), [c.id for c in claimed]

        def work(connection: Connection) -> bool:
            return workers.take_back(connection, who.id, op, ids)

        try:
            if not await self._mill.db.write(work, resend=work, patience=PATIENCE):
                return
            await settle_batch(self._mill, [(c, released) for c in claimed], who.name, patience=PATIENCE)
        except Unavailable as error:
            log.warning("desk.not_given_back", tasks=len(claimed), error=error.message)

    async def cancels(
        self, worker: bytes, owner: bytes, *, wait: float, connected: Callable[[], Awaitable[bool]]
    ) -> list[tuple[bytes, int]]:
        """Cancel signals, (id, fence) each, as soon as there is one; [] after `wait` seconds."""
        if self._listening[owner] >= POSTS_OF_ONE:
            raise Conflict(f"{POSTS_OF_ONE} workers listen for cancels here already.")
        self._listening[owner] += 1
        until = boottime() + wait
        try:
            async with self._mill.bell.listen(f"worker:{worker.hex()}") as bell:
                while not self._stopping.is_set() and await connected():
                    left = until - boottime()
                    signal = read_signal(await bell.wait(min(max(left, 0.0), 1.0)) or b"")
                    if signal is not None:
                        return [signal]
                    if left <= 0:
                        break
        finally:
            self._listening[owner] -= 1
            if not self._listening[owner]:
                del self._listening[owner]
        return []

    # ---- what a worker writes --------------------------------------------------------------------------------------

    async def renew(self, worker: bytes, leases: Sequence[Renewal]) -> Renewed:
        """Prolong its leases. Progress is written once a second for a run: the newest, with the next renewal."""
        now = boottime()
        known = self._seen.get(worker)
        seen = known is not None and now - known[0] >= self._mill.options.worker_ttl / 4
        renewed = await renew_remote(
            self._mill, worker, [self._coalesced(lease, now) for lease in leases], seen=seen or known is None
        )
        if known is not None and seen:
            self._seen.put(worker, (now, known[1]))
        return renewed

    def _coalesced(self, lease: Renewal, now: float) -> Renewal:
        key = lease.id, lease.fence
        at, waiting = self._progress.get(key) or (-1e9, None)
        value = waiting if lease.progress is None else min(max(lease.progress, 0.0), 1.0)
        if value is None:
            return lease
        if now - at < PROGRESS_EVERY:
            self._progress.put(key, (at, value))
            return replace(lease, progress=None)
        self._progress.put(key, (now, None))
        return replace(lease, progress=value)

    async def settle(self, batch: Sequence[Brought]) -> list[Settled]:
        """Record outcomes, together with those of other calls; an answer for each, when it is committed."""
        size = sum(len(b.outcome.result or "") + len(b.outcome.traceback or "") for b in batch)
        return await self._settles.put(batch, rows=len(batch), bytes=size)

    async def _settle_all(self, calls: Sequence[Sequence[Brought]]) -> Sequence[list[Settled] | Exception]:
        try:
            answers = iter(
                await settle_remote(self._mill, [b for call in calls for b in call], patience=PATIENCE)
            )
        except Unavailable:
            raise
        except Exception:
            if len(calls) == 1:
                raise
            # What one worker sends must not stop the outcomes of others.
            return [await self._settle_alone(call) for call in calls]
        return [[next(answers) for _ in call] for call in calls]

    async def _settle_alone(self, call: Sequence[Brought]) -> list[Settled] | Exception:
        try:
            return await settle_remote(self._mill, call, patience=PATIENCE)
        except Exception as error:  # noqa: BLE001 (it is the answer to this call)
            return error

    async def log(self, worker: bytes, lines: Sequence[LogLine], op: bytes) -> int:
        """Take lines of runs that are this worker's; how many. Beyond LOG_LINES_PER_RUN of a run they are dropped. The
        same `op` again at this process writes nothing."""
        before = self._logged.get(op)
        if before is not None:
            return before
        mine = await self._mill.db.read(lambda c: speakers(c, worker, [line.task_id for line in lines]))
        taken = []
        for line in lines:
            key = line.task_id, line.fence
            count = self._lines.get(key) or 0
            if key in mine and count < LOG_LINES_PER_RUN:
                self._lines.put(key, count + 1)
                taken.append(line)
        await self._logs.write(taken)
        self._logged.put(op, len(taken))
        return len(taken)


async def _end(waiter: Waiter) -> None:
    await waiter.halt()
    await waiter.close()
