"""next: order, fairness, reservations, and what it does with damage."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from redis.exceptions import ResponseError

from taskmill.index.index import EPOCH, Entry, Index, Reserved
from tests.index.kit import (
    ANN,
    BOB,
    CRITICAL,
    EVE,
    HIGH,
    LOW,
    NORMAL,
    Clock,
    entry,
    ids,
    keys,
    raw,
    sizes,
    task,
)


async def test_bands_are_strict(index: Index) -> None:
    """CRITICAL before HIGH before NORMAL before LOW, whenever they came and whosever they are."""
    await index.push(
        "q", [entry(1, band=LOW), entry(2), entry(3, band=HIGH, fair=BOB), entry(4, band=CRITICAL)]
    )
    assert ids(await index.next("q", n=3)) == [4, 3, 2]
    assert ids(await index.next("q", n=3)) == [1]


async def test_inside_a_fair_key_time_decides(index: Index) -> None:
    """One user's tasks of a band run in the order of their times."""
    await index.push("q", [entry(1, at=300), entry(2, at=100), entry(3, at=200)])
    assert ids(await index.next("q", n=5)) == [2, 3, 1]


async def test_scores_are_exact_to_the_microsecond(index: Index) -> None:
    """Times of today that differ by 1 µs keep their order in the lowest band too."""
    at = 1_795_000_000_000_001
    await index.push("q", [Entry(task(k), ANN, LOW, at + 3 - k) for k in range(3)])
    assert ids(await index.next("q", n=1)) == [2]
    back = await index.next("q", n=2)
    await index.next("q", n=0, give_back=back.reserved)
    assert ids(await index.next("q", n=2)) == [1, 0]


async def test_a_time_before_2020_stays_in_its_band(index: Index) -> None:
    """An absurd time moves a task to the front of its band, never into a higher one."""
    await index.push("q", [Entry(task(1), ANN, LOW, 0), entry(2, at=10**15)])
    assert ids(await index.next("q", n=2)) == [2, 1]


async def test_users_take_turns(index: Index) -> None:
    """A user with a thousand tasks does not keep another's waiting."""
    await index.push("q", [entry(k) for k in range(1000)])
    await index.push("q", [entry(k, fair=BOB) for k in range(1000, 1010)])
    shares = Counter(reserved.fair for reserved in (await index.next("q", n=20)).reserved)
    assert shares == {ANN: 10, BOB: 10}


async def test_turns_go_on_over_calls(index: Index) -> None:
    """Whoever took one task waits for the others, also when each call asks for one."""
    await index.push("q", [entry(k, fair=(ANN, BOB, EVE)[k % 3]) for k in range(30)])
    first = [(await index.next("q", n=1)).reserved[0].fair for _ in range(6)]
    assert Counter(first) == {ANN: 2, BOB: 2, EVE: 2}


async def test_coming_back_does_not_jump_the_line(index: Index) -> None:
    """A user who submits one task at a time gets a half of the turns, not all of them."""
    await index.push("q", [entry(k, fair=BOB) for k in range(20)])
    taken = []
    for k in range(10):
        await index.push("q", [entry(100 + k, fair=ANN)])
        taken.append((await index.next("q", n=1)).reserved[0].fair)
    assert Counter(taken) == {ANN: 5, BOB: 5}


async def test_who_was_away_does_not_catch_up(index: Index) -> None:
    """A user who comes late shares from now on; past turns of others are not owed."""
    await index.push("q", [entry(k) for k in range(100)])
    await index.next("q", n=50)
    await index.push("q", [entry(k, fair=BOB) for k in range(100, 200)])
    shares = Counter(reserved.fair for reserved in (await index.next("q", n=20)).reserved)
    assert abs(shares[ANN] - shares[BOB]) <= 2


async def test_kept_virtual_times_do_not_pile_up(index: Index) -> None:
    """Users that come and go leave nothing behind once the band has moved on."""
    for k in range(30):
        await index.push("q", [entry(k, fair=os.urandom(16))])
        await index.next("q", n=1)
    assert await raw(index, "ZCARD", "{}t2") <= 30
    await index.push("q", [entry(100 + k, fair=ANN) for k in range(5)])
    await index.next("q", n=5)
    assert await raw(index, "ZCARD", "{}t2") <= 1


async def test_no_more_than_asked(index: Index) -> None:
    """A worker never holds more reservations than it has slots."""
    await index.push("q", [entry(k, fair=(ANN, BOB)[k % 2]) for k in range(50)])
    assert len(ids(await index.next("q", n=7))) == 7
    assert len(ids(await index.next("q", n=0))) == 0


async def test_everything_comes_once(index: Index) -> None:
    """Many users, bands and calls: each ready task is proposed exactly once."""
    users = [bytes([k]) * 16 for k in range(40)]
    await index.push("q", [entry(k, fair=users[k * 7 % 40], band=k % 4) for k in range(1000)])
    seen: list[int] = []
    while got := ids(await index.next("q", n=64)):
        seen += got
    assert sorted(seen) == list(range(1000))


async def test_a_run_out_reservation_returns(index: Index, clock: Clock) -> None:
    """A worker that died after `next` costs its tasks the hold time, no more."""
    await index.push("q", [entry(1), entry(2)])
    await index.next("q", n=2)
    clock.forward(9)
    assert ids(await index.next("q", n=2)) == []
    clock.forward(2)
    assert ids(await index.next("q", n=2)) == [1, 2]


async def test_an_expiry_is_exact(index: Index, clock: Clock) -> None:
    """A reservation runs out when it should, not tens of seconds around: numbers keep all their digits."""
    await index.push("q", [entry(1)])
    await index.next("q", n=1)
    assert int(float(await raw(index, "ZSCORE", "{}v", task(1)))) == clock.now + 10_000_000


async def test_a_run_out_reservation_returns_to_its_band(index: Index, clock: Clock) -> None:
    """What returns has the score that it had."""
    await index.push("q", [entry(1, band=CRITICAL), entry(2, band=LOW)])
    await index.next("q", n=2)
    clock.forward(11)
    await index.push("q", [entry(3)])
    assert ids(await index.next("q", n=3)) == [1, 3, 2]


async def test_a_confirmed_task_does_not_return(index: Index, clock: Clock) -> None:
    """Confirm and drop end the reservation for good."""
    await index.push("q", [entry(1), entry(2)])
    one, two = (await index.next("q", n=2)).reserved
    await index.next("q", n=0, confirm=[one], drop=[two])
    clock.forward(11)
    assert ids(await index.next("q", n=2)) == []
    assert await raw(index, "EXISTS", "{}v", "{}m") == 0


async def test_what_is_given_back_is_ready_at_once(index: Index) -> None:
    """A worker that shuts down returns its reservations with n = 0."""
    await index.push("q", [entry(1, band=HIGH), entry(2)])
    held = await index.next("q", n=2)
    await index.next("q", n=0, give_back=held.reserved)
    assert ids(await index.next("q", n=2)) == [1, 2]


async def test_giving_back_does_not_undo_an_update(index: Index) -> None:
    """A task that was pushed with a new score while it was reserved keeps the new one."""
    await index.push("q", [entry(1, band=LOW)])
    held = await index.next("q", n=1)
    await index.push("q", [entry(1, band=CRITICAL), entry(2)])
    await index.next("q", n=0, give_back=held.reserved)
    assert ids(await index.next("q", n=2)) == [1, 2]


async def test_one_call_settles_and_reserves(index: Index) -> None:
    """A steady cycle is one call."""
    await index.push("q", [entry(k) for k in range(6)])
    held = (await index.next("q", n=3)).reserved
    answer = await index.next("q", n=3, confirm=held[:1], drop=held[1:2], give_back=held[2:])
    assert ids(answer) == [2, 3, 4]


async def test_a_reservation_nobody_has_is_ignored(index: Index) -> None:
    """Confirms of things long gone, or of nothing, do no harm."""
    await index.push("q", [entry(1)])
    ghost = Reserved(task(9), ANN, b"t" * 16)
    answer = await index.next("q", n=1, confirm=[ghost], drop=[ghost], give_back=[ghost])
    assert ids(answer) == [1]


async def test_a_paused_queue_proposes_nothing(index: Index, clock: Clock) -> None:
    """While `paused` is set nothing is reserved, run-out reservations still return, and the answer says so."""
    await index.push("q", [entry(1), entry(2)])
    await index.next("q", n=1)
    await raw(index, "HSET", "{}g", "paused", "1")
    clock.forward(11)
    answer = await index.next("q", n=2)
    assert (answer.paused, ids(answer)) == (True, [])
    await raw(index, "HDEL", "{}g", "paused")
    assert ids(await index.next("q", n=2)) == [1, 2]


async def test_more_tells_whether_ready_work_is_left(index: Index) -> None:
    """`more` lets a worker go on without waiting."""
    await index.push("q", [entry(1), entry(2, band=LOW)])
    assert (await index.next("q", n=0)).more
    assert (await index.next("q", n=1)).more
    assert not (await index.next("q", n=1)).more


async def test_queues_do_not_mix(index: Index) -> None:
    """One queue's tasks are never proposed in another."""
    await index.reset("other", b"one")
    await index.push("q", [entry(1)])
    await index.push("other", [entry(2)])
    assert ids(await index.next("other", n=5)) == [2]


async def test_several_queues_in_one_round_trip(index: Index) -> None:
    """An idle worker asks all its queues at once; each answer stands for itself."""
    await index.reset("other", b"two")
    await index.push("q", [entry(1), entry(2)])
    await index.push("other", [entry(3)])
    answers = await index.next_many({"q": 1, "other": 1, "none": 1})
    assert {queue: ids(answer) for queue, answer in answers.items()} == {"q": [1], "other": [3], "none": []}
    assert answers["none"].generation is None
    await index.next("q", n=0, give_back=answers["q"].reserved)
    assert ids(await index.next("q", n=2)) == [1, 2]


async def test_bands_hold_what_is_ready(index: Index) -> None:
    """A reserved task stands in none of them."""
    await index.push(
        "q", [entry(k, fair=(ANN, BOB)[k % 2], band=NORMAL if k < 7 else LOW) for k in range(10)]
    )
    await index.next("q", n=1)
    assert await sizes(index) == [0, 0, 6, 3]


async def test_fair_keys_are_those_with_ready_tasks(index: Index) -> None:
    """The pass over dead entries finds every user who has some."""
    await index.push("q", [entry(1), entry(2, fair=BOB, band=LOW), entry(3, fair=BOB)])
    assert sorted(await index.fair_keys("q")) == [ANN, BOB]


async def test_garbage_in_ready_is_dropped(index: Index) -> None:
    """A member that is no id is proposed to nobody, and is gone; the tasks around it come."""
    await index.push("q", [entry(1), entry(2)])
    for member in (b"", b"short", b"x" * 100):
        await raw(index, "ZADD", "{}r" + ANN.decode(), 5_000_000_000_000_000, member)
    assert ids(await index.next("q", n=5)) == [1, 2]
    assert await raw(index, "ZCARD", "{}r" + ANN.decode()) == 0


async def test_a_heap_of_garbage_ends(index: Index) -> None:
    """Ten thousand members of rubbish do not break the script that clears them."""
    await index.push("q", [entry(1)])
    rubbish = [part for k in range(10_000) for part in (4_503_599_627_370_496, b"%d" % k)]
    await raw(index, "ZADD", "{}r" + ANN.decode(), *rubbish)
    assert ids(await index.next("q", n=5)) == [1]
    assert await raw(index, "ZCARD", "{}r" + ANN.decode()) == 0


async def test_a_damaged_score_does_not_strand_a_task(index: Index) -> None:
    """Scores outside every band are served with the nearest one."""
    await index.push("q", [entry(1, band=CRITICAL), entry(2, band=LOW)])
    await raw(index, "ZADD", "{}r" + ANN.decode(), "-5", task(1))
    await raw(index, "ZADD", "{}r" + ANN.decode(), "+inf", task(2))
    assert ids(await index.next("q", n=5)) == [1, 2]


async def test_damaged_reservations_are_cleared(index: Index, clock: Clock) -> None:
    """A reservation that cannot be read is dropped at its end, and verify pushes the task again."""
    await index.push("q", [entry(k) for k in range(4)])
    await index.next("q", n=4)
    await raw(index, "HSET", "{}m", task(0), "rubbish", task(1), b"t" * 16 + b"nan " + ANN)
    await raw(index, "HDEL", "{}m", task(2))
    clock.forward(11)
    assert ids(await index.next("q", n=5)) == [3]
    await index.next("q", n=0)
    assert await raw(index, "ZCARD", "{}v") == 1


async def test_damaged_virtual_times_are_zero(index: Index) -> None:
    """Rubbish where a virtual time should be breaks neither push nor next."""
    await raw(index, "HSET", "{}g", "v2", "nan")
    await index.push("q", [entry(1), entry(2, fair=BOB)])
    await raw(index, "ZADD", "{}a2", "inf", ANN)
    assert sorted(ids(await index.next("q", n=5))) == [1, 2]


@pytest.mark.parametrize("key", ["g", "a2", "t2", "v", "m", "i", "r"])
async def test_a_key_of_a_wrong_type_empties_the_queue(index: Index, clock: Clock, key: str) -> None:
    """Any key of a foreign type: no call crashes for good, the queue has no generation, and it can be filled again."""
    name = "{}" + (key if key != "r" else "r" + ANN.decode())
    await index.push("q", [entry(k, fair=(ANN, BOB)[k % 2]) for k in range(6)])
    await index.next("q", n=2, worker=b"w", wait=True)
    await raw(index, "DEL", name)
    await raw(index, "SET", name, "rubbish")
    clock.forward(11)
    answers = [await index.next("q", n=6, worker=b"w", wait=True) for _ in range(3)]
    pushed = [await index.push("q", [entry(1)]) for _ in range(2)]
    assert answers[-1].generation is None or pushed[-1].generation is None or key == "t2"
    generation = await index.reset("q", b"two")
    assert (await index.push("q", [entry(k) for k in range(9)], generation)).generation == generation
    assert set(ids(await index.next("q", n=20))) >= set(range(9)) - set(ids(answers[0]))


async def test_a_wrong_type_in_one_queue_spares_the_others(index: Index) -> None:
    """Only the damaged queue is emptied."""
    await index.reset("other", b"one")
    await index.push("other", [entry(7)])
    await raw(index, "SET", "{}a2", "rubbish")
    assert (await index.push("q", [entry(1)])).generation is None
    answers = await index.next_many({"q": 1, "other": 1})
    assert (answers["q"].generation, ids(answers["other"])) == (None, [7])


async def test_reset_repairs_a_generation_of_a_wrong_type(empty: Index) -> None:
    """A scheduler that meets the damage first gets its generation at once."""
    await raw(empty, "SET", "{}g", "rubbish")
    assert await empty.reset("q", b"one") == b"one"


@pytest.mark.parametrize(
    "bad",
    [
        Entry(b"short", ANN, NORMAL, EPOCH),
        Entry(task(1), ANN, 4, EPOCH),
        Entry(task(1), ANN, -1, EPOCH),
    ],
)
async def test_an_entry_that_cannot_be_is_refused(index: Index, bad: Entry) -> None:
    """A wrong entry stops the push before anything is sent."""
    with pytest.raises(ValueError, match="band"):
        await index.push("q", [entry(2), bad])
    assert ids(await index.next("q", n=5)) == []


async def test_a_large_push_goes_in_several_scripts(index: Index) -> None:
    """More entries than one script takes are all pushed and counted."""
    assert (await index.push("q", [entry(k) for k in range(2500)])).added == 2500
    assert (await sizes(index))[NORMAL] == 2500


@pytest.mark.parametrize("name", ["a{b", "a}b", "{}"])
async def test_a_queue_name_cannot_forge_keys(empty: Index, name: str) -> None:
    """Braces would move the queue's keys to another cluster slot."""
    with pytest.raises(ValueError, match="braces"):
        await empty.push(name, [entry(1)])


@pytest.mark.parametrize("wish", [{"n": -1}, {"n": 1001}, {"n": 1, "wait": True}])
async def test_a_turn_that_cannot_be_is_refused(index: Index, wish: dict[str, Any]) -> None:
    """Bounds of a call are checked before it is sent."""
    with pytest.raises(ValueError, match="next"):
        await index.next("q", **wish)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("push", ["", "", 1, "c", "q", 1, ANN, "2", task(1), "12"]),
        ("push", ["", "", 1, "c", "q", 1, ANN, "7", task(1), "0" * 16]),
        ("push", ["", "", 1, "c", "q", 2, ANN, "2", task(1), "0" * 16]),
        ("push", ["x", "", 1, "c", "q", 0]),
        ("next", ["", 1, 1, b"t" * 16, "", 0, 1, "c", "q", 1, 0, 0, b"short"]),
        ("next", ["", 1, "many", b"t" * 16, "", 0, 1, "c", "q", 0, 0, 0, b""]),
        ("next", ["", 1, 1, b"short", "", 0, 1, "c", "q", 0, 0, 0, b""]),
        ("take", ["", 1, 1, b"short", ANN, 0]),
        ("take", ["", 1, 1, b"t" * 16, ANN]),
    ],
)
async def test_a_script_checks_before_it_writes(index: Index, name: str, arguments: list[Any]) -> None:
    """Arguments that do not fit, from another version say, are refused before the first write."""
    await index.push("q", [entry(1)])
    before = await keys(index)
    with pytest.raises(ResponseError, match=f"taskmill: {name}"):
        await index._evaluate(name, index._key("q"), arguments)
    assert await keys(index) == before
    assert ids(await index.next("q", n=5)) == [1]
