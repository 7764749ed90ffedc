"""Where a worker's tasks come from here: SQL and the index. It satisfies the port in worker/source.py.

It registers the worker, keeps its row fresh, and hides from the supervisor whether an index is there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy import exc

from taskmill.errors import BadUserInput, Unavailable
from taskmill.model.backoff import OUTAGES, loop_delay
from taskmill.model.clock import boottime
from taskmill.model.ids import new_id
from taskmill.model.task import Claimed, LogLine, NewTask, Outcome, Registry, Renewal, Renewed
from taskmill.tasks import workers
from taskmill.tasks.log import LogWriter
from taskmill.tasks.mill import Mill
from taskmill.tasks.renew import renew_leases
from taskmill.tasks.settle import Kept, settle_batch
from taskmill.tasks.submit import Submitter
from taskmill.tasks.waiter import Waiter

log = structlog.get_logger(__name__)

KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Who claims, and from where."""

    queues: tuple[str, ...] = ("default",)
    slots: int = 5
    name: str = ""
    version: str = ""


class LocalSource:
    """One worker's source. Every boot has an id of its own: a restarted worker shares nothing with its past."""

    def __init__(self, mill: Mill, submitter: Submitter, options: SourceOptions) -> None:
        self.boot_id = new_id()
        self._mill = mill
        self._submitter = submitter
        self._options = options
        self._logs = LogWriter(mill)
        self._waiter: Waiter | None = None
        self._registry = Registry()
        self._beating: asyncio.Task[None] | None = None
        self._kept: Kept = {}

    async def start(self, registry: Registry) -> None:
        """Write the worker's row and open its bells. Unavailable when SQL does not answer."""
        self._registry = registry
        self._waiter = Waiter(self._mill, self.boot_id, self._options.queues, registry)
        await self._seen()
        partial = await self._mill.db.read(lambda c: workers.partial_types(c, self._mill.options.worker_ttl))
        for queue in sorted(partial.keys() & set(self._options.queues)):
            # It works: who does not know a type gives its task back. But each such task goes the long way.
            log.warning(
                "workers of a queue differ in the types they know", queue=queue, types=sorted(partial[queue])
            )
        await self._waiter.open()
        self._beating = asyncio.create_task(self._beat(), name="worker:beat")

    async def claim(self, n: int, *, suspects: int, wait: float) -> list[Claimed]:
        """See `Waiter.claim`."""
        return await self._started().claim(n, suspects=suspects, wait=wait)

    def poke(self) -> None:
        """Let a waiting claim return: the next one may ask for more, or for suspects again."""
        if self._waiter is not None:
            self._waiter.poke()

    async def halt(self) -> None:
        """See `Waiter.halt`."""
        if self._waiter is not None:
            await self._waiter.halt()

    async def renew(self, leases: Sequence[Renewal]) -> Renewed:
        return await renew_leases(self._mill, leases)

    async def settle(self, batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        """One transaction. It is tried until the last of the leases has ended: after that rescue has them. BadUserInput:
        the database refuses a value."""
        patience = max(max(c.deadline for c, _ in batch) - boottime(), self._mill.options.lease / 3)
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)))  # the oldest: of a lease that was lost unanswered
        try:
            return await settle_batch(
                self._mill, batch, self._options.name, patience=patience, kept=self._kept
            )
        except (exc.DataError, UnicodeError) as error:
            raise BadUserInput("The database refuses a value of an outcome.") from error

    async def log(self, lines: Sequence[LogLine]) -> None:
        await self._logs.write(lines)

    async def submit(self, tasks: Sequence[NewTask], run: tuple[bytes, int]) -> list[bytes]:
        return [row.id for row in await self._submitter.submit(tasks)]

    async def cancels(self) -> list[tuple[bytes, int]]:
        """Wait for cancel signals; (id, fence) each. A signal may be lost: renew tells them too."""
        return await self._started().cancels()

    async def close(self) -> None:
        """Write the last logs, take the worker's row away, close the bells. A failure is logged: the row ages out."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait((self._beating,))
        if self._waiter is not None:
            await self._waiter.close()
        await self._submitter.drain()
        await self._logs.drain()
        await self._mill.flush()
        try:
            await self._mill.db.write(lambda c: workers.leave(c, self.boot_id), patience=3.0)
        except Unavailable as error:
            log.warning("worker.row_left", error=error.message)

    def _started(self) -> Waiter:
        if self._waiter is None:
            raise AssertionError("start first")
        return self._waiter

    async def _beat(self) -> None:
        """Keep the worker's row fresh: it only says which types live workers know."""
        failures = 0
        while True:
            try:
                await self._seen()
            except Exception as error:  # noqa: BLE001 (whatever it is, a worker that runs must be seen again)
                failures += 1
                if failures == 1:
                    log.warning("worker.beat_failed", error=str(error))
                await asyncio.sleep(loop_delay(failures, self._mill.rng, OUTAGES))
                continue
            failures = 0
            await asyncio.sleep(self._mill.options.worker_ttl / 4 * self._mill.rng.uniform(0.8, 1.0))

    async def _seen(self) -> None:
        host = socket.gethostname()
        await self._mill.db.write(
            lambda c: workers.register(
                c,
                self.boot_id,
                name=self._options.name or host,
                host=host,
                queues=self._options.queues,
                types=workers.names(self._registry),
                slots=self._options.slots,
                version=self._options.version,
            )
        )
