"""LocalSource: where a worker's tasks come from, as the supervisor sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import exc
from sqlalchemy.engine import Connection
from structlog.testing import capture_logs

from taskmill.model.task import HandlerSpec, Registry
from taskmill.sql import schema
from taskmill.tasks import workers
from taskmill.tasks.cancel import cancel
from taskmill.tasks.source import LocalSource, SourceOptions
from tests.support import wait_until
from tests.tasks.kit import ANN, DONE, REGISTRY, World, new


@pytest.fixture
async def source(world: World) -> AsyncIterator[LocalSource]:
    source = LocalSource(world.mill, world.submitter, SourceOptions(("default",), 5, "w1", "1"))
    await source.start(REGISTRY)
    yield source
    await source.close()


async def test_a_waiting_claim_is_woken_by_a_submit(world: World, source: LocalSource) -> None:
    """It returns as soon as something is there, long before its time is over."""
    waiting = asyncio.create_task(source.claim(5, suspects=0, wait=20.0))
    await asyncio.sleep(0.05)
    [row] = await world.submit()
    [run] = await asyncio.wait_for(waiting, 5)
    assert run.id == row.id
    assert (await world.row(row.id)).worker_id == source.boot_id
    assert await source.settle([(run, DONE)]) == [True]


async def test_a_claim_comes_back_empty_when_its_time_is_over_or_it_is_poked(source: LocalSource) -> None:
    """[] after `wait` seconds, and at once after a poke."""
    assert await source.claim(5, suspects=0, wait=0.05) == []
    waiting = asyncio.create_task(source.claim(5, suspects=0, wait=20.0))
    await asyncio.sleep(0.05)
    source.poke()
    assert await asyncio.wait_for(waiting, 5) == []


async def test_after_halt_nothing_is_claimed(world: World, source: LocalSource) -> None:
    """A waiting claim ends, and later ones bring nothing."""
    waiting = asyncio.create_task(source.claim(5, suspects=0, wait=20.0))
    await asyncio.sleep(0.05)
    await source.halt()
    assert await asyncio.wait_for(waiting, 5) == []
    await world.submit()
    assert await source.claim(5, suspects=0, wait=0.05) == []


async def test_a_cancel_reaches_its_worker(world: World, source: LocalSource) -> None:
    """The signal names the run."""
    [row] = await world.submit()
    [run] = await source.claim(1, suspects=0, wait=5.0)
    await cancel(world.mill, row.id, ANN)
    assert await asyncio.wait_for(source.cancels(), 5) == [(run.id, run.fence)]


async def test_a_worker_has_a_row_while_it_lives(world: World) -> None:
    """Name, queues and types are there from start to close; what a handler submits goes through it."""
    source = LocalSource(world.mill, world.submitter, SourceOptions(("default", "mail"), 7, "w1", "1"))
    await source.start(REGISTRY)
    [row] = await world.table(schema.workers)
    assert (row.boot_id, row.name, row.slots) == (source.boot_id, "w1", 7)
    assert (row.queues, row.types) == ('["default", "mail"]', '["ONCE", "T", ""]')
    [made] = await source.submit([new()], (b"", 0))
    assert (await world.row(made)).title == "t"
    await source.close()

    async def gone() -> bool:
        return await world.table(schema.workers) == []

    await wait_until(gone)


async def test_a_worker_is_seen_again_whatever_kept_it_from_it(
    world: World, source: LocalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no outage (a password that changed) does not end its beat: its types would be forgotten."""
    refused: list[bytes] = []

    def refuse(_: Connection, boot: bytes, **__: Any) -> None:
        refused.append(boot)
        raise exc.ProgrammingError("UPDATE workers", {}, Exception("denied"))

    with monkeypatch.context() as patch:
        patch.setattr(workers, "register", refuse)
        beat = asyncio.create_task(source._beat())
        await wait_until(lambda: refused)
    await world.db.write(lambda c: workers.leave(c, source.boot_id))

    async def seen() -> bool:
        return bool(await world.table(schema.workers))

    await wait_until(seen)
    beat.cancel()


async def test_workers_that_differ_in_types_are_warned_about(world: World) -> None:
    """At the start of the second, by queue, with the types that not all of them know."""
    options = SourceOptions(("default", "mail"), 5, "w", "1")
    first = LocalSource(world.mill, world.submitter, SourceOptions(("default",), 5, "w", "1"))
    second = LocalSource(world.mill, world.submitter, options)
    with capture_logs() as logs:
        await first.start(REGISTRY)
        assert logs == []
        await second.start(Registry((HandlerSpec("T"), HandlerSpec("NEW"))))
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert (line["queue"], line["types"]) == ("default", ["", "NEW", "ONCE"])
    for source in (first, second):
        await source.close()
