"""Live updates: one tail of the journal for all the subscribers of a process, and only while there are any.

The tail says which tasks changed; their rows are read again once, and each subscriber gets those it may see. What it
gets is the last state of each task, in order per task: states that follow each other faster than it reads become one.
A subscriber that lets more than `buffer` tasks wait is dropped, so nothing grows.

Subscribing to one task brings its present state first, so nothing falls between a query and the subscription. After a
RESYNC (tail.py) a subscriber of one task gets its state again, a subscriber of all gets all its tasks again when they
are at most `buffer`, and is dropped otherwise: it reconnects and reads what it needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from typing import Final, Self

import structlog

from taskmill.errors import NotFound, Unavailable
from taskmill.index.wake import Bell, Subscription
from taskmill.model.backoff import OUTAGES, loop_delay
from taskmill.runtime.probes import Probes
from taskmill.sql.engine import Database
from taskmill.tasks import read
from taskmill.tasks.journal import Change
from taskmill.tasks.read import Filters, TaskView
from taskmill.tasks.tail import Tail

POLL: Final = 1.0
"""Seconds between two looks at the journal when no bell rings."""
BREATH: Final = 0.02
"""Seconds between two looks while changes come in: under load they gather into one re-read."""
READ_AT_ONCE: Final = 500
LIVE_TIMEOUT: Final = 5.0
DUE_MOST: Final = 50_000
"""Changed tasks that wait to be read again; more of them are a RESYNC."""

log = structlog.get_logger(__name__)


class Dropped(Unavailable):
    """This subscriber was too slow, or missed too much to be brought up to date."""


class Ended(Unavailable):
    """The process stops."""


class Updates:
    """What one subscriber has to come: an async iterator of TaskView. Raises Dropped or Ended when it is over."""

    def __init__(self, owner: bytes | None, only: bytes | None, buffer: int) -> None:
        self.owner = owner
        self.only = only
        self._buffer = buffer
        self._waiting: dict[bytes, TaskView] = {}
        self._some = asyncio.Event()
        self._over: Unavailable | None = None
        self.begun = False
        """From here on it misses nothing."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskView:
        while not self._waiting:
            if self._over is not None:
                raise self._over
            self._some.clear()
            await self._some.wait()
        task_id = next(iter(self._waiting))
        return self._waiting.pop(task_id)

    def sees(self, row: TaskView) -> bool:
        return self.owner in (None, row.user_id) and self.only in (None, row.id)

    def put(self, row: TaskView) -> None:
        """The newest state of a task, instead of the one that still waits."""
        if self._over is not None:
            return
        if row.id not in self._waiting and len(self._waiting) >= self._buffer:
            self.end(Dropped(f"More than {self._buffer} changed tasks were waiting for this client to read."))
            return
        self._waiting[row.id] = row
        self._some.set()

    def begin(self, row: TaskView) -> None:
        """The state at the start, unless a newer one came already."""
        if not self._waiting:
            self.put(row)

    def end(self, reason: Unavailable) -> None:
        """What waits is forgotten: the subscriber learns at once that it is over."""
        self._over = reason
        self._waiting.clear()
        self._some.set()


class Feed:
    """A service: `run` until `stop`."""

    name = "feed"

    def __init__(self, db: Database, bell: Bell, probes: Probes, *, buffer: int = 1000) -> None:
        self._db = db
        self._bell = bell
        self._failures = probes.loop_failures.labels(loop=self.name)
        self._probes = probes
        self._buffer = buffer
        self._clients: set[Updates] = set()
        self._some = asyncio.Event()
        self._live = asyncio.Event()
        self._stopped = False
        self._rng = Random()
        self._ring: Subscription | None = None
        self._due: dict[bytes, None] = {}
        self._resync_due = False

    @asynccontextmanager
    async def subscribe(self, owner: bytes | None, only: bytes | None = None) -> AsyncIterator[Updates]:
        """From now on, what changes of the tasks of `owner` (None: of all), or of one task.

        NotFound: `only` names no task that the owner may see. Unavailable: the feed cannot start now.
        """
        if self._stopped:
            raise Ended("The server is stopping. Connect again in a moment.")
        client = Updates(owner, only, self._buffer)
        self._clients.add(client)
        self._probes.feed_clients.set(len(self._clients))
        self._some.set()
        try:
            await self._until_live()
            if only is not None:
                row = await self._db.read(lambda c: read.task(c, only, owner))
                if row is None:
                    raise NotFound("There is no such task.")
                client.begin(row)
            client.begun = True
            yield client
        finally:
            self._clients.discard(client)
            self._probes.feed_clients.set(len(self._clients))

    @property
    def following(self) -> int:
        """Subscriptions that have begun."""
        return sum(client.begun for client in self._clients)

    async def _until_live(self) -> None:
        try:
            async with asyncio.timeout(LIVE_TIMEOUT):
                await self._live.wait()
        except TimeoutError:
            raise Unavailable("Live updates are not available now. Try again.") from None

    async def run(self) -> None:
        while not self._stopped:
            self._some.clear()
            if self._clients:
                await self._follow()
            else:
                await self._some.wait()

    def stop(self) -> None:
        """Ends every subscription."""
        self._stopped = True
        for client in list(self._clients):
            client.end(Ended("The server is stopping. Connect again in a moment."))
        self._some.set()
        if self._ring is not None:
            self._ring.put(b"")

    async def _follow(self) -> None:
        """While there is anyone to tell."""
        tail, failures, started = Tail(self._db), 0, False
        async with self._bell.listen("journal") as ring:
            self._ring = ring
            while self._clients and not self._stopped:
                try:
                    if not started:
                        await tail.start()
                        started = True
                        self._live.set()
                    wait = await self._turn(tail)
                    failures = 0
                except Unavailable as error:
                    failures += 1
                    self._failures.inc()
                    if failures == 1:
                        log.warning("feed.unavailable", error=error.message)
                    await asyncio.sleep(loop_delay(failures, self._rng, OUTAGES))
                    continue
                if wait:
                    await ring.wait(wait)
                else:
                    await asyncio.sleep(BREATH)
        self._ring = None
        self._live.clear()
        self._due.clear()
        self._resync_due = False

    async def _turn(self, tail: Tail) -> float:
        """One look; seconds until the next, unless a bell rings.

        What it read stays due until it was sent: SQL may go away between the two.
        """
        news = await tail.read()
        self._due.update(dict.fromkeys(self._wanted(news.changes)))
        if news.resync or len(self._due) > DUE_MOST:
            log.warning("feed.resync", clients=len(self._clients))
            self._due.clear()
            self._resync_due = True
        if self._resync_due:
            await self._resync()
            self._resync_due = False
        await self._publish()
        return 0.0 if news.changes or news.more else POLL

    async def _publish(self) -> None:
        while self._due:
            part = list(islice(self._due, READ_AT_ONCE))
            await self._reread(part)
            for task_id in part:
                del self._due[task_id]

    async def _reread(self, ids: Sequence[bytes]) -> None:
        rows = await self._db.read(lambda connection: read.tasks(connection, ids))
        self._send(rows[task_id] for task_id in ids if task_id in rows)

    def _wanted(self, changes: Sequence[Change]) -> list[bytes]:
        """The changed tasks that someone may see, each once. A deleted one has no state to send."""
        everyone = any(c.owner is None and c.only is None for c in self._clients)
        owners = {c.owner for c in self._clients if c.only is None}
        tasks = {c.only for c in self._clients}
        return list(
            dict.fromkeys(
                change.task
                for change in changes
                if change.target is not None and (everyone or change.user in owners or change.task in tasks)
            )
        )

    def _send(self, rows: Iterable[TaskView]) -> None:
        clients = list(self._clients)
        for row in rows:
            for client in clients:
                if client.sees(row):
                    client.put(row)

    async def _resync(self) -> None:
        clients = list(self._clients)
        ids = [client.only for client in clients if client.only is not None]
        for start in range(0, len(ids), READ_AT_ONCE):
            await self._reread(ids[start : start + READ_AT_ONCE])
        for owner in {client.owner for client in clients if client.only is None}:
            await self._resync_owner(owner, [c for c in clients if c.only is None and c.owner == owner])

    async def _resync_owner(self, owner: bytes | None, clients: Sequence[Updates]) -> None:
        most = self._buffer + 1
        rows = await self._db.read(lambda connection: read.page(connection, Filters(owner=owner), limit=most))
        for client in clients:
            if len(rows) == most:
                client.end(Dropped("Too much was missed to catch up. Connect again and read the tasks anew."))
                continue
            for row in reversed(rows):
                client.put(row)
