"""Batches that form by themselves: no timer, no delay.

While one write is in flight, what arrives gathers; the next write takes it all, up to the bounds. Alone, an item is
written at once; under load the batches grow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from taskmill.errors import Unavailable

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


@dataclass(slots=True)
class _Waiting(Generic[I, R]):
    item: I
    size: int
    cost: int
    future: asyncio.Future[R]


class Batcher(Generic[I, R]):
    """Collects items and hands them to `write` in batches.

    `write(items)` returns an answer for each item, in order; an exception instance among the answers is raised for
    that item alone, one raised by `write` for all of its items. Bounds: `rows` and `bytes` per batch, `waiting` items
    in line (beyond it `put` raises Unavailable at once: the caller is told, nothing grows), `lanes` writes in flight.
    A cancelled `put` may still be written: cancelling does not undo. What has not begun is left out, so that a stop
    during an outage does not write for callers that are gone.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[I]], Awaitable[Sequence[R | BaseException]]],
        *,
        rows: int = 500,
        bytes: int = 4 * 1024 * 1024,
        waiting: int = 20_000,
        lanes: int = 1,
    ) -> None:
        self._name = name
        self._write = write
        self._rows, self._bytes, self._max = rows, bytes, waiting
        self._line: deque[_Waiting[I, R]] = deque()
        self._lanes = lanes
        self._busy: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def put(self, item: I, *, rows: int = 1, bytes: int = 0) -> R:
        """Hand in one item that counts as `rows` rows and `bytes` bytes; return its answer when it is written."""
        if len(self._line) >= self._max:
            raise Unavailable(f"Too many writes are waiting ({self._name}). Nothing was accepted: try again.")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._line.append(_Waiting(item, rows, bytes, future))
        self._pump()
        return await future

    def post(self, item: I, *, rows: int = 1, bytes: int = 0) -> bool:
        """Hand in one item without waiting for it; False when the line is full. Its failure is `write`'s to handle."""
        if len(self._line) >= self._max:
            return False
        self._line.append(_Waiting(item, rows, bytes, asyncio.get_running_loop().create_future()))
        self._pump()
        return True

    async def drain(self) -> None:
        """Wait until nothing is waiting or in flight."""
        while self._busy:
            await asyncio.wait(set(self._busy))

    def _pump(self) -> None:
        while self._line and len(self._busy) < self._lanes:
            batch = self._take()
            if not batch:
                return
            task = asyncio.create_task(self._run(batch), name=f"batch:{self._name}")
            self._busy.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._pump()

    def _take(self) -> list[_Waiting[I, R]]:
        batch: list[_Waiting[I, R]] = []
        rows = size = 0
        while self._line:
            head = self._line[0]
            if head.future.cancelled():
                self._line.popleft()
                continue
            if batch and (rows + head.size > self._rows or size + head.cost > self._bytes):
                break
            batch.append(self._line.popleft())
            rows, size = rows + head.size, size + head.cost
        return batch

    async def _run(self, batch: list[_Waiting[I, R]]) -> None:
        try:
            answers: Sequence[R | BaseException] = await self._write([w.item for w in batch])
        except BaseException as error:
            for w in batch:
                if not w.future.done():
                    w.future.set_exception(
                        Unavailable("The process is stopping.")
                        if isinstance(error, asyncio.CancelledError)
                        else error
                    )
                    # A waiter that went away does not make this an unhandled error.
                    w.future.exception()
            if not isinstance(error, Exception):
                raise
            return
        for w, answer in zip(batch, answers, strict=True):
            if w.future.done():
                continue
            if isinstance(answer, BaseException):
                w.future.set_exception(answer)
                w.future.exception()
            else:
                w.future.set_result(answer)
