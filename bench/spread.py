"""Queues spread over a Redis Cluster: what each node holds and does, and what happens when one of them dies.

    python bench/spread.py --queues 12 --tasks 24000

A MySQL and a cluster of its own (bench/private.py), one API, two workers of 100 slots that serve all queues, one
scheduler. Every task must complete in one run. Then the same again, and a node is killed before the workers start.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import private
from common import cpu, describe, own_database, run
from installation import Installation
from redis.asyncio import Redis
from redis.crc import key_slot

from taskmill.runtime import logs


@dataclass(frozen=True, slots=True)
class Seen:
    """One node: queues whose slot it has, keys, bytes, script calls, seconds of processor time."""

    queues: int
    keys: int
    memory: int
    calls: int
    cpu: float


class Nodes:
    def __init__(self, servers: list[private.Server], site: Installation, queues: list[str]) -> None:
        self.servers, self._site, self._queues = servers, site, queues

    async def look(self) -> list[Seen]:
        seen = []
        for k, server in enumerate(self.servers):
            client = Redis.from_url(server.redis)
            slots = [key_slot(f"{{{self._site.prefix}/{queue}}}:g".encode()) for queue in self._queues]
            commands = await client.info("commandstats")
            memory = await client.info("memory")
            seen.append(
                Seen(
                    sum(slot * len(self.servers) // 16384 == k for slot in slots),
                    await client.dbsize(),
                    int(memory["used_memory"]),
                    int(commands.get("cmdstat_evalsha", {}).get("calls", 0)),
                    cpu(server.pid),
                )
            )
            await client.aclose()
        return seen

    def show(self, title: str, n: int, before: list[Seen], after: list[Seen]) -> None:
        calls = sum(b.calls - a.calls for a, b in zip(before, after, strict=True))
        print(title)
        for k, (a, b) in enumerate(zip(before, after, strict=True)):
            print(
                f"  node {k + 1}: {b.queues} queues, {b.keys} keys, {(b.memory - a.memory) / 1024:+8,.0f} KiB,"
                f" {b.calls - a.calls:6,} script calls ({(b.calls - a.calls) / calls:.0%}),"
                f" processor {1e6 * (b.cpu - a.cpu) / n:.1f} µs for each of all tasks",
                flush=True,
            )


async def drain(site: Installation, queues: list[str], workers: int) -> float:
    """Seconds until nothing waits or runs."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        for _ in range(workers):
            await stack.enter_async_context(site.worker(100, "--queues", ",".join(queues)))
        await site.done()
        return time.monotonic() - began


async def main(options: argparse.Namespace) -> int:
    logs.configure("console", "CRITICAL", stream=sys.stderr)
    queues = [f"queue-{k + 1}" for k in range(options.queues)]
    calls = options.tasks // 1000
    with private.mysql() as mysql, private.redis_cluster(options.nodes) as servers:
        for line in await describe(mysql.mysql(), servers[0].redis):
            print(line)
        print(f"command  {' '.join(['bench/spread.py', *sys.argv[1:]])}", flush=True)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        async with own_database(mysql.mysql()) as database:
            site = Installation(mysql, url, database.rpartition("/")[2], f"tmb{secrets.token_hex(5)}")
            async with site.open(None), site.api(), site.scheduler():
                nodes = Nodes(servers, site, queues)
                await site.create_many(1, len(queues), queues=queues)
                await drain(site, queues, 1)  # every queue has a generation now
                empty = await nodes.look()
                await site.create_many(calls, 1000, queues=queues)
                await asyncio.sleep(3.0)  # until the index has them all
                full = await nodes.look()
                nodes.show(f"{calls * 1000:,} tasks waiting", calls * 1000, empty, full)
                seconds = await drain(site, queues, 2)
                nodes.show(
                    f"run by two workers in {seconds:.1f} s, their start included",
                    calls * 1000,
                    full,
                    await nodes.look(),
                )
                await site.create_many(calls, 1000, queues=queues)
                await asyncio.sleep(3.0)
                os.kill(servers[-1].pid, signal.SIGKILL)
                seconds = await drain(site, queues, 2)
                print(f"the same with node {len(servers)} killed before the workers start: {seconds:.1f} s")
                left = await site.count("SELECT COUNT(*) FROM tasks WHERE status <> 4 OR attempts <> 1")
                total = await site.count("SELECT COUNT(*) FROM tasks")
    print(f"{total - left:,} of {total:,} tasks completed in one run")
    return 1 if left else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--queues", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=24_000)
    parser.add_argument("--nodes", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main(arguments())))
