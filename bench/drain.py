"""How fast tasks that do nothing are claimed, run and settled, against the bare floor of the same run.

    python bench/drain.py --url mysql://user:pass@host/db --redis redis://host --tasks 20000 --concurrency 200 --rounds 3

Rounds alternate, in databases of their own on that server: the floor (bench/floor.py), then Taskmill: tasks submitted
beforehand through the Submitter, one real `taskmill worker` with its runner child, from its first claim to its last
settle by the database's clock. With --url sqlite:///file the whole of `taskmill up` drains, without a floor.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import floor
from common import (
    UNFINISHED,
    ask,
    children,
    connect,
    cpu,
    describe,
    free_port,
    middle,
    own_database,
    own_keys,
    product,
    resident,
    run,
    until,
)
from redis.asyncio import Redis

from taskmill.index.connect import IndexOptions
from taskmill.index.connect import connect as connect_index
from taskmill.index.index import Index
from taskmill.index.wake import LocalBell
from taskmill.model.ids import new_id, new_op
from taskmill.model.task import NewTask
from taskmill.runtime import logs
from taskmill.runtime.probes import Probes
from taskmill.sql import migrate
from taskmill.sql.engine import SqlOptions, open_database
from taskmill.tasks.mill import Mill, TaskOptions
from taskmill.tasks.submit import Submitter

USERS: Final = 10
LONGEST: Final = 300.0
"""Seconds that one round may take."""


@dataclass
class Round:
    seconds: float
    cpu: tuple[float, float] = (0.0, 0.0)
    """Seconds of processor time: the supervisor's, its runner's."""
    batches: tuple[float, float] = (0.0, 0.0)
    """Tasks in a claim, tasks in a settle: the mean."""
    memory: list[tuple[float, float, float]] = field(default_factory=list)
    """Seconds, MiB of the supervisor, MiB of its runner."""


async def submit(url: str, redis_url: str | None, prefix: str, n: int) -> None:
    """n tasks in the record and, when there is one, in a warm index."""
    db = await open_database(SqlOptions(url))
    index = None
    try:
        await migrate.migrate(db)
        if redis_url:
            options = IndexOptions(redis_url, prefix=prefix)
            index = Index(options, connect_index(options))
            generation = await index.reset("default", new_op())
            await index.warm("default", generation)
        mill = Mill(db, index, LocalBell(), TaskOptions(), Probes(), Random(1))
        submitter = Submitter(mill)
        users = [new_id() for _ in range(USERS)]
        tasks = [NewTask(user_id=users[i % USERS], title="bench", payload="{}") for i in range(n)]
        for start in range(0, n, 5000):
            parts = [tasks[s : s + 500] for s in range(start, min(n, start + 5000), 500)]
            await asyncio.gather(*(submitter.submit(part) for part in parts))
            await mill.flush()
        if redis_url and await indexed(redis_url, prefix) != n:
            raise AssertionError("the index did not take every task")
    finally:
        if index:
            await index.aclose()
        await db.close()


async def indexed(redis_url: str, prefix: str) -> int:
    """Tasks that are ready in the index: one sorted set for each user that has some (INDEX.md)."""
    redis = Redis.from_url(redis_url)
    try:
        return sum([await redis.zcard(key) async for key in redis.scan_iter(f"{{{prefix}/default}}:r*")])
    finally:
        await redis.aclose()


async def drain(url: str, redis_url: str, n: int, slots: int) -> Round:
    """Taskmill: seconds from the first claim to the last settle of n tasks."""
    async with own_keys(redis_url) as prefix, own_database(url) as mine:
        await submit(mine, redis_url, prefix, n)
        await asyncio.sleep(0.5)  # what the inserts left to do is not the drain's
        environment = {"DATABASE_URL": mine, "REDIS_URL": redis_url, "TASKMILL_INDEX_PREFIX": prefix}
        connection = await connect(mine, autocommit=True)
        done = Round(0.0)
        began = time.monotonic()
        arguments = ("worker", "--app", "noop:app", "--concurrency", str(slots))
        with product(*arguments, environment=environment) as worker:

            async def registered() -> bool:
                return bool(await ask(connection, "SELECT 1 FROM workers LIMIT 1"))

            def used() -> tuple[float, float]:
                return cpu(worker.pid), sum(cpu(pid) for pid in children(worker.pid))

            await until(registered, LONGEST, every=0.01, processes=(worker,))
            before = used()

            async def drained() -> bool:
                left = await ask(connection, UNFINISHED)
                if int(time.monotonic() - began) > len(done.memory):
                    runners = [resident(pid) for pid in children(worker.pid)]
                    done.memory.append((time.monotonic() - began, resident(worker.pid), sum(runners)))
                return left is None

            await until(drained, LONGEST, every=0.1, processes=(worker,))
            after = used()
            done.cpu = after[0] - before[0], after[1] - before[1]
        completed, seconds = await ask(
            connection,
            "SELECT SUM(status = 4 AND attempts = 1 AND fence = 1),"
            " TIMESTAMPDIFF(MICROSECOND, MIN(started_at), MAX(completed_at)) / 1e6 FROM tasks",
        )
        claims, settles = await ask(
            connection, "SELECT SUM(verb = 'claim'), SUM(verb = 'settle') FROM journal"
        )
        done.batches = n / float(claims), n / float(settles)
        await connection.ensure_closed()
        if completed != n:
            raise AssertionError(f"{completed} of {n} tasks completed in one run each")
        done.seconds = float(seconds)
        return done


async def drain_floor(url: str, redis_url: str, n: int, slots: int, lanes: int) -> tuple[float, float]:
    """Seconds, and seconds of this process's processor time."""
    async with own_keys(redis_url) as prefix, own_database(url) as mine:
        return await floor.drain(mine, redis_url, prefix, n, slots, lanes)


async def embedded(n: int, slots: int, folder: Path) -> float:
    """`taskmill up` on SQLite with its own Valkey: seconds from the first claim to the last settle."""
    import sqlite3

    import httpx2

    url = f"sqlite:///{folder / 'taskmill.db'}"
    await submit(url, None, "", n)
    port = free_port()
    environment = {"TASKMILL_DATA": str(folder), "PORT": str(port), "JWT_SECRET": "b" * 40}
    with product("up", "--app", "noop:app", "--concurrency", str(slots), environment=environment) as up:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5.0) as client:

            async def drained() -> bool:
                try:
                    text = (await client.get("/metrics")).text
                except httpx2.HTTPError:
                    return False
                done = [
                    line.split()[1] for line in text.splitlines() if line.startswith("tasks_completed_total")
                ]
                return bool(done) and float(done[0]) >= n

            await until(drained, LONGEST, every=0.25, processes=(up,))
    with sqlite3.connect(folder / "taskmill.db") as connection:
        days = connection.execute(
            "SELECT MAX(julianday(completed_at)) - MIN(julianday(started_at)) FROM tasks WHERE status = 4"
        ).fetchone()[0]
    return float(days) * 86_400


async def main(options: argparse.Namespace) -> int:
    logs.configure("console", "WARNING", stream=sys.stderr)
    n, slots = options.tasks, options.concurrency
    for line in await describe(options.url, options.redis):
        print(line)
    print(f"command  {' '.join(['bench/drain.py', *options.shown])}")
    if options.url.startswith("sqlite"):
        for k in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="tm_bench_") as folder:
                seconds = await embedded(n, slots, Path(folder))
            print(f"round {k + 1}  up, {slots} slots: {n / seconds:8,.0f} tasks/s ({n} in {seconds:.2f} s)")
        return 0
    floors: list[float] = []
    ours: list[float] = []
    for k in range(options.rounds):
        seconds, used = await drain_floor(options.url, options.redis, n, slots, options.lanes)
        bare = n / seconds
        done = await drain(options.url, options.redis, n, slots)
        rate = n / done.seconds
        floors.append(bare)
        ours.append(rate)
        supervisor, runner = (1e6 * seconds / n for seconds in done.cpu)
        print(
            f"round {k + 1}  floor {bare:8,.0f}/s   taskmill {rate:8,.0f}/s   ratio {rate / bare:.3f}   processor time"
            f" a task: floor {1e6 * used / n:.0f} µs, supervisor {supervisor:.0f} µs, runner {runner:.0f} µs   batches: claim"
            f" {done.batches[0]:.1f}, settle {done.batches[1]:.1f}",
            flush=True,
        )
        if options.memory:
            for at, supervisor, runner in done.memory[:: max(1, len(done.memory) // 12)]:
                print(f"         {at:6.1f} s  supervisor {supervisor:6.1f} MiB   runner {runner:6.1f} MiB")
    ratio = middle([o / f for o, f in zip(ours, floors, strict=True)])
    print(
        f"median   floor {middle(floors):8,.0f}/s   taskmill {middle(ours):8,.0f}/s   ratio {ratio:.3f}"
        f"   ({n:,} tasks, {slots} slots, floor with {options.lanes} lanes)"
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", required=True, help="mysql://user:pass@host:port/db or sqlite:///any")
    parser.add_argument("--redis", help="redis://host:port/db; needed with MySQL")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=200, help="slots, of the floor and of the worker")
    parser.add_argument(
        "--lanes", type=int, default=2, help="connections of the floor, which share its slots"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="show the worker's memory during each round")
    options = parser.parse_args()
    if not options.url.startswith("sqlite") and not options.redis:
        parser.error("--redis: expected with MySQL")
    secret = {options.url: "URL", options.redis: "REDIS"}
    options.shown = [secret.get(argument, argument) for argument in sys.argv[1:]]
    return options


if __name__ == "__main__":
    sys.exit(run(main(arguments())))
