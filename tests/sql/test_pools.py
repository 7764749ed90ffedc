"""What is shown of the connections, on every engine."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from sqlalchemy.engine import Connection

from taskmill.runtime.probes import Probes
from tests.support import wait_until
from tests.tasks.kit import World


def states(probes: Probes, pool: str) -> dict[str, float]:
    [metric] = probes.database_connections.collect()
    return {s.labels["state"]: s.value for s in metric.samples if s.labels["pool"] == pool}


def waits(probes: Probes, pool: str, name: str = "count") -> float:
    value = probes.registry.get_sample_value(f"database_wait_seconds_{name}", {"pool": pool})
    assert value is not None
    return value


def shown(world: World) -> Probes:
    probes = Probes()
    world.db.show(probes)
    return probes


def none_in_use(probes: Probes, pool: str) -> bool:
    return states(probes, pool)["in_use"] == 0


async def test_a_connection_in_use_is_seen(world: World) -> None:
    """While a unit runs, and not any more when it has ended; the three states are together what the pool may have."""
    probes = shown(world)
    limit = 1 if world.db.kind == "sqlite" else world.db.options.pool_size
    for pool, run, held in (("write", world.db.write, [0.0]), ("read", world.db.snapshot, [0.0])):

        def unit(c: Connection, pool: str = pool, held: list[float] = held) -> None:
            held[0] = states(probes, pool)["in_use"]
            c.exec_driver_sql("SELECT 1")

        await run(unit)
        assert held == [1]
        await wait_until(partial(none_in_use, probes, pool))
        assert sum(states(probes, pool).values()) == limit


async def test_each_unit_tells_how_long_it_waited(world: World) -> None:
    """Once for a write, a read and a snapshot."""
    probes = shown(world)
    await world.db.write(lambda c: c.exec_driver_sql("SELECT 1"))
    await world.db.read(lambda c: c.exec_driver_sql("SELECT 1"))
    await world.db.snapshot(lambda c: c.exec_driver_sql("SELECT 1"))
    assert (waits(probes, "write"), waits(probes, "read")) == (1, 2)


async def test_an_exhausted_pool_makes_units_wait(world: World) -> None:
    """All connections are in use, none is idle, and what waits for one says so: also a unit that gave up."""
    ended: list[float] = []

    def hold(c: Connection) -> None:
        if world.db.kind == "sqlite":
            time.sleep(0.2)
        else:
            c.exec_driver_sql("SELECT SLEEP(0.2)").all()
        ended.append(time.perf_counter())

    probes = shown(world)
    limit = 1 if world.db.kind == "sqlite" else world.db.options.pool_size
    holders = [asyncio.create_task(world.db.read(hold)) for _ in range(limit)]
    await wait_until(lambda: states(probes, "read")["in_use"] == limit)
    assert states(probes, "read") == {"in_use": limit, "idle": 0, "unopened": 0}
    before, began = waits(probes, "read", "sum"), time.perf_counter()
    await world.db.read(lambda c: c.exec_driver_sql("SELECT 1"))
    await asyncio.gather(*holders)
    assert waits(probes, "read", "sum") - before > (min(ended) - began) / 2
