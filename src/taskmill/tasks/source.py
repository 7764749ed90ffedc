"""Where a worker's tasks come from here: SQL and the index. It satisfies the port in worker/source.py.

It registers the worker, listens to its bell, and hides from the supervisor whether an index is there.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import structlog

from taskmill.errors import Unavailable
from taskmill.index.wake import Subscription
from taskmill.model.backoff import loop_delay
from taskmill.model.clock import boottime
from taskmill.model.ids import new_id
from taskmill.model.task import Claimed, LogLine, NewTask, Outcome, Registry, Renewal, Renewed
from taskmill.tasks import workers
from taskmill.tasks.cancel import read_signal
from taskmill.tasks.claimer import Claimer
from taskmill.tasks.log import LogWriter
from taskmill.tasks.mill import Mill
from taskmill.tasks.renew import renew_leases
from taskmill.tasks.settle import Kept, settle_batch
from taskmill.tasks.submit import Submitter

log = structlog.get_logger(__name__)

POLL: Final = 1.0
"""Seconds between two looks of an idle worker: the poll behind the bell."""
CANCELS: Final = 1000
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
        self._claimer: Claimer | None = None
        self._registry = Registry()
        self._bells = AsyncExitStack()
        self._rung = asyncio.Event()
        self._poked = False
        self._cancels: deque[tuple[bytes, int]] = deque(maxlen=CANCELS)
        self._cancelled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._claiming = asyncio.Lock()
        self._halted = False
        self._kept: Kept = {}

    async def start(self, registry: Registry) -> None:
        """Write the worker's row and open its bells. Unavailable when SQL does not answer."""
        self._registry = registry
        self._claimer = Claimer(self._mill, self.boot_id, self._options.queues, registry)
        await self._seen()
        partial = await self._mill.db.read(lambda c: workers.partial_types(c, self._mill.options.worker_ttl))
        for queue in sorted(partial.keys() & set(self._options.queues)):
            # It works: who does not know a type gives its task back. But each such task goes the long way.
            log.warning(
                "workers of a queue differ in the types they know", queue=queue, types=sorted(partial[queue])
            )
        channels = [f"worker:{self.boot_id.hex()}", *(f"queue:{q}" for q in self._options.queues)]
        for channel in channels:
            bell = await self._bells.enter_async_context(self._mill.bell.listen(channel))
            self._tasks.append(asyncio.create_task(self._hear(bell), name=f"bell:{channel}"))
        self._tasks.append(asyncio.create_task(self._beat(), name="worker:beat"))

    async def claim(self, n: int, *, suspects: int, wait: float) -> list[Claimed]:
        """Up to n tasks, as soon as there are any; [] after `wait` seconds, when poked or halted.

        Unavailable when SQL does not answer. Never cancel it: call `halt` and await it.
        """
        if self._claimer is None:
            raise AssertionError("claim before start")
        until = boottime() + wait
        async with self._claiming:
            self._poked = False
            claimed: list[Claimed] = []
            while not claimed and not self._halted and not self._poked:
                self._rung.clear()
                claimed = await self._claimer.claim(n, suspects=suspects, wait=True)
                left = until - boottime()
                if left <= 0:
                    break
                if self._claimer.fruitless:
                    continue
                if not claimed and not await self._wait(min(left, POLL)) and left <= POLL:
                    break
        return claimed

    def poke(self) -> None:
        """Let a waiting claim return: the next one may ask for more, or for suspects again."""
        self._poked = True
        self._rung.set()

    async def halt(self) -> None:
        """Claim nothing more. A claim in flight is awaited; what is reserved and not claimed goes back to the index."""
        self._halted = True
        self._rung.set()
        async with self._claiming:
            if self._claimer is not None:
                await self._claimer.close()

    async def renew(self, leases: Sequence[Renewal]) -> Renewed:
        return await renew_leases(self._mill, leases)

    async def settle(self, batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        """One transaction. It is tried until the last of the leases has ended: after that rescue has them."""
        patience = max(max(c.deadline for c, _ in batch) - boottime(), self._mill.options.lease / 3)
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)))  # the oldest: of a lease that was lost unanswered
        return await settle_batch(self._mill, batch, self._options.name, patience=patience, kept=self._kept)

    async def log(self, lines: Sequence[LogLine]) -> None:
        await self._logs.write(lines)

    async def submit(self, tasks: Sequence[NewTask]) -> list[bytes]:
        return [row.id for row in await self._submitter.submit(tasks)]

    async def cancels(self) -> list[tuple[bytes, int]]:
        """Wait for cancel signals; (id, fence) each. A signal may be lost: renew tells them too."""
        await self._cancelled.wait()
        self._cancelled.clear()
        signals = list(self._cancels)
        self._cancels.clear()
        return signals

    async def close(self) -> None:
        """Write the last logs, take the worker's row away, close the bells. A failure is logged: the row ages out."""
        self._halted = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._bells.aclose()
        await self._submitter.drain()
        await self._logs.drain()
        await self._mill.flush()
        try:
            await self._mill.db.write(lambda c: workers.leave(c, self.boot_id), patience=3.0)
        except Unavailable as error:
            log.warning("worker.row_left", error=error.message)

    async def _wait(self, seconds: float) -> bool:
        """Whether the bell rang before `seconds` (with jitter, so that idle workers do not look in step) were over."""
        try:
            async with asyncio.timeout(seconds * self._mill.rng.uniform(0.8, 1.0)):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    async def _hear(self, bell: Subscription) -> None:
        while True:
            data = await bell.wait(60.0)
            if data is None:
                continue
            signal = read_signal(data)
            if signal is None:
                self._rung.set()
            else:
                self._cancels.append(signal)
                self._cancelled.set()

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
                await asyncio.sleep(loop_delay(failures, self._mill.rng))
                continue
            failures = 0
            await asyncio.sleep(self._mill.options.worker_ttl / 4 * self._mill.rng.uniform(0.8, 1.0))

    async def _seen(self) -> None:
        known = [*self._registry.types, *([workers.DEFAULT] if self._registry.get(None) else [])]
        host = socket.gethostname()
        await self._mill.db.write(
            lambda c: workers.register(
                c,
                self.boot_id,
                name=self._options.name or host,
                host=host,
                queues=self._options.queues,
                types=known,
                slots=self._options.slots,
                version=self._options.version,
            )
        )
