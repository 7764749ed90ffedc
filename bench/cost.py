"""What one task costs on each resource: processor time, statements, commits, log bytes, disk, network, memory.

    python bench/cost.py --rounds 5

It starts a MySQL and a Redis of its own (bench/private.py), so that their counters are this benchmark's alone, and runs
the real processes of the product. What is shown is the median of the rounds, with the least and the most behind it. From
the costs it predicts two things that the same run measures: the cost with 25 slots, and a ratio of two rates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import private
from common import ask, describe, middle, own_database, resident, run
from counters import Reading, Spent, sizes
from installation import Installation

from taskmill.runtime import logs
from taskmill.tasks.mill import Mill
from taskmill.upkeep.fold import fold_journal, trim_journal
from taskmill.upkeep.options import UpkeepOptions
from taskmill.upkeep.promote import promote_due
from taskmill.upkeep.scheduler import retain_once
from taskmill.upkeep.verify import Verifier

TABLES: Final = ("tasks", "task_payloads", "journal", "counts")
FEW, SOME, MANY = 5, 25, 200
"""Slots of a worker: the smallest and the largest are measured to predict the one between."""
CALL: Final = 1000
"""Tasks of one createTasks."""
PADDING: Final = 4096
SUBSCRIBERS: Final = 20
BURST: Final = 200
IDLE_SECONDS: Final = 10.0
PURGED: Final = 5.0
"""Seconds after which MySQL has cleared away what was deleted."""

Found = dict[str, dict[str, float]]
"""Phase → quantity → how much of it for each task."""


class Round:
    """The phases, in an order in which each finds what the one before has left."""

    def __init__(self, site: Installation, scale: float) -> None:
        self._site = site
        self._scale = scale
        self._tasks = 0
        self.found: Found = {}

    @asynccontextmanager
    async def phase(self, name: str, n: float = 1.0, *, here: bool = False) -> AsyncIterator[Spent]:
        """What happens inside of it, for each of n tasks. `here`: in this process, by the scheduler's own functions."""
        async with self._site.meter.measured() as spent:
            began, used = time.perf_counter(), time.process_time()
            spent.n = n
            yield spent
            seconds = time.perf_counter() - began
            if here:
                spent.more["cpu scheduler"] = time.process_time() - used
        self.found[name] = {key: spent.each(key) for key in spent.cost}
        self.found[name]["rate"] = spent.n / seconds

    async def all(self) -> Found:
        site = self._site
        async with site.api():
            await self._create()
            await self._drain("5 slots", FEW)
            await self._fold("rows of few changes")
            await site.create_many(self._count(8), CALL)
            await self._drain("25 slots", SOME)
            await self._fold_unmeasured()
            await self._create_many()
            await self._refill()
            await self._drain("200 slots", MANY)
            await self._fold("rows of 200 changes")
            await self._disk("kept")
            await self._large()
            await self._fold_unmeasured()
            await self._promote()
            await self._together()
            await self._polls()
        await self._retention()
        await asyncio.sleep(PURGED)
        await self._disk("after retention")
        return self.found

    def _count(self, n: int) -> int:
        return max(1, round(n * self._scale))

    async def _create(self) -> None:
        await self._site.create(32, 4)  # the first requests compile what they need
        await self._site.create_many(1, CALL)
        for name, many, connections in (("one by one, 1", 1000, 1), ("one by one, 32", 4000, 32)):
            n = self._count(many) // connections * connections
            async with self.phase(name, n):
                await self._site.create(n, connections)

    async def _create_many(self) -> None:
        calls = self._count(20)
        async with self.phase("createTasks", calls * CALL):
            await self._site.create_many(calls, CALL)

    async def _large(self) -> None:
        size = CALL // 2
        calls = self._count(6)
        async with self.phase("createTasks, 4 KiB", calls * size):
            await self._site.create_many(calls, size, padding=PADDING)
        await self._drain("200 slots, 4 KiB", MANY)

    async def _drain(self, name: str, slots: int) -> None:
        left = "SELECT COUNT(*) FROM tasks WHERE status IN (1, 2, 3)"
        async with self._site.worker(slots), self.phase(f"run, {name}") as spent:
            # A few were claimed before the first look: the worker is faster than we are.
            spent.n = await self._site.count(left)
            await self._site.done()

    async def _fold(self, name: str) -> None:
        n = await self._site.count("SELECT COUNT(*) FROM journal WHERE folded = 0")
        async with self._site.mill("scheduler") as mill:
            await fold_journal(mill, 1)
            async with self.phase(f"fold, {name}", n - 1, here=True):
                await _fold_all(mill)

    async def _fold_unmeasured(self) -> None:
        async with self._site.mill("scheduler") as mill:
            await _fold_all(mill)

    async def _refill(self) -> None:
        """The index is lost, and filled again from SQL."""
        site = self._site
        n = await site.count("SELECT COUNT(*) FROM tasks WHERE status = 2")
        async with site.mill("scheduler") as mill:
            assert mill.index is not None
            verifier = Verifier(mill, mill.index, UpkeepOptions(verify_grace=0.0, verify_late=0.0))
            await site.lose_index()
            async with self.phase("refill of the index", n, here=True):
                while not await verifier.run_once():
                    pass

    async def _promote(self) -> None:
        """Tasks that have become due."""
        site, calls = self._site, self._count(4)
        due = datetime.now(UTC) + timedelta(seconds=20)
        await site.create_many(calls, CALL, due=due)
        await asyncio.sleep((due - datetime.now(UTC)).total_seconds() + 0.5)
        size = UpkeepOptions().batch
        async with site.mill("scheduler") as mill, self.phase("promote", calls * CALL, here=True):
            while not await promote_due(mill, size, 1.0):
                pass
            await mill.flush()

    async def _together(self) -> None:
        """All processes at once, as in production; then nothing to do; then with subscribers."""
        site, calls = self._site, self._count(10)
        async with site.worker(MANY), site.scheduler():
            await site.create_many(1, 100)
            await site.done()
            await site.folded()
            async with self.phase("together", calls * CALL):
                await site.create_many(calls, CALL)
                await site.done()
                await site.folded()
            self.found["held"] = {
                f"MiB of {kind}": sum(resident(pid) for pid in site.processes[kind]())
                for kind in ("api", "worker", "runner", "scheduler")
            } | await site.meter.connections()
            async with self.phase("idle, for a second", IDLE_SECONDS):
                await asyncio.sleep(IDLE_SECONDS)
            await self._subscriptions()

    async def _subscriptions(self) -> None:
        """Bursts below a subscriber's buffer of 1,000 tasks; what the same bursts cost without subscribers is left out."""
        site, bursts = self._site, self._count(10)
        api = []
        for n in (0, SUBSCRIBERS):
            async with site.subscribers(n) as updates, site.meter.measured() as spent:
                for _ in range(bursts):
                    await site.create_many(1, BURST)
                    await site.done()
                    got = -1
                    while got < updates():
                        got = updates()
                        await asyncio.sleep(0.3)
            api.append(spent.cost["cpu api"])
        self.found["updates"] = {
            "cpu api": (api[1] - api[0]) / got,
            "updates of a task": got / (SUBSCRIBERS * bursts * BURST),
        }

    async def _polls(self) -> None:
        n = self._count(2000) // 8 * 8
        async with self.phase("poll of a task", n):
            await self._site.poll(n, 8)

    async def _disk(self, name: str) -> None:
        n = self._tasks = await self._site.count("SELECT COUNT(*) FROM tasks") or self._tasks
        leaves, files = await sizes(self._site.connection, TABLES)
        found: Reading = {f"bytes of {table}": leaves[table] / n for table in TABLES}
        found |= {f"file of {table}": files[table] / n for table in TABLES}
        found["journal rows"] = await self._site.count("SELECT COUNT(*) FROM journal") / n
        self.found[f"disk, {name}"] = found

    async def _retention(self) -> None:
        n = self._tasks = await self._site.count("SELECT COUNT(*) FROM tasks")
        await ask(self._site.connection, "UPDATE tasks SET check_at = check_at - INTERVAL 31 DAY")
        async with self._site.mill("scheduler") as mill:
            async with self.phase("retention", n, here=True):
                while await retain_once(mill, UpkeepOptions()):
                    pass
            await _fold_all(mill)
            low: int | None = 0
            while low is not None:
                low = await trim_journal(mill, low, age=0.0, rows=0, n=500)


async def _fold_all(mill: Mill) -> None:
    size = UpkeepOptions().batch
    while await fold_journal(mill, size) >= size:
        pass


# -- what is shown --------------------------------------------------------------------------------------------

SHOWN: Final = {
    "µs": ("cpu api", "cpu worker", "cpu runner", "cpu scheduler", "cpu mysqld", "cpu redis"),
    "": (
        "statements",
        "commits",
        "rows inserted",
        "rows updated",
        "rows deleted",
        "rows read",
        "redo fsyncs",
        "binlog fsyncs",
        "redis calls",
        "redis commands",
    ),
    "B": (
        "redo bytes",
        "binlog bytes",
        "InnoDB bytes",
        "to MySQL",
        "from MySQL",
        "to Redis",
        "from Redis",
        "redis memory",
    ),
}
KNOWN: Final = {name: unit for unit, names in SHOWN.items() for name in names}
CHECKED: Final = (
    "cpu worker",
    "cpu mysqld",
    "cpu redis",
    "statements",
    "commits",
    "redo bytes",
    "binlog bytes",
    "redis calls",
)


def show(rounds: list[Found]) -> None:
    for phase in rounds[0]:
        print(f"\n{phase}")
        names = [name for name in KNOWN if name in rounds[0][phase]]
        for name in [*names, *(name for name in rounds[0][phase] if name not in KNOWN)]:
            values = [found[phase].get(name, 0.0) for found in rounds]
            if any(values):
                factor = 1e6 if KNOWN.get(name) == "µs" else 1.0
                shown = [f"{factor * value:,.4g}" for value in (middle(values), min(values), max(values))]
                unit = KNOWN.get(name, "")
                print(f"  {name:26} {shown[0]:>12} {unit:2}  ({shown[1]} to {shown[2]})")


def check(rounds: list[Found]) -> None:
    """With b tasks in a cycle a task costs `own + cycle / b`: two numbers of slots give both, a third must agree."""
    print(f"\nprediction: {SOME} slots, from {FEW} and {MANY}")
    for name in CHECKED:
        few, some, many = (
            middle([f[f"run, {slots} slots"].get(name, 0.0) for f in rounds]) for slots in (FEW, SOME, MANY)
        )
        cycle = (few - many) / (1 / FEW - 1 / MANY)
        own = many - cycle / MANY
        unit = KNOWN[name]
        factor = 1e6 if unit == "µs" else 1.0
        predicted = own + cycle / SOME
        print(
            f"  {name:14} a task {factor * own:8,.4g} {unit:2} + a cycle {factor * cycle:8,.4g} {unit:2}:"
            f" predicted {factor * predicted:8,.4g}, measured {factor * some:8,.4g}"
            f"   measured / predicted {some / predicted:.2f}"
        )
    ratios = [f["one by one, 32"]["cpu api"] / f["createTasks"]["cpu api"] for f in rounds]
    measured = [f["createTasks"]["rate"] / f["one by one, 32"]["rate"] for f in rounds]
    print(
        "prediction: how many times faster one API process takes tasks by createTasks, from its processor time"
    )
    print(
        f"  predicted {middle(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}),"
        f" measured {middle(measured):.1f} ({min(measured):.1f} to {max(measured):.1f})"
    )


async def one_round(options: argparse.Namespace, mysql: private.Server, redis: private.Server) -> Found:
    async with own_database(mysql.mysql()) as url:
        site = Installation(mysql, redis.redis, url.rpartition("/")[2], f"tmb{secrets.token_hex(5)}")
        async with site.open(redis):
            if options.partitions > 1:
                await site.partition(options.partitions)
            return await Round(site, options.scale).all()


async def main(options: argparse.Namespace) -> int:
    logs.configure("console", "WARNING", stream=sys.stderr)
    with private.mysql(*(f"--{setting}" for setting in options.mysql)) as mysql, private.redis() as redis:
        for line in await describe(mysql.mysql(), redis.redis):
            print(line)
        print(f"command  {' '.join(['bench/cost.py', *sys.argv[1:]])}", flush=True)
        rounds = [json.loads(line) for line in options.file.read_text().splitlines()] if options.file else []
        for k in range(options.rounds):
            began = time.monotonic()
            rounds.append(await one_round(options, mysql, redis))
            if options.file:
                with options.file.open("a") as file:
                    file.write(json.dumps(rounds[-1]) + "\n")
            print(f"round {k + 1}  {time.monotonic() - began:.0f} s", flush=True)
    show(rounds)
    check(rounds)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many tasks")
    parser.add_argument(
        "--file", type=Path, help="rounds, a line each: those in it are shown too, new ones added"
    )
    parser.add_argument("--partitions", type=int, default=1, help="of tasks and their payloads, by time")
    parser.add_argument(
        "--mysql", action="append", default=[], metavar="NAME=VALUE", help="a setting of the MySQL server"
    )
    options = parser.parse_args()
    if options.file:
        options.file.touch()
    return options


if __name__ == "__main__":
    sys.exit(run(main(arguments())))
