"""A worker's place to wait for work: its claimer, its bells, and the loop between them.

A local worker has one in its own process (source.py); for a remote one the API process keeps it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from taskmill.index.wake import Subscription
from taskmill.model.clock import boottime
from taskmill.model.task import Claimed, Registry
from taskmill.tasks.cancel import read_signal
from taskmill.tasks.claim import Note
from taskmill.tasks.claimer import Claimer
from taskmill.tasks.mill import Mill

POLL: Final = 1.0
"""Seconds between two looks of an idle worker: the poll behind the bell."""
CANCELS: Final = 1000


async def _always() -> bool:
    return True


class Waiter:
    """Claims for one worker, one claim at a time. `open` first; `halt`, then `close`."""

    def __init__(self, mill: Mill, worker: bytes, queues: Sequence[str], registry: Registry) -> None:
        self.queues = tuple(queues)
        self.registry = registry
        self._mill = mill
        self._worker = worker
        self._claimer = Claimer(mill, worker, queues, registry)
        self._bells = AsyncExitStack()
        self._hearing: list[asyncio.Task[None]] = []
        self._rung = asyncio.Event()
        self._poked = False
        self._halted = False
        self._claiming = asyncio.Lock()
        self._cancels: deque[tuple[bytes, int]] = deque(maxlen=CANCELS)
        self._cancelled = asyncio.Event()

    async def open(self) -> None:
        """Listen to the bells of this worker and of its queues."""
        channels = [f"worker:{self._worker.hex()}", *(f"queue:{q}" for q in self.queues)]
        # All at once: without a server each takes a second to give up.
        await asyncio.gather(*(self._listen(channel) for channel in channels))

    async def _listen(self, channel: str) -> None:
        bell = await self._bells.enter_async_context(self._mill.bell.listen(channel))
        self._hearing.append(asyncio.create_task(self._hear(bell), name=f"bell:{channel}"))

    async def claim(
        self,
        n: int,
        *,
        suspects: int,
        wait: float,
        note: Note | None = None,
        wanted: Callable[[], Awaitable[bool]] = _always,
    ) -> list[Claimed]:
        """Up to n tasks, as soon as there are any; [] after `wait` seconds, when poked or halted, and when they are not
        `wanted` any more, which is asked before each try.

        Unavailable when SQL does not answer. Never cancel it: call `halt` and await it.
        """
        until = boottime() + wait
        async with self._claiming:
            self._poked = False
            claimed: list[Claimed] = []
            while not claimed and not self._halted and not self._poked and await wanted():
                self._rung.clear()
                claimed = await self._claimer.claim(n, suspects=suspects, wait=True, note=note)
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
            await self._claimer.close()

    async def cancels(self) -> list[tuple[bytes, int]]:
        """Wait for cancel signals; (id, fence) each. A signal may be lost: renew tells them too."""
        await self._cancelled.wait()
        self._cancelled.clear()
        signals = list(self._cancels)
        self._cancels.clear()
        return signals

    async def close(self) -> None:
        """End the bells. After `halt`."""
        self._halted = True
        for task in self._hearing:
            task.cancel()
        if self._hearing:
            await asyncio.wait(self._hearing)
        await self._bells.aclose()

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
