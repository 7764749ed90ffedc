"""Many tasks through the distributed set-up, every one of them accounted for.

    python bench/accounted.py --url mysql://user:pass@host/db --redis redis://host --tasks 100000

Two workers and two schedulers as processes of their own; tasks come in while they run. Afterwards each task must be
COMPLETED with its own result, have run once by the effect file, and have exactly three changes in the journal; the
folded counts must say the same. Memory of the workers is shown on the way: it must stay flat.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Final

from common import (
    UNFINISHED,
    UNFOLDED,
    ask,
    children,
    connect,
    describe,
    own_database,
    own_keys,
    product,
    resident,
    run,
    until,
)

from taskmill.index.connect import IndexOptions
from taskmill.index.connect import connect as connect_index
from taskmill.index.index import Index
from taskmill.index.wake import LocalBell
from taskmill.model.ids import new_id
from taskmill.model.task import NewTask
from taskmill.runtime import logs
from taskmill.runtime.probes import Probes
from taskmill.sql import migrate
from taskmill.sql.engine import SqlOptions, open_database
from taskmill.tasks.journal import decode
from taskmill.tasks.mill import Mill, TaskOptions
from taskmill.tasks.submit import Submitter

LONGEST: Final = 1800.0
PATH: Final = [(None, 2, 0), (2, 3, 1), (3, 4, 1)]
"""What the journal must say of a task: (from, to, fence) of submit, claim and settle."""


async def submit_all(url: str, redis_url: str, prefix: str, n: int) -> list[bytes]:
    """n tasks, in calls of 250, each call when the one before was answered. Their ids, by payload."""
    db = await open_database(SqlOptions(url))
    options = IndexOptions(redis_url, prefix=prefix)
    index = Index(options, connect_index(options))
    mill = Mill(db, index, LocalBell(), TaskOptions(), Probes(), Random(1))
    submitter = Submitter(mill)
    users = [new_id() for _ in range(20)]
    ids: list[bytes] = []
    try:
        for start in range(0, n, 250):
            part = range(start, min(n, start + 250))
            new = [NewTask(user_id=users[i % 20], title=f"task {i}", payload=f'{{"n":{i}}}') for i in part]
            ids += [row.id for row in await submitter.submit(new)]
        await mill.flush()
    finally:
        await index.aclose()
        await db.close()
    return ids


async def account(connection: Any, ids: list[bytes], data: bytes) -> list[str]:
    """What is wrong, a line each; nothing when every task is accounted for. `data`: the effect file."""
    wrong: list[str] = []
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT id, status, attempts, fence, result FROM tasks")
        rows = {row[0]: row[1:] for row in await cursor.fetchall()}
        bad = sum(rows.get(id_) != (4, 1, 1, str(n)) for n, id_ in enumerate(ids))
        wrong += [f"{bad} tasks are not COMPLETED in one run with their own result"] if bad else []
        wrong += [f"{len(rows)} rows for {len(ids)} tasks"] if len(rows) != len(ids) else []
        ran = Counter(data[i : i + 16] for i in range(0, len(data), 16))
        bad = sum(ran[id_] != 1 for id_ in ids)
        wrong += [f"{bad} tasks did not run exactly once"] if bad else []
        wrong += [f"{len(ran)} ids in the effect file"] if len(ran) != len(ids) else []
        paths: defaultdict[bytes, list[tuple[int | None, int | None, int]]] = defaultdict(list)
        await cursor.execute("SELECT changes FROM journal ORDER BY seq")
        for (blob,) in await cursor.fetchall():
            for change in decode(blob):
                paths[change.task].append((change.source, change.target, change.fence))
        bad = sum(sorted(paths[id_], key=str) != sorted(PATH, key=str) for id_ in ids)
        wrong += [f"{bad} tasks have other changes than submit, claim, settle in the journal"] if bad else []
        await cursor.execute("SELECT status, SUM(n) FROM counts GROUP BY status HAVING SUM(n) <> 0")
        counts = {int(status): int(n) for status, n in await cursor.fetchall()}
        wrong += [f"the counts say {counts}"] if counts != {4: len(ids)} else []
    return wrong


async def main(options: argparse.Namespace) -> int:
    logs.configure("console", "WARNING", stream=sys.stderr)
    n = options.tasks
    for line in await describe(options.url, options.redis):
        print(line)
    print(f"command  {' '.join(['bench/accounted.py', *options.shown])}")
    async with own_keys(options.redis) as prefix, own_database(options.url) as mine:
        db = await open_database(SqlOptions(mine))
        await migrate.migrate(db)
        await db.close()
        connection = await connect(mine, autocommit=True)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tm_bench_")))
            effects = folder / "effects"
            environment = {
                "DATABASE_URL": mine,
                "REDIS_URL": options.redis,
                "TASKMILL_INDEX_PREFIX": prefix,
                "BENCH_EFFECTS": str(effects),
            }
            worker = ("worker", "--app", "effects:app", "--concurrency", str(options.concurrency))
            workers = [stack.enter_context(product(*worker, environment=environment)) for _ in range(2)]
            schedulers = [
                stack.enter_context(product("scheduler", environment=environment)) for _ in range(2)
            ]
            everyone = (*workers, *schedulers)
            began = time.monotonic()
            shown = 0.0

            async def finished() -> bool:
                nonlocal shown
                if time.monotonic() - shown > options.every:
                    shown = time.monotonic()
                    _show(shown - began, workers)
                return await ask(connection, UNFINISHED) is None

            async def folded() -> bool:
                return await ask(connection, UNFOLDED) is None

            submitting = asyncio.create_task(submit_all(mine, options.redis, prefix, n))
            await until(lambda: _done(submitting, finished), LONGEST, every=0.25, processes=everyone)
            ids = submitting.result()
            first, last = await ask(connection, "SELECT MIN(created_at), MAX(completed_at) FROM tasks")
            seconds = (last - first).total_seconds()
            await until(folded, 120, every=0.25, processes=everyone)
            _show(time.monotonic() - began, workers)
            wrong = await account(connection, ids, await asyncio.to_thread(effects.read_bytes))
            await connection.ensure_closed()
    print(
        f"{n:,} tasks created, run and settled in {seconds:.1f} s: {n / seconds:,.0f}/s (2 workers of {options.concurrency} slots)"
    )
    for line in wrong:
        print(f"WRONG    {line}")
    print("every task is accounted for" if not wrong else "NOT every task is accounted for")
    return 1 if wrong else 0


async def _done(submitting: asyncio.Task[list[bytes]], finished: Any) -> bool:
    drained = await finished()
    if submitting.done():
        submitting.result()
    return bool(submitting.done() and drained and await finished())


def _show(at: float, workers: list[Any]) -> None:
    parts = []
    for worker in workers:
        runners = sum(resident(pid) for pid in children(worker.pid))
        parts.append(f"worker {resident(worker.pid):6.1f} MiB, runner {runners:6.1f} MiB")
    print(f"  {at:6.1f} s   {'   '.join(parts)}   load {os.getloadavg()[0]:.1f}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", required=True, help="mysql://user:pass@host:port/db")
    parser.add_argument("--redis", required=True, help="redis://host:port/db")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=100, help="slots of each worker")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks at the memory")
    options = parser.parse_args()
    secret = {options.url: "URL", options.redis: "REDIS"}
    options.shown = [secret.get(argument, argument) for argument in sys.argv[1:]]
    return options


if __name__ == "__main__":
    sys.exit(run(main(arguments())))
