"""How fast tasks are created over HTTP, and how soon an idle worker starts them.

    python bench/submit.py --url mysql://user:pass@host/db --redis redis://host --tasks 5000 --connections 32 --rounds 3

Rounds alternate, in databases of their own: the floor (as many callers as connections, each one row at a time, written
together by whoever comes first: driver and server alone, no HTTP), then `createTask` over as many HTTP connections to one
`taskmill api` process. At the end the start latency: tasks created one by one for an idle worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from typing import Any, Final

import floor
from common import (
    UNFINISHED,
    answers,
    ask,
    connect,
    describe,
    free_port,
    middle,
    own_database,
    own_keys,
    percentile,
    product,
    run,
    until,
)
from drain import submit

from taskmill.runtime import logs

REGISTER: Final = "mutation R($input: RegisterInput!) { register(input: $input) { accessToken } }"
CREATE: Final = "mutation C($input: CreateTaskInput!) { createTask(input: $input) { id status } }"
LONGEST: Final = 120.0


class Client:
    """One kept-alive HTTP connection, as cheap as can be: this process must not be what is measured."""

    def __init__(self, port: int, token: str = "") -> None:  # a token is given later  # nosec B107
        self._port = port
        self._token = token

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, query: str, variables: dict[str, Any]) -> Any:
        """The `data` of the answer; RuntimeError when there are errors."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        login = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\n{login}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with asyncio.timeout(30):
            self._writer.write(head.encode() + body)
            headers = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            size = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0])
            answer = json.loads(await self._reader.readexactly(size))
        if answer.get("errors"):
            raise RuntimeError(answer["errors"][0]["message"])
        return answer["data"]


async def bare(url: str, n: int, callers: int) -> tuple[float, list[float]]:
    """The floor: seconds for n rows, and the seconds that each caller waited for its commit."""
    connections = [await connect(url) for _ in range(2)]
    await ask(connections[0], floor.TABLE)
    user, waits = secrets.token_bytes(16), []
    line: list[tuple[bytes, asyncio.Future[None]]] = []
    came = asyncio.Event()

    async def writer(connection: Any) -> None:
        while True:
            await came.wait()
            batch, line[:] = line[:500], line[500:]
            if not line:
                came.clear()
            if batch:
                await floor.insert(connection, [id_ for id_, _ in batch], user)
                await connection.commit()
                for _, future in batch:
                    future.set_result(None)

    async def caller(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line.append((time.time_ns().to_bytes(8, "big") + secrets.token_bytes(8), future))
            came.set()
            await future
            waits.append(time.perf_counter() - began)

    writers = [asyncio.create_task(writer(connection)) for connection in connections]
    began = time.perf_counter()
    await asyncio.gather(*(caller(n // callers) for _ in range(callers)))
    took = time.perf_counter() - began
    for task in writers:
        task.cancel()
    await asyncio.wait(writers)
    for connection in connections:
        await connection.ensure_closed()
    return took, waits


async def register(port: int) -> str:
    """The token of a new user."""
    who = {"email": f"{secrets.token_hex(6)}@example.com", "password": secrets.token_hex(12), "name": "bench"}
    async with Client(port) as client:
        token: str = (await client.post(REGISTER, {"input": who}))["register"]["accessToken"]
    return token


async def create(port: int, n: int, connections: int) -> tuple[float, list[float], str]:
    """The product: seconds for n tasks, the seconds that each request took, and the token used."""
    token = await register(port)
    waits: list[float] = []

    async def caller(count: int) -> None:
        async with Client(port, token) as client:
            for k in range(count):
                began = time.perf_counter()
                await client.post(CREATE, {"input": {"title": f"bench {k}", "payload": {"k": k}}})
                waits.append(time.perf_counter() - began)

    await caller(5)  # the first request of a process compiles its statements
    waits.clear()
    began = time.perf_counter()
    await asyncio.gather(*(caller(n // connections) for _ in range(connections)))
    return time.perf_counter() - began, waits, token


async def start_latency(port: int, token: str, mine: str, n: int) -> list[float]:
    """Seconds from creation to start, by the database's clock, of tasks that come one by one."""
    connection = await connect(mine, autocommit=True)

    async def idle() -> bool:
        return await ask(connection, UNFINISHED) is None

    await until(idle, LONGEST, every=0.1)
    ids = []
    async with Client(port, token) as client:
        for k in range(n):
            data = await client.post(CREATE, {"input": {"title": "start", "payload": {"k": k}}})
            ids.append(bytes.fromhex(data["createTask"]["id"].replace("-", "")))
            await asyncio.sleep(0.03)
    await until(idle, LONGEST, every=0.1)
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT TIMESTAMPDIFF(MICROSECOND, created_at, started_at) / 1e6 FROM tasks WHERE id IN"
            f" ({', '.join(['%s'] * len(ids))})",
            ids,
        )
        rows = await cursor.fetchall()
    await connection.ensure_closed()
    return [float(row[0]) for row in rows]


async def one_round(options: argparse.Namespace, *, last: bool) -> tuple[float, float]:
    n, many = options.tasks, options.connections
    async with own_database(options.url) as mine:
        took, waits = await bare(mine, n, many)
    rate = len(waits) / took
    print(f"floor     {rate:8,.0f}/s   {_spread(waits)}", flush=True)
    async with own_keys(options.redis) as prefix, own_database(options.url) as mine:
        await submit(mine, options.redis, prefix, 0)
        port = free_port()
        environment = {
            "DATABASE_URL": mine,
            "REDIS_URL": options.redis,
            "TASKMILL_INDEX_PREFIX": prefix,
            "PORT": str(port),
            "JWT_SECRET": secrets.token_hex(32),
        }
        with product("api", environment=environment) as api:
            await until(lambda: answers(port), LONGEST, every=0.05, processes=(api,))
            took, waits, token = await create(port, n, many)
            ours = len(waits) / took
            print(f"taskmill  {ours:8,.0f}/s   {_spread(waits)}   ratio {ours / rate:.3f}", flush=True)
            if last:
                with product("worker", "--app", "noop:app", environment=environment):
                    latencies = await start_latency(port, token, mine, options.starts)
                print(f"start     {_spread(latencies)}   ({len(latencies)} tasks one by one, an idle worker)")
    return rate, ours


def _spread(seconds: list[float]) -> str:
    p50, p95, p99 = (1000 * percentile(seconds, share) for share in (0.50, 0.95, 0.99))
    return f"p50 {p50:6.1f} ms   p95 {p95:6.1f} ms   p99 {p99:6.1f} ms"


async def main(options: argparse.Namespace) -> int:
    logs.configure("console", "WARNING", stream=sys.stderr)
    for line in await describe(options.url, options.redis):
        print(line)
    print(f"command  {' '.join(['bench/submit.py', *options.shown])}")
    rates = [await one_round(options, last=k == options.rounds - 1) for k in range(options.rounds)]
    ratio = middle([ours / rate for rate, ours in rates])
    print(
        f"median    floor {middle([r for r, _ in rates]):,.0f}/s   taskmill {middle([o for _, o in rates]):,.0f}/s"
        f"   ratio {ratio:.3f}   ({options.tasks:,} tasks, {options.connections} connections)"
    )
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", required=True, help="mysql://user:pass@host:port/db")
    parser.add_argument("--redis", required=True, help="redis://host:port/db")
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=200, help="tasks for the start latency")
    options = parser.parse_args()
    secret = {options.url: "URL", options.redis: "REDIS"}
    options.shown = [secret.get(argument, argument) for argument in sys.argv[1:]]
    return options


if __name__ == "__main__":
    sys.exit(run(main(arguments())))
