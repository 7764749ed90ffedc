"""A MySQL primary with a standby: what a semi-synchronous standby costs, and that a switch and a crash lose nothing.

    python bench/failover.py

Two servers of its own (bench/private.py), each semi-synchronous to the other, and a TCP proxy before them, which is what a
DNS name or ProxySQL is elsewhere. One API, one worker, one scheduler reach the record through the proxy alone. While
clients create tasks: a planned switch, in which connections to the old primary stay open and meet its read-only
errors; then the new primary is killed. Every acknowledged task must be there and COMPLETED in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from threading import Thread
from typing import Any, Final

import private
from common import UNFINISHED, ask, connect, describe, percentile, run, until
from installation import Installation
from submit import CREATE, Client

from taskmill.runtime import logs

OPTIONS: Final = ("--gtid-mode=ON", "--enforce-gtid-consistency=ON", "--log-replica-updates=ON")
PLUGINS: Final = (
    "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'",
    "INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'",
    "SET GLOBAL rpl_semi_sync_replica_enabled = ON",
    "SET GLOBAL rpl_semi_sync_source_timeout = 3600000",  # never on without the standby's word
)
CLIENTS: Final = 8
DATABASE: Final = "tm_bench"
LATEST: Final = 60.0
"""Seconds after which a task that was due must have started."""


class Address:
    """A TCP proxy: new connections go to `port`; those that are open stay where they are. In a thread of its own: the
    processes behind it end while this one waits for them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._loop = asyncio.new_event_loop()

    @contextmanager
    def listen(self) -> Iterator[int]:
        thread = Thread(target=self._loop.run_forever, name="address", daemon=True)
        thread.start()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(started, self._loop).result(10)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass(reader, out), _pass(there, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@dataclass
class Created:
    """What clients saw."""

    ids: list[bytes] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    """When each was acknowledged."""
    refused: dict[str, int] = field(default_factory=dict)

    def silence(self, since: float) -> float:
        """The longest time without an acknowledgement from then on."""
        at = [since, *sorted(t for t in self.at if t >= since)]
        return max(b - a for a, b in pairwise(at))


async def create(site: Installation, created: Created, stop: asyncio.Event) -> None:
    """One client: a task after the other; what was refused is not asked for again."""
    while not stop.is_set():
        try:
            async with Client(site.port, site.token) as client:
                while not stop.is_set():
                    data = await client.post(CREATE, {"input": {"title": "failover"}})
                    created.ids.append(bytes.fromhex(data["createTask"]["id"].replace("-", "")))
                    created.at.append(time.monotonic())
        except (RuntimeError, OSError, TimeoutError) as error:
            text = str(error).split("\n", 1)[0][:90] or type(error).__name__
            created.refused[text] = created.refused.get(text, 0) + 1
            await asyncio.sleep(0.05)


async def follow(source: private.Server, standby: private.Server) -> None:
    """`standby` follows `source`, which waits for its word before it commits; `standby` takes no writes."""
    here = f"SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {source.port}, SOURCE_CONNECT_RETRY = 1"
    login = f"SOURCE_USER = 'bench', SOURCE_PASSWORD = '{private.PASSWORD}', GET_SOURCE_PUBLIC_KEY = 1"
    async with _admin(standby) as connection:
        for statement in (
            "SET GLOBAL rpl_semi_sync_source_enabled = OFF",
            "SET GLOBAL super_read_only = ON",
            f"CHANGE REPLICATION SOURCE TO {here}, {login}, SOURCE_AUTO_POSITION = 1",
            "START REPLICA",
        ):
            await ask(connection, statement)
    async with _admin(source) as connection:

        async def followed() -> bool:
            row = await ask(connection, "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_clients'")
            return bool(row and int(row[1]))

        await ask(connection, "SET GLOBAL rpl_semi_sync_source_enabled = ON")
        await until(followed, 30, every=0.05)


async def promote(standby: private.Server, executed: str | None = None) -> None:
    """Everything that it has received is applied; then it takes writes. `executed`: it must have these first."""
    async with _admin(standby) as connection:
        if executed is None:
            row = await ask(
                connection,
                "SELECT RECEIVED_TRANSACTION_SET FROM performance_schema.replication_connection_status",
            )
            executed = row[0]
        await ask(connection, "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 30)", executed)
        for statement in ("STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL super_read_only = OFF"):
            await ask(connection, statement)
        await ask(connection, "SET GLOBAL read_only = OFF")


async def switch(old: private.Server, new: private.Server, address: Address) -> None:
    """As an operator plans it: no more writes, the standby has all, it is promoted, the name leads there."""
    async with _admin(old) as connection:
        await ask(connection, "SET GLOBAL super_read_only = ON")
        row = await ask(connection, "SELECT @@GLOBAL.gtid_executed")
    await promote(new, row[0])
    address.port = new.port


@asynccontextmanager
async def _admin(server: private.Server) -> AsyncIterator[Any]:
    connection = await connect(server.mysql(), autocommit=True)
    try:
        yield connection
    finally:
        await connection.ensure_closed()


async def latency(site: Installation, primary: private.Server, rounds: int) -> None:
    """createTask over one connection, with and without the standby's word, in turn."""
    waits: dict[bool, list[float]] = {True: [], False: []}
    async with Client(site.port, site.token) as client, _admin(primary) as connection:
        for k in range(2 * rounds):
            on = bool(k % 2)
            await ask(connection, f"SET GLOBAL rpl_semi_sync_source_enabled = {int(on)}")
            await asyncio.sleep(0.2)
            for _ in range(50):
                began = time.perf_counter()
                await client.post(CREATE, {"input": {"title": "latency"}})
                waits[on].append(time.perf_counter() - began)
        await ask(connection, "SET GLOBAL rpl_semi_sync_source_enabled = ON")
    for on, found in waits.items():
        word = "semi-synchronous" if on else "alone           "
        print(
            f"createTask, {word}: p50 {1000 * percentile(found, 0.5):.1f} ms, p95 {1000 * percentile(found, 0.95):.1f} ms"
        )


async def main(options: argparse.Namespace) -> int:
    logs.configure("console", "CRITICAL", stream=sys.stderr)
    with (
        private.mysql(*OPTIONS, "--server-id=1") as first,
        private.mysql(*OPTIONS, "--server-id=2") as second,
        private.redis() as redis,
    ):
        for line in await describe(first.mysql(), redis.redis):
            print(line)
        print(f"command  {' '.join(['bench/failover.py', *sys.argv[1:]])}", flush=True)
        for server in (first, second):
            async with _admin(server) as connection:
                for statement in PLUGINS:
                    await ask(connection, statement)
        await follow(first, second)
        async with _admin(first) as connection:
            await ask(connection, f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
        address = Address(first.port)
        with address.listen() as port:
            site = Installation(
                replace(first, port=port), redis.redis, DATABASE, f"tmb{secrets.token_hex(5)}"
            )
            async with site.open(None), site.api(), site.scheduler(), site.worker(50):
                await latency(site, first, options.rounds)
                wrong = await fail(site, address, first, second)
    for line in wrong:
        print(f"WRONG    {line}")
    print("every acknowledged task is there, and COMPLETED" if not wrong else "NOT every task is there")
    return 1 if wrong else 0


async def fail(
    site: Installation, address: Address, first: private.Server, second: private.Server
) -> list[str]:
    """Both failures under load; what is wrong afterwards, a line each."""
    created, stop = Created(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(create(site, created, stop))
        await asyncio.sleep(3.0)
        began = time.monotonic()
        await switch(first, second, address)
        took = time.monotonic() - began
        await until(lambda: _since(created, began + took), 60, every=0.02)
        print(
            f"planned switch: the standby takes writes after {took:.2f} s; the longest time without an acknowledged"
            f" createTask was {created.silence(began):.2f} s"
        )
        print(f"a task that was due 2 s later ran {await scheduled(site, second):.1f} s late", flush=True)
        await follow(second, first)
        await asyncio.sleep(3.0)
        began = time.monotonic()
        os.kill(second.pid, signal.SIGKILL)
        await promote(first)
        address.port = first.port
        took = time.monotonic() - began
        await until(lambda: _since(created, began + took), 60, every=0.02)
        print(
            f"primary killed: the standby takes writes after {took:.2f} s; the longest time without an acknowledged"
            f" createTask was {created.silence(began):.2f} s"
        )
        await asyncio.sleep(2.0)
        stop.set()
    print(f"refused meanwhile: {created.refused}")
    async with _admin(first) as connection:
        await ask(connection, f"USE {site.database}")

        async def done() -> bool:
            return await ask(connection, UNFINISHED) is None

        await until(done, 120, every=0.1)
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT id, status, attempts FROM tasks")
            rows = {row[0]: row[1:] for row in await cursor.fetchall()}
    again = sum(rows[i][1] > 1 for i in created.ids if i in rows)
    print(f"{len(created.ids):,} tasks acknowledged, {again} of them ran more than once")
    wrong = [f"{n} are lost" for n in [sum(i not in rows for i in created.ids)] if n]
    wrong += [f"{n} are not COMPLETED" for n in [sum(rows[i][0] != 4 for i in created.ids if i in rows)] if n]
    return wrong


async def scheduled(site: Installation, primary: private.Server) -> float:
    """How late a task starts that is due soon. The scheduler looks for it: what it reads must be the primary's."""
    due = datetime.now(UTC) + timedelta(seconds=2)
    async with Client(site.port, site.token) as client, _admin(primary) as connection:
        data = await client.post(CREATE, {"input": {"title": "later", "scheduledAt": due.isoformat()}})
        await ask(connection, f"USE {site.database}")
        task = bytes.fromhex(data["createTask"]["id"].replace("-", ""))
        begun: list[datetime] = []

        async def started() -> bool:
            row = await ask(connection, "SELECT started_at FROM tasks WHERE id = %s", task)
            begun[:] = [row[0]] if row and row[0] else []
            return bool(begun)

        await until(started, LATEST, every=0.05)
    return (begun[0].replace(tzinfo=UTC) - due).total_seconds()


async def _since(created: Created, then: float) -> bool:
    return bool(created.at and created.at[-1] > then)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--rounds", type=int, default=5, help="of 50 tasks each, with and without the standby's word"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main(arguments())))
