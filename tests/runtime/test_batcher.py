"""Batches that form by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from taskmill.errors import Unavailable
from taskmill.runtime.batcher import Batcher


class Writes:
    """A `write` that waits for its gate, remembers its batches, and answers each item with its double."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        self.batches.append(list(items))
        await self.gate.wait()
        return [ValueError("odd") if n % 2 else 2 * n for n in items]


async def put(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.put(n, bytes=10)) for n in items]
    for _ in range(2):  # they come in; the first batch begins
        await asyncio.sleep(0)
    return tasks


async def test_what_comes_during_a_write_is_the_next_batch() -> None:
    """The first goes alone and at once; then all that gathered, up to the rows and the bytes of a batch."""
    writes = Writes()
    batcher = Batcher("b", writes, rows=3, bytes=25)
    tasks = await put(batcher, 2, 4, 6, 8)
    assert writes.batches == [[2]]
    writes.gate.set()
    assert await asyncio.gather(*tasks) == [4, 8, 12, 16]
    assert writes.batches == [[2], [4, 6], [8]]


async def test_an_answer_that_is_an_error_is_of_its_item_alone() -> None:
    """The others of the batch have theirs."""
    writes = Writes()
    writes.gate.set()
    batcher = Batcher("b", writes)
    answers = await asyncio.gather(*await put(batcher, 2, 3, 4), return_exceptions=True)
    assert [type(a) for a in answers] == [int, ValueError, int]


async def test_a_full_line_refuses_at_once() -> None:
    """Nothing grows without bounds, and the caller is told."""
    writes = Writes()
    batcher = Batcher("b", writes, waiting=1)
    tasks = await put(batcher, 2, 4)
    with pytest.raises(Unavailable):
        await batcher.put(6)
    assert not batcher.post(6)
    writes.gate.set()
    await asyncio.gather(*tasks)


async def test_who_is_gone_before_the_write_is_left_out() -> None:
    """A drain waits for what is in flight and for who still waits, not for callers that gave up."""
    writes = Writes()
    batcher = Batcher("b", writes, rows=1)
    first, *others, last = await put(batcher, 2, 4, 6, 8)
    for gone in others:
        gone.cancel()
    await asyncio.wait(others)
    writes.gate.set()
    await batcher.drain()
    assert writes.batches == [[2], [8]]
    assert (await first, await last) == (4, 16)
    assert batcher.waiting == 0
