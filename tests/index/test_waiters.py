"""Wake-ups: just as many waiting workers as there is work, and none is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index
from taskmill.index.wake import RedisBell, Subscription
from tests.index.kit import Clock, entry, ids, raw

Waiters = dict[str, Subscription]


@pytest.fixture
async def waiters(index: Index, options: IndexOptions) -> AsyncIterator[Waiters]:
    """Three workers, each of which listens; none of them waits in the index yet."""
    bell = RedisBell(options)
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(bell.listen(f"worker:{name.encode().hex()}"))
            for name in "abc"
        }
    await bell.aclose()


async def idle(index: Index, *names: str) -> None:
    for name in names:
        assert ids(await index.next("q", n=1, worker=name.encode(), wait=True)) == []


async def rung(waiters: Waiters) -> list[str]:
    """Who hears the bell. The last message on a server comes after all others: silence is known, not guessed."""
    return [name for name, ear in waiters.items() if await ear.wait(0.1 if name == "a" else 0.02) is not None]


async def test_a_push_rings_as_many_as_there_is_work(index: Index, waiters: Waiters) -> None:
    """Two tasks wake two of three workers."""
    await idle(index, *"abc")
    await index.push("q", [entry(1), entry(2)])
    assert len(await rung(waiters)) == 2
    assert await raw(index, "ZCARD", "{}i") == 1


async def test_much_work_rings_each_waiter_once(index: Index, waiters: Waiters) -> None:
    """More tasks than waiters: everyone once."""
    await idle(index, *"abc")
    await index.push("q", [entry(k) for k in range(10)])
    assert await rung(waiters) == ["a", "b", "c"]
    assert await rung(waiters) == []


async def test_the_ring_names_the_queue(index: Index, waiters: Waiters) -> None:
    """A worker with several queues knows where to look."""
    await idle(index, "a")
    await index.push("q", [entry(1)])
    assert await waiters["a"].wait(5) == b"q"


async def test_a_repeated_push_rings_nobody(index: Index, waiters: Waiters) -> None:
    """Verify pushes what is there already without waking the whole installation."""
    await index.push("q", [entry(1)])
    await index.next("q", n=1)
    await index.push("q", [entry(1)])
    await raw(index, "ZADD", "{}i", 1e17, b"a".hex())
    await index.push("q", [entry(1)])
    assert await rung(waiters) == []


async def test_who_found_work_does_not_wait(index: Index, waiters: Waiters) -> None:
    """A worker that got a task is not on the list, also if it was before."""
    await idle(index, "a")
    await index.push("q", [entry(1)])
    assert ids(await index.next("q", n=1, worker=b"a", wait=True)) == [1]
    assert await raw(index, "ZCARD", "{}i") == 0


async def test_who_stops_waiting_is_taken_off(index: Index, waiters: Waiters) -> None:
    """A worker that shuts down (wait = False) gets no more wakes that another could use."""
    await idle(index, "a", "b")
    await index.next("q", n=0, worker=b"b")
    await index.push("q", [entry(1)])
    assert await rung(waiters) == ["a"]


async def test_the_freshest_waiter_is_rung(index: Index, waiters: Waiters, clock: Clock) -> None:
    """A dead waiter sinks below those who poll."""
    for name in "abc":
        await idle(index, name)
        clock.forward(0.1)
    await index.push("q", [entry(1)])
    assert await rung(waiters) == ["c"]


async def test_a_dead_waiter_is_forgotten(index: Index, waiters: Waiters, clock: Clock) -> None:
    """Who has not polled for longer than `patience` takes no wake."""
    await idle(index, "a")
    clock.forward(6)
    await idle(index, "b")
    await index.push("q", [entry(1), entry(2)])
    assert await rung(waiters) == ["b"]
    assert await raw(index, "ZCARD", "{}i") == 0


async def test_a_busy_worker_passes_the_wake_on(index: Index, waiters: Waiters) -> None:
    """Woken without a free slot: `next` with n = 0 rings the next waiter."""
    await idle(index, "a")
    await index.push("q", [entry(1)])
    assert await rung(waiters) == ["a"]
    await raw(index, "ZADD", "{}i", 1e17, b"b".hex())
    assert (await index.next("q", n=0, worker=b"a")).more
    assert await rung(waiters) == ["b"]


async def test_work_left_behind_rings_one_more(index: Index, waiters: Waiters) -> None:
    """A lost ring is made good by the next worker that leaves work behind."""
    await index.push("q", [entry(k) for k in range(5)])
    await raw(index, "ZADD", "{}i", 1e17, b"b".hex(), 2e17, b"c".hex())
    await index.next("q", n=1, worker=b"a", wait=True)
    assert await rung(waiters) == ["c"]


async def test_what_is_given_back_rings_a_waiter(index: Index, waiters: Waiters) -> None:
    """A worker that shuts down hands its work to one who waits."""
    await index.push("q", [entry(1)])
    held = await index.next("q", n=1)
    await idle(index, "b")
    await index.next("q", n=0, worker=b"a", give_back=held.reserved)
    assert await rung(waiters) == ["b"]


async def test_a_run_out_reservation_rings_a_waiter(index: Index, waiters: Waiters, clock: Clock) -> None:
    """Whoever notices the dead worker's task wakes somebody for it, if it does not take it itself."""
    await index.push("q", [entry(1)])
    await index.next("q", n=1)
    clock.forward(9.5)
    await idle(index, "b")
    clock.forward(1)
    await index.next("q", n=0, worker=b"a")
    assert await rung(waiters) == ["b"]


async def test_a_paused_queue_rings_nobody(index: Index, waiters: Waiters) -> None:
    """There is nothing to do for a woken worker in a paused queue."""
    await idle(index, *"abc")
    await raw(index, "HSET", "{}g", "paused", "1")
    await index.push("q", [entry(1)])
    assert await rung(waiters) == []


async def test_an_idle_worker_waits_in_all_its_queues(index: Index, waiters: Waiters) -> None:
    """One round trip puts it on every list."""
    await index.reset("other", b"one")
    await index.next_many({"q": 1, "other": 1}, worker=b"a", wait=True)
    await index.push("other", [entry(1)])
    assert await waiters["a"].wait(5) == b"other"
    await index.push("q", [entry(2)])
    assert await waiters["a"].wait(5) == b"q"
