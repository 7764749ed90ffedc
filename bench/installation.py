"""One installation for a measurement: processes of the product, each with an account of its own on MySQL, and a meter."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from random import Random
from typing import Any, Final
from uuid import UUID

from common import UNFINISHED, UNFOLDED, answers, ask, connect, free_port, product, until
from counters import Meter, only, runners_of
from private import Server
from redis.asyncio import Redis
from submit import CREATE, Client, register
from websockets.asyncio.client import connect as open_socket
from websockets.typing import Subprotocol

from taskmill.index.connect import IndexOptions
from taskmill.index.connect import connect as connect_index
from taskmill.index.index import Index
from taskmill.index.wake import LocalBell
from taskmill.model.ids import new_op
from taskmill.runtime.probes import Probes
from taskmill.sql import migrate
from taskmill.sql.engine import SqlOptions, open_database
from taskmill.tasks.mill import Mill, TaskOptions

LONGEST: Final = 600.0
CREATE_MANY: Final = "mutation C($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { id } }"
POLL: Final = "query T($id: ID!) { task(id: $id) { id status } }"
UPDATED: Final = "subscription { taskUpdated { id status } }"


class Installation:
    """An empty database, an index that is warm, no process yet. `api` and the others run for as long as their `with`."""

    def __init__(self, mysql: Server, redis_url: str, database: str, prefix: str) -> None:
        self.mysql, self.redis_url, self.database, self.prefix = mysql, redis_url, database, prefix
        self.processes: dict[str, Callable[[], list[int]]] = {"mysqld": only(mysql.pid)}
        self.connection: Any = None
        self.meter: Meter
        self.port = 0
        self.token = ""  # nosec B105

    @asynccontextmanager
    async def open(self, redis: Server | None) -> AsyncIterator[Installation]:
        """`redis`: the one server behind `redis_url`, when it is one and its counters are wanted."""
        client = None
        if redis is not None:
            self.processes["redis"] = only(redis.pid)
            client = Redis.from_url(redis.redis)
        self.connection = await connect(self.mysql.mysql("bench", self.database), autocommit=True)
        self.meter = Meter(self.connection, client, self.processes)
        try:
            async with self.mill("bench") as mill:
                await migrate.migrate(mill.db)
                assert mill.index is not None
                await mill.index.warm("default", await mill.index.reset("default", new_op()))
            yield self
        finally:
            await self.connection.ensure_closed()
            if client is not None:
                await client.aclose()

    async def lose_index(self) -> None:
        """All that the one Redis holds."""
        async with Redis.from_url(self.redis_url) as client:
            await client.flushall()

    @asynccontextmanager
    async def mill(self, kind: str) -> AsyncIterator[Mill]:
        """The verbs, in this process."""
        db = await open_database(SqlOptions(self.mysql.mysql(kind, self.database)))
        options = IndexOptions(self.redis_url, prefix=self.prefix)
        index = Index(options, connect_index(options))
        try:
            yield Mill(db, index, LocalBell(), TaskOptions(), Probes(), Random(1))
        finally:
            await index.aclose()
            await db.close()

    async def partition(self, n: int) -> None:
        """`tasks` and their payloads in n partitions by the time in their ids: one for each day up to today, the last for
        all that comes. New rows lie in the last; what has no id in its condition looks into all."""
        today = int(time.time()) // 86_400
        bounds = [f"x'{(today - n + 2 + k) * 86_400_000:012x}{'0' * 20}'" for k in range(n - 1)]
        parts = [
            f"PARTITION p{k} VALUES LESS THAN ({bound})" for k, bound in enumerate([*bounds, "MAXVALUE"])
        ]
        for table in ("tasks", "task_payloads"):
            await ask(
                self.connection, f"ALTER TABLE {table} PARTITION BY RANGE COLUMNS (id) ({', '.join(parts)})"
            )

    # -- processes -----------------------------------------------------------------------------------------

    @contextmanager
    def process(self, kind: str, *arguments: str, **more: str) -> Iterator[Any]:
        environment = {
            "DATABASE_URL": self.mysql.mysql(kind, self.database),
            "REDIS_URL": self.redis_url,
            "TASKMILL_INDEX_PREFIX": self.prefix,
            "JWT_SECRET": "bench" * 8,
            **more,
        }
        with product(kind, *arguments, environment=environment) as process:
            self.processes[kind] = only(process.pid)
            if kind == "worker":
                self.processes["runner"] = runners_of(process.pid)
            yield process

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Any]:
        """One API process that has answered, and a user of it: its statements are compiled."""
        self.port = free_port()
        with self.process("api", PORT=str(self.port), TASKMILL_MAX_COST="100000") as process:
            await until(lambda: answers(self.port), LONGEST, every=0.05, processes=(process,))
            self.token = await register(self.port)
            yield process

    @asynccontextmanager
    async def worker(self, slots: int, *more: str) -> AsyncIterator[Any]:
        """One worker process that is registered."""
        known = await self._workers()
        with self.process("worker", "--app", "noop:app", "--concurrency", str(slots), *more) as process:

            async def registered() -> bool:
                return await self._workers() > known

            await until(registered, LONGEST, every=0.005, processes=(process,))
            yield process

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[Any]:
        """One scheduler process that leads."""
        with self.process("scheduler") as process:

            async def leads() -> bool:
                row = await ask(self.connection, "SELECT expires_at > UTC_TIMESTAMP(6) FROM leader")
                return bool(row and row[0])

            await until(leads, LONGEST, every=0.05, processes=(process,))
            yield process

    # -- work ----------------------------------------------------------------------------------------------

    async def create(self, n: int, connections: int) -> None:
        """n tasks, each by a createTask of its own."""

        async def caller(count: int) -> None:
            async with Client(self.port, self.token) as client:
                for k in range(count):
                    await client.post(CREATE, {"input": {"title": f"bench {k}", "payload": {"k": k}}})

        await asyncio.gather(*(caller(n // connections) for _ in range(connections)))

    async def create_many(
        self,
        calls: int,
        size: int,
        *,
        padding: int = 0,
        queues: Sequence[str] = ("default",),
        due: datetime | None = None,
    ) -> None:
        """`calls` times `size` tasks, by createTasks, one call after the other; in turn in each of the queues."""
        payload = {"k": "x" * padding} if padding else {"k": 1}
        at = None if due is None else due.isoformat()
        async with Client(self.port, self.token) as client:
            for _ in range(calls):
                inputs = [
                    {
                        "title": f"bench {k}",
                        "payload": payload,
                        "queue": queues[k % len(queues)],
                        "scheduledAt": at,
                    }
                    for k in range(size)
                ]
                await client.post(CREATE_MANY, {"inputs": inputs})

    async def poll(self, n: int, connections: int) -> None:
        """n times the query of one task's state."""
        row = await ask(self.connection, "SELECT id FROM tasks LIMIT 1")
        task = str(UUID(bytes=row[0]))

        async def caller() -> None:
            async with Client(self.port, self.token) as client:
                for _ in range(n // connections):
                    data = await client.post(POLL, {"id": task})
                    if data["task"]["id"] != task:
                        raise AssertionError(data)

        await asyncio.gather(*(caller() for _ in range(connections)))

    @asynccontextmanager
    async def subscribers(self, n: int) -> AsyncIterator[Callable[[], int]]:
        """n WebSockets that follow all tasks of the user; how many updates they have got together."""
        got = 0

        async def listen(socket: Any) -> None:
            nonlocal got
            async for text in socket:
                message = json.loads(text)
                if "errors" in message.get("payload", {}) or message["type"] not in ("next", "ping"):
                    raise RuntimeError(f"a subscriber got {text[:300]}")
                got += message["type"] == "next"
            raise RuntimeError(f"a subscriber was sent away: {socket.close_code} {socket.close_reason}")

        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            listening = []
            for _ in range(n):
                socket = await stack.enter_async_context(
                    open_socket(
                        f"ws://127.0.0.1:{self.port}/graphql",
                        subprotocols=[Subprotocol("graphql-transport-ws")],
                    )
                )
                login = {"Authorization": f"Bearer {self.token}"}
                await socket.send(json.dumps({"type": "connection_init", "payload": login}))
                while json.loads(await socket.recv())["type"] != "connection_ack":
                    pass
                await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": UPDATED}}))
                listening.append(group.create_task(listen(socket)))
            await asyncio.sleep(1.0)  # until they follow
            yield lambda: got
            for task in listening:
                task.cancel()

    async def done(self) -> None:
        """Until no task waits or runs."""
        await until(lambda: self._none(UNFINISHED), LONGEST, every=0.05)

    async def folded(self) -> None:
        await until(lambda: self._none(UNFOLDED), LONGEST, every=0.1)

    async def count(self, statement: str) -> int:
        return int((await ask(self.connection, statement))[0] or 0)

    async def _none(self, statement: str) -> bool:
        return await ask(self.connection, statement) is None

    async def _workers(self) -> int:
        return await self.count("SELECT COUNT(*) FROM workers")
