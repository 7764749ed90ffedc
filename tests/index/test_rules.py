"""The rules of INDEX.md: each test is the counterexample that was found without the rule."""

from __future__ import annotations

from typing import Any

import pytest

from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index
from tests.index.kit import ANN, CRITICAL, LOW, Clock, entry, ids, keys, raw, task


async def test_a_late_confirm_leaves_another_workers_reservation(index: Index, clock: Clock) -> None:
    """Rule 1: W1's delayed confirm must not remove what W2 reserved later: W2 crashed, so the task must come back."""
    await index.push("q", [entry(1)])
    first = await index.next("q", n=1)
    # The task failed, was promoted and pushed again; W2 reserves it and crashes.
    await index.push("q", [entry(1)])
    second = await index.next("q", n=1)
    assert ids(second) == [1]
    await index.next("q", n=0, confirm=first.reserved)
    clock.forward(11)
    assert ids(await index.next("q", n=1)) == [1]


@pytest.mark.parametrize("way", ["confirm", "drop", "give_back"])
async def test_only_the_owner_ends_a_reservation(index: Index, way: str) -> None:
    """Rule 1 holds for confirm, drop and give-back alike."""
    await index.push("q", [entry(1)])
    first = await index.next("q", n=1)
    await index.push("q", [entry(1)])
    await index.next("q", n=1)
    wish: dict[str, Any] = {way: first.reserved}
    answer = await index.next("q", n=5, **wish)
    assert ids(answer) == []
    assert await raw(index, "ZCARD", "{}v") == 1


async def test_a_push_is_ready_although_an_old_reservation_stands(index: Index) -> None:
    """Rule 2: a promoted task is ready again even while the reservation of its last run is still there."""
    await index.push("q", [entry(1)])
    first = await index.next("q", n=1)
    pushed = await index.push("q", [entry(1)])
    assert pushed.added == 1
    await index.next("q", n=0, confirm=first.reserved)
    assert ids(await index.next("q", n=1)) == [1]


async def test_nothing_is_pushed_without_a_generation(empty: Index) -> None:
    """Rule 3: after a FLUSHALL no half index comes into being."""
    pushed = await empty.push("q", [entry(1)])
    assert (pushed.generation, pushed.added) == (None, 0)
    assert await keys(empty) == set()


async def test_a_push_meant_for_another_generation_is_refused(index: Index) -> None:
    """Rule 3: a refill that outlived its generation adds nothing, and hears which one is in force."""
    pushed = await index.push("q", [entry(1)], b"old")
    assert (pushed.generation, pushed.added) == (b"one", 0)
    assert ids(await index.next("q", n=1)) == []


async def test_a_push_for_no_named_generation_goes_into_any(empty: Index) -> None:
    """Rule 3: an index that is being filled takes pushes too: it only proposes."""
    await empty.reset("q", b"one")
    assert (await empty.push("q", [entry(1)])).added == 1
    assert ids(await empty.next("q", n=1)) == [1]


async def test_reset_acts_only_where_there_is_no_generation(empty: Index) -> None:
    """Rule 3: two schedulers that reset agree on one generation."""
    assert await empty.reset("q", b"one") == b"one"
    assert await empty.reset("q", b"two") == b"one"


async def test_a_second_reset_does_not_fill_again(index: Index) -> None:
    """Rule 3: a reset that came too late leaves a warm index warm."""
    await index.reset("q", b"two")
    assert not (await index.next("q", n=1)).filling


async def test_a_new_generation_is_filling_until_it_is_warm(empty: Index) -> None:
    """Rule 3: workers also take from SQL until everything was pushed."""
    await empty.reset("q", b"one")
    assert (await empty.next("q", n=1)).filling
    assert await empty.warm("q", b"one")
    assert not (await empty.next("q", n=1)).filling


async def test_warm_of_a_lost_generation_publishes_nothing(index: Index) -> None:
    """Rule 3: a FLUSHALL in the middle of a refill must not end in half an index that counts as whole."""
    await raw(index, "DEL", "{}g")
    await index.reset("q", b"two")
    assert not await index.warm("q", b"one")
    assert (await index.next("q", n=1)).filling


async def test_no_index_is_told_from_an_empty_one(empty: Index) -> None:
    """Rule 3: without a generation a worker must know that it takes from SQL."""
    assert (await empty.next("q", n=1)).generation is None
    await empty.reset("q", b"one")
    assert (await empty.next("q", n=1)).generation == b"one"


async def test_an_update_moves_a_ready_task(index: Index) -> None:
    """Rule 5: an update pushes the new score; the task is there once, at its new place."""
    await index.push("q", [entry(1, band=LOW), entry(2)])
    pushed = await index.push("q", [entry(1, band=CRITICAL)])
    assert pushed.added == 0
    assert ids(await index.next("q", n=5)) == [1, 2]
    assert await index.fair_keys("q") == []


async def test_pushing_again_changes_nothing(index: Index) -> None:
    """Rule 5: push is idempotent, so that verify may repeat it."""
    entries = [entry(k) for k in range(5)]
    await index.push("q", entries)
    before = await raw(index, "ZRANGE", "{}a2", 0, -1, "WITHSCORES")
    assert (await index.push("q", entries)).added == 0
    assert await raw(index, "ZRANGE", "{}a2", 0, -1, "WITHSCORES") == before
    assert ids(await index.next("q", n=10)) == [0, 1, 2, 3, 4]


async def test_take_reserves_for_the_pass_over_dead_entries(index: Index) -> None:
    """Rule 5: the pass takes like a worker, so that no claim can race with a removal."""
    await index.push("q", [entry(1, band=LOW), entry(2, band=CRITICAL), entry(3)])
    taken = await index.take("q", n=2, fair=ANN)
    assert ids(taken) == [2, 3]
    assert ids(await index.next("q", n=5)) == [1]
    await index.next("q", n=0, drop=taken.reserved[:1], give_back=taken.reserved[1:])
    assert ids(await index.next("q", n=5)) == [3]


async def test_what_take_reserved_comes_back_by_itself(index: Index, clock: Clock) -> None:
    """Rule 5: a pass that dies in the middle loses nothing."""
    await index.push("q", [entry(1), entry(2)])
    await index.take("q", n=2, fair=ANN)
    assert ids(await index.next("q", n=5)) == []
    clock.forward(11)
    assert ids(await index.next("q", n=5)) == [1, 2]


async def test_take_goes_on_from_a_place(index: Index) -> None:
    """Rule 5: live entries that the pass gave back do not keep it from the rest of the line."""
    await index.push("q", [entry(k) for k in range(6)])
    assert ids(await index.take("q", n=2, fair=ANN, place=4)) == [4, 5]


async def test_take_without_a_generation_takes_nothing(empty: Index) -> None:
    """Rule 3 for take: what a lost generation left behind is not touched."""
    await empty.reset("q", b"one")
    await empty.push("q", [entry(1)])
    await raw(empty, "DEL", "{}g")
    answer = await empty.take("q", n=1, fair=ANN)
    assert (answer.generation, ids(answer)) == (None, [])
    assert await raw(empty, "ZCARD", "{}r" + ANN.decode()) == 1


async def test_take_leaves_no_empty_line_behind(index: Index) -> None:
    """A user whose last task was taken is no longer looked at, and comes back with the task."""
    await index.push("q", [entry(1), entry(2, band=LOW)])
    taken = await index.take("q", n=2, fair=ANN)
    assert await index.fair_keys("q") == []
    await index.next("q", n=0, give_back=taken.reserved)
    assert ids(await index.next("q", n=2)) == [1, 2]


async def test_take_of_nothing_takes_nothing(index: Index) -> None:
    """n = 0 is no open range."""
    await index.push("q", [entry(1)])
    assert ids(await index.take("q", n=0, fair=ANN)) == []


@pytest.mark.parametrize(("timeout", "hold"), [(5.0, 5.0), (10.0, 5.0), (0.0, 5.0)])
def test_a_call_ends_before_its_reservation(timeout: float, hold: float) -> None:
    """Rule 6: a timeout at or above the expiry of a reservation is refused."""
    with pytest.raises(ValueError, match="hold"):
        IndexOptions("redis://localhost", timeout=timeout, hold=hold)


async def test_reservations_expire_by_the_servers_clock(options: IndexOptions) -> None:
    """Rule 6: without a clock of our own, skewed workers still agree on when a reservation runs out."""
    index = Index(IndexOptions(options.url, prefix=options.prefix, timeout=2.0, hold=2.1))
    try:
        await index.reset("q", b"one")
        await index.push("q", [entry(1)])
        await index.next("q", n=1)
        seconds, micros = await index._evaluate("probe", f"{{{options.prefix}/q}}:probe", ())
        expiry = float(await raw(index, "ZSCORE", "{}v", task(1)))
        assert 0 < expiry - (int(seconds) * 1e6 + int(micros)) <= 2.1e6
    finally:
        await index.aclose()
