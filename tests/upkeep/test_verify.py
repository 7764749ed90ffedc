"""verify, and the claim over an index: whatever happens to the index, every QUEUED task is offered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from taskmill.errors import IndexUnavailable
from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index, Pushed
from taskmill.model.ids import new_id
from taskmill.model.state import Status
from taskmill.sql.engine import Database
from taskmill.tasks.cancel import cancel
from taskmill.tasks.claimer import Claimer
from taskmill.upkeep import scheduler as scheduler_module
from taskmill.upkeep import verify as verify_module
from taskmill.upkeep.options import UpkeepOptions
from taskmill.upkeep.scheduler import Scheduler
from taskmill.upkeep.verify import Verifier, drop_dead
from tests.support import RedisServer, wait_until
from tests.tasks.kit import ANN, BOB, REGISTRY, World, new

OPTIONS = UpkeepOptions(verify_grace=0.0, verify_late=0.0)


class Indexed(World):
    """A world with an index that nothing was offered to: only verify pushes, unless a test does."""

    index: Index

    def claimer(self) -> Claimer:
        return Claimer(self.mill, new_id(), ["default"], REGISTRY)

    async def quietly(self, *tasks: object, n: int = 1) -> list[bytes]:
        """Submit as if the process had died before its push."""
        offer, self.mill.offer = self.mill.offer, lambda rows: None  # type: ignore[method-assign]
        try:
            return [r.id for r in await self.submit(*tasks, n=n)]  # type: ignore[arg-type]
        finally:
            self.mill.offer = offer  # type: ignore[method-assign]

    async def proposed(self, queue: str = "default") -> set[bytes]:
        """Everything the index proposes; it is given back."""
        answer = await self.index.next(queue, n=1000)
        await self.index.next(queue, n=0, give_back=answer.reserved)
        return {r.id for r in answer.reserved}


@pytest.fixture
async def indexed(database: Database, private_redis: RedisServer) -> AsyncIterator[Indexed]:
    index = Index(IndexOptions(private_redis.url, timeout=2.0))
    world = Indexed(database, index=index)
    world.index = index
    yield world
    await world.submitter.drain()
    await world.mill.flush()
    await index.aclose()


async def turns(verifier: Verifier, n: int = 5) -> None:
    for _ in range(n):
        await verifier.run_once()


async def test_an_empty_index_is_filled(indexed: Indexed) -> None:
    """No generation: verify sets one, pushes every QUEUED row of every queue and user, and ends the filling."""
    ids = set(await indexed.quietly(n=5))
    ids |= set(await indexed.quietly(new(user_id=BOB)))
    mail = set(await indexed.quietly(new(queue="mail")))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await turns(verifier)
    assert await indexed.proposed() == ids
    assert await indexed.proposed("mail") == mail
    answer = await indexed.index.next("default", n=0)
    assert answer.generation is not None
    assert not answer.filling
    assert verifier.queues == ["default", "mail"]


async def test_a_queue_that_is_empty_and_unserved_is_forgotten(indexed: Indexed) -> None:
    """Users choose the names of queues, and each costs a call a turn; a task that comes to it again is offered all the
    same."""
    [row] = await indexed.quietly(new(queue="once"))
    kept = set(await indexed.quietly(n=3))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await turns(verifier)
    assert verifier.queues == ["default", "once"]
    await cancel(indexed.mill, row, ANN)
    for _ in range(2):  # a whole walk lies between the two
        verifier._full_at = 0.0
        await turns(verifier)
    assert verifier.queues == ["default"]
    [again] = await indexed.quietly(new(queue="once"))
    await turns(verifier)
    assert again in await indexed.proposed("once")
    assert not (await indexed.index.next("once", n=0)).filling
    assert await indexed.proposed() == kept


async def test_a_row_that_was_never_pushed_is_repaired(indexed: Indexed) -> None:
    """Committed, and the process died before its push: offered by the next walk, and counted as a repair."""
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await indexed.quietly()
    await turns(verifier)
    [lost] = await indexed.quietly()
    assert lost not in await indexed.proposed()
    await turns(verifier, 2)
    assert lost in await indexed.proposed()
    assert indexed.mill.probes.registry.get_sample_value("index_repairs_total") == 1


async def test_a_flushed_index_is_refilled(indexed: Indexed, private_redis: RedisServer) -> None:
    """FLUSHALL: a new generation, everything again, and it counts as a refill."""
    ids = set(await indexed.quietly(n=5))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await turns(verifier)
    await indexed.index._client.flushall()
    await turns(verifier)
    assert await indexed.proposed() == ids
    assert not (await indexed.index.next("default", n=0)).filling
    assert indexed.mill.probes.registry.get_sample_value("index_refills_total") == 2


async def test_a_flush_in_the_middle_of_a_walk(indexed: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation goes between two pages: nothing of the first page is missing at the end."""
    monkeypatch.setattr(verify_module, "PAGE", 4)
    ids = set(await indexed.quietly(n=20))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    push, pages = indexed.index.push, 0

    async def flushing(*args: object, **kw: object) -> Pushed:
        nonlocal pages
        pages += 1
        if pages == 3:
            await indexed.index._client.flushall()
        return await push(*args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(indexed.index, "push", flushing)
    await turns(verifier, 8)
    assert pages > 5
    assert await indexed.proposed() == ids


async def test_a_server_that_lost_entries_and_kept_its_generation(
    indexed: Indexed, private_redis: RedisServer
) -> None:
    """A failover keeps the generation and loses entries: a new run id sets the cursor to 0."""
    ids = set(await indexed.quietly(n=5))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await turns(verifier)
    client = indexed.index._client
    generation = (await indexed.index.next("default", n=0)).generation
    kept = await client.dump("{taskmill/default}:g")
    private_redis.kill()
    private_redis.start()
    await wait_until(lambda: _restored(client, kept))
    assert (await indexed.index.next("default", n=0)).generation == generation
    assert await indexed.proposed() == set()
    await turns(verifier)
    assert await indexed.proposed() == ids


async def _restored(client: Any, value: bytes | None) -> bool:
    """The first calls still meet the connections that the server took with it."""
    try:
        return bool(await client.restore("{taskmill/default}:g", 0, value, replace=True))
    except (OSError, redis.exceptions.RedisError):
        return False


async def test_a_page_that_was_not_taken_is_walked_again(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push that failed leaves the cursor where it was."""
    ids = set(await indexed.quietly(n=5))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    push, failures = indexed.index.push, [True, True]

    async def refusing(*args: object, **kw: object) -> Pushed:
        if failures:
            failures.pop()
            raise IndexUnavailable("full")
        return await push(*args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(indexed.index, "push", refusing)
    for _ in range(2):
        with pytest.raises(IndexUnavailable):
            await verifier.run_once()
    await turns(verifier)
    assert await indexed.proposed() == ids


async def test_a_queue_that_is_first_met_does_not_restart_the_walk(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users choose the names of queues: a walk over all rows for each new name would cost them little and us much."""
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await indexed.quietly(n=3)
    await turns(verifier)
    restarts: list[int] = []
    monkeypatch.setattr(verifier, "_restart", lambda: restarts.append(1))
    [row] = await indexed.submit(new(queue="fresh"))
    await turns(verifier)
    assert restarts == []
    found = await indexed.index.next("fresh", n=5)
    assert [r.id for r in found.reserved] == [row.id]
    assert not found.filling


async def test_a_reservation_does_not_count_as_present(indexed: Indexed) -> None:
    """Reserved by somebody, and not in ready: verify pushes it all the same."""
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    [task] = await indexed.quietly()
    await turns(verifier)
    reserved = await indexed.index.next("default", n=1)
    assert [r.id for r in reserved.reserved] == [task]
    verifier._restart()
    await turns(verifier, 2)
    assert task in await indexed.proposed()


async def test_a_late_commit_is_found_by_the_second_cursor(indexed: Indexed) -> None:
    """A row that becomes visible behind the first cursor: the one behind the longest transaction offers it."""
    verifier = Verifier(indexed.mill, indexed.index, UpkeepOptions(verify_grace=0.0, verify_late=20.0))
    await indexed.quietly()
    await turns(verifier)
    [late] = await indexed.quietly()
    await indexed.age(late, 25)
    await turns(verifier, 3)
    assert late in await indexed.proposed()


async def test_a_generation_that_went_while_filling_is_forgotten(indexed: Indexed) -> None:
    """A queue whose index was lost in its filling, and whose tasks are gone meanwhile, does not stop verify."""
    [other] = await indexed.quietly(new(queue="other"))
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await verifier.run_once()  # it meets the queue
    push = indexed.index.push

    async def losing(*args: object, **kw: object) -> Pushed:
        await indexed.index._client.flushall()
        await cancel(indexed.mill, other, ANN)
        return await push(*args, **kw)  # type: ignore[arg-type]

    indexed.index.push = losing  # type: ignore[method-assign]
    await verifier.run_once()
    indexed.index.push = push  # type: ignore[method-assign]
    await turns(verifier, 3)
    [task] = await indexed.quietly()
    await turns(verifier, 3)
    assert await indexed.proposed() == {task}


async def test_the_pass_over_dead_entries_goes_on_where_it_stopped(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue at which a turn fails, or takes too long, does not keep the next turn from the queues behind it."""
    await indexed.quietly(*(new(queue=queue) for queue in ("a", "b", "c")))
    scheduler = Scheduler(indexed.mill, OPTIONS)
    assert scheduler.verifier is not None
    await turns(scheduler.verifier)
    asked: list[str] = []

    async def failing(_: object, __: object, queue: str) -> int:
        asked.append(queue)
        if asked == ["a", "b"]:
            raise IndexUnavailable("away")
        return 0

    monkeypatch.setattr(scheduler_module, "drop_dead", failing)
    with pytest.raises(IndexUnavailable):
        await scheduler._dead()
    await scheduler._dead()
    assert asked == ["a", "b", "c"]
    await scheduler._dead()
    assert asked[3:] == ["a", "b", "c"]


async def test_dead_entries_are_dropped_and_live_ones_given_back(indexed: Indexed) -> None:
    """A cancelled task leaves the index by take, SQL and drop; nothing else leaves it."""
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    dead, alive = await indexed.quietly(n=2)
    [bobs] = await indexed.quietly(new(user_id=BOB))
    await turns(verifier)
    await cancel(indexed.mill, dead, ANN)
    assert await drop_dead(indexed.mill, indexed.index, "default") == 1
    assert await indexed.proposed() == {alive, bobs}


# ---- the claim over an index --------------------------------------------------------------------------------------


async def test_a_submitted_task_is_offered_and_claimed_over_the_index(indexed: Indexed) -> None:
    """submit pushes after its commit; the claimer reserves, SQL decides, the entry is confirmed away."""
    await turns(Verifier(indexed.mill, indexed.index, OPTIONS))
    await indexed.index.reset("default", b"g" * 16)
    await indexed.index.warm("default", b"g" * 16)
    rows = await indexed.submit(n=3)
    await indexed.mill.flush()
    claimer = indexed.claimer()
    claimed = await claimer.claim(3, suspects=0)
    assert {c.id for c in claimed} == {r.id for r in rows}
    assert await indexed.proposed() == set()
    await claimer.close()
    assert await indexed.index._client.zcard("{taskmill/default}:v") == 0


async def test_debts_that_a_claim_pays_meanwhile_are_not_paid_twice(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one queue is told what it is owed, a claim pays the other one: both are told once, nothing fails."""
    claimer = Claimer(indexed.mill, new_id(), ["a", "b"], REGISTRY)
    for queue in ("a", "b"):
        await indexed.index.reset(queue, b"g" * 16)
        await indexed.index.warm(queue, b"g" * 16)
        await indexed.submit(new(queue=queue))
    await indexed.mill.flush()
    assert len(await claimer.claim(2, suspects=0)) == 2
    tell, told = indexed.index.next, []

    async def slow(queue: str, **how: Any) -> Any:
        if how.get("confirm"):
            told.append(queue)
        if len(told) == 1 and how["n"] == 0:
            await claimer.claim(1, suspects=0)
        return await tell(queue, **how)

    monkeypatch.setattr(indexed.index, "next", slow)
    await claimer.settle_up()
    assert sorted(told) == ["a", "b"]
    await claimer.close()
    for queue in ("a", "b"):
        assert await indexed.index._client.zcard(f"{{taskmill/{queue}}}:v") == 0


async def test_without_a_generation_and_while_it_fills_sql_is_asked_too(indexed: Indexed) -> None:
    """No index yet, or a partial one: no task waits for the end of a refill."""
    [first] = await indexed.quietly()
    claimer = indexed.claimer()
    assert [c.id for c in await claimer.claim(1, suspects=0)] == [first]
    await indexed.index.reset("default", b"g" * 16)
    [second] = await indexed.quietly()
    assert [c.id for c in await claimer.claim(1, suspects=0)] == [second]


async def test_a_cancelled_entry_is_dropped_by_the_claim(indexed: Indexed) -> None:
    """The index proposes it, SQL says no, the entry goes; the slot is used by the next call."""
    await indexed.index.reset("default", b"g" * 16)
    await indexed.index.warm("default", b"g" * 16)
    [row] = await indexed.submit()
    await indexed.mill.flush()
    await cancel(indexed.mill, row.id, ANN)
    claimer = indexed.claimer()
    assert await claimer.claim(1, suspects=0) == []
    await claimer.settle_up()
    assert await indexed.proposed() == set()
    assert await indexed.index._client.zcard("{taskmill/default}:v") == 0


async def test_a_suspect_without_room_waits_with_its_reservation(indexed: Indexed) -> None:
    """It is parked, claimed when there is room, and given back when the worker closes."""
    await indexed.index.reset("default", b"g" * 16)
    await indexed.index.warm("default", b"g" * 16)
    rows = await indexed.submit(n=2)
    await indexed.mill.flush()
    for row in rows:
        await indexed.set(row.id, suspect=1)
    claimer = indexed.claimer()
    assert await claimer.claim(2, suspects=0) == []
    assert len(await claimer.claim(2, suspects=1)) == 1
    await claimer.close()
    left = {r.id for r in await indexed.rows() if r.status is Status.QUEUED}
    assert await indexed.proposed() == left


async def test_an_index_that_is_gone_leaves_sql(indexed: Indexed, private_redis: RedisServer) -> None:
    """The server is killed: claims go on from SQL, and what comes back empty is filled."""
    verifier = Verifier(indexed.mill, indexed.index, OPTIONS)
    await turns(verifier)
    private_redis.kill()
    [first, second] = [(await indexed.submit())[0].id for _ in range(2)]
    await indexed.mill.flush()
    assert [c.id for c in await indexed.claimer().claim(1, suspects=0)] == [first]
    private_redis.start()
    for _ in range(100):
        try:
            await turns(verifier, 3)
            break
        except IndexUnavailable:
            await indexed.index._probe("")
    assert await indexed.proposed() == {second}
