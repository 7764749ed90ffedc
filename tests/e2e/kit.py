"""An installation of real processes, and a client that speaks to it over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import redis.asyncio as redis
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from taskmill.api.text import canonical
from taskmill.model.state import Status
from tests.e2e.check import Effect, History, Verdict, check, read_effects
from tests.support import ROOT, Process, Processes, free_port, wait_until

PASSWORD = "a password for tests"
LIVE = ("pending", "queued", "processing")
SERVING = ("up", "api")
BATCH = 500
LEASE = 2.5
"""Seconds: short, and long enough that a busy machine does not lose one by itself."""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Client:
    """A user. What it is told goes into the history, which the checker reads."""

    def __init__(self, base: str, history: History) -> None:
        self.base = base
        self.history = history
        self.user = ""
        self.http = httpx2.AsyncClient(base_url=base, trust_env=False, timeout=20)
        self.token = ""

    async def call(self, query: str, **variables: Any) -> Any:
        """The data of an answer without errors; httpx2.TransportError when there is none."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        response = await self.http.post(
            "/graphql", json={"query": query, "variables": variables}, headers=headers
        )
        body = response.json()
        assert "errors" not in body, body["errors"]
        return body["data"]

    async def register(self, name: str = "ada") -> None:
        data = await self.call(
            "mutation($i: RegisterInput!) { register(input: $i) { accessToken user { id } } }",
            i={"email": f"{name}@example.com", "password": PASSWORD, "name": name},
        )
        self.token = data["register"]["accessToken"]
        self.user = data["register"]["user"]["id"]

    async def create(self, *payloads: dict[str, Any], type: str | None = "NOTE", **given: Any) -> list[str]:
        """One `createTasks` call; the ids. Without an answer the payloads are unsure, and the error comes through."""
        inputs = [{"title": f"task {i}", "type": type, "payload": p, **given} for i, p in enumerate(payloads)]
        texts = [canonical(p) for p in payloads]
        self.history.gates |= {p["gate"] for p in payloads if "gate" in p}
        try:
            data = await self.call(
                "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id } }", i=inputs
            )
        except BaseException:
            self.history.unsure += texts
            raise
        ids = [task["id"] for task in data["createTasks"]]
        self.history.created.update(zip(ids, texts, strict=True))
        return ids

    async def create_each(self, n: int, *, at_once: int = 16, **payload: Any) -> list[str]:
        """n tasks by `createTask` calls of their own, `at_once` of them in flight; the ids that were answered."""
        numbers = iter(range(n))
        ids: list[str] = []

        async def caller() -> None:
            for i in numbers:
                text = canonical({"n": i, **payload})
                try:
                    data = await self.call(
                        "mutation($i: CreateTaskInput!) { createTask(input: $i) { id } }",
                        i={"title": f"task {i}", "type": "NOTE", "payload": {"n": i, **payload}},
                    )
                except httpx2.TransportError:
                    self.history.unsure.append(text)
                    continue
                ids.append(data["createTask"]["id"])
                self.history.created[ids[-1]] = text

        await asyncio.gather(*(caller() for _ in range(at_once)))
        return ids

    async def create_many(self, n: int, *others: Client) -> list[str]:
        """n tasks, 500 a call, one call after the other at this API and at each of the others; prints the rate."""
        numbers = iter(range(0, n, BATCH))
        ids: list[str] = []
        began = boottime()

        async def caller(client: Client) -> None:
            for i in numbers:
                ids.extend(await client.create(*({"n": i + k} for k in range(min(BATCH, n - i)))))

        await asyncio.gather(*(caller(client) for client in (self, *others)))
        print(f"created {n} in {boottime() - began:.1f} s")
        return ids

    async def cancel(self, task: str) -> str:
        data = await self.call("mutation($id: ID!) { cancelTask(id: $id) { status } }", id=task)
        status: str = data["cancelTask"]["status"]
        self.history.cancelled[task] = (status, boottime())
        return status

    async def task(self, task: str, fields: str = "status attempts error") -> Any:
        data = await self.call(f"query($id: ID!) {{ task(id: $id) {{ {fields} }} }}", id=task)
        return data["task"]

    async def status(self, task: str) -> str:
        found = await self.task(task, "status")
        return str(found["status"])

    async def stats(self) -> dict[str, int]:
        data = await self.call("{ taskStats { total pending queued processing completed failed cancelled } }")
        stats: dict[str, int] = data["taskStats"]
        return stats

    async def drained(self, timeout: float = 30.0) -> dict[str, int]:
        """The numbers as soon as nothing is live any more."""

        stats: dict[str, int] = {}

        async def quiet() -> bool:
            with suppress(httpx2.TransportError):
                stats.update(await self.stats())
                return not any(stats[s] for s in LIVE)
            return False

        try:
            await wait_until(quiet, timeout, every=0.05)
        except AssertionError:
            raise AssertionError(f"not all tasks are terminal after {timeout:g} s: {stats}") from None
        return stats

    @asynccontextmanager
    async def updates(self) -> AsyncIterator[list[Any]]:
        """A list that grows with each event of `taskUpdated`, over graphql-transport-ws."""
        url = self.base.replace("http", "ws", 1) + "/graphql"
        events: list[Any] = []
        async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None) as socket:
            init = {"Authorization": f"Bearer {self.token}"}
            await socket.send(json.dumps({"type": "connection_init", "payload": init}))
            assert json.loads(await socket.recv()) == {"type": "connection_ack"}
            query = "subscription { taskUpdated { id status progress } }"
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}}))

            async def listen() -> None:
                async for text in socket:
                    message = json.loads(text)
                    if message["type"] == "ping":
                        await socket.send('{"type": "pong"}')
                        continue
                    assert message["type"] == "next", message
                    events.append(message["payload"]["data"]["taskUpdated"])

            listening = asyncio.create_task(listen())
            try:
                yield events
            finally:
                listening.cancel()
                await asyncio.wait([listening])

    async def close(self) -> None:
        await self.http.aclose()


class Site:
    """One installation: its settings, processes and users, and its end with the checker's verdict.

    A part has a role (`api`, `worker-2`): what was killed can be started again in the same role, at the same port.
    """

    def __init__(self, processes: Processes, folder: Path, url: str, **settings: str) -> None:
        self.processes = processes
        self.url = url
        self.histories: list[History] = []
        self.effects = folder / "effects.jsonl"
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.data = folder / "data"
        self.clients: list[Client] = []
        self.parts: dict[str, Process] = {}
        self.ports: dict[str, int] = {}
        self._roles: dict[str, dict[str, str]] = {}
        self._users = itertools.count(1)
        self.settings = {
            "PYTHONPATH": str(ROOT),
            "APP_ENV": "test",
            "DATABASE_URL": url,
            "JWT_SECRET": secrets.token_hex(32),
            "TASKMILL_APP": "tests.e2e.apps:app",
            "TASKMILL_DATA": str(self.data),
            "TASKMILL_BCRYPT_ROUNDS": "4",
            "TASKMILL_BACKOFF_BASE": "0.05",
            "TASKMILL_INDEX_HOLD": "7",
            "TASKMILL_INDEX_TIMEOUT": "1",
            "TASKMILL_LEADER_TTL": "1.5",
            "TASKMILL_LEASE": str(LEASE),
            "TASKMILL_LOG_FORMAT": "json",
            "E2E_EFFECTS": str(self.effects),
            "E2E_GATES": str(self.gates),
            **settings,
        }

    def start(self, role: str, **settings: str) -> Process:
        """`taskmill <role up to its first hyphen>`; `ready` waits for it."""
        command = role.partition("-")[0]
        settings = self._roles.setdefault(role, settings) | settings
        port = self.ports.setdefault(role, free_port())
        own = {"PORT" if command in SERVING else "TASKMILL_METRICS_PORT": str(port)}
        if command == "worker":
            own["TASKMILL_WORKER_NAME"] = role
        part = self.processes.taskmill(command, env=self.settings | own | settings, name=role)
        self.parts[role] = part
        return part

    async def heal(self) -> None:
        """Start again what is not running, and wait until all answers."""
        for role, part in list(self.parts.items()):
            if part.returncode is not None:
                self.start(role)
        await self.ready()

    async def ready(self, *roles: str, timeout: float = 30.0) -> None:
        """All parts (or these) answer: an API its health, a worker and a scheduler /ready."""
        for role in roles or list(self.parts):
            path = "/health" if role.partition("-")[0] in SERVING else "/ready"
            if role == "up":
                await wait_until(lambda: "taskmill is up" in self._living("up").output(), timeout, what="up")

            async def answers(role: str = role, path: str = path) -> bool:
                self._living(role)
                return await self.get(role, path) is not None

            await wait_until(answers, timeout, what=f"{role} answers", every=0.05)

    def _living(self, role: str) -> Process:
        part = self.parts[role]
        assert part.returncode is None, f"{role} ended with {part.returncode}:\n{part.output()[-4000:]}"
        return part

    async def get(self, role: str, path: str) -> httpx2.Response | None:
        """What a GET answers with 200; None for anything else."""
        with suppress(httpx2.TransportError):
            async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
                response = await http.get(f"http://127.0.0.1:{self.ports[role]}{path}")
                return response if response.status_code == 200 else None
        return None

    async def metric(self, name: str, *roles: str) -> float:
        """The sum of a metric over its labels and these processes."""
        total = 0.0
        for role in roles:
            response = await self.get(role, "/metrics")
            assert response is not None, f"no metrics from {role}"
            found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", response.text, re.MULTILINE)
            total += sum(map(float, found))
        return total

    async def client(self, role: str) -> Client:
        """A new user, at this API."""
        history = History()
        self.histories.append(history)
        client = self._client(role, history)
        await client.register(f"user{next(self._users)}")
        return client

    def same(self, client: Client, role: str) -> Client:
        """The same user at another API."""
        other = self._client(role, client.history)
        other.token, other.user = client.token, client.user
        return other

    def _client(self, role: str, history: History) -> Client:
        client = Client(f"http://127.0.0.1:{self.ports[role]}", history)
        self.clients.append(client)
        return client

    def open(self, *gates: str) -> None:
        """Let the handlers go on that wait for these files."""
        for gate in gates:
            (self.gates / gate).touch()

    def executions(self, *tasks: str) -> dict[tuple[str, int], Effect]:
        """(task, fence) → what its handler has noted so far; of all tasks, or of these."""
        found = read_effects(self.effects)
        return {key: e for key, e in found.items() if key[0] in tasks} if tasks else found

    def started(self, *tasks: str) -> set[str]:
        """The tasks (of these) that a handler has begun so far."""
        return {task for task, _ in self.executions(*tasks)}

    async def running(self, *tasks: str, timeout: float = 20.0) -> None:
        await wait_until(
            lambda: self.started(*tasks) == set(tasks), timeout, every=0.05, what="the handlers have begun"
        )

    def runners(self, *tasks: str) -> dict[str, int]:
        """The process that executes each task, or did so last."""
        return {task: e.pid for (task, _), e in sorted(self.executions(*tasks).items())}

    def at(self, role: str, *tasks: str) -> tuple[int, list[str]]:
        """The only runner of a worker, and those of the tasks that it executes."""
        [runner] = children(self.parts[role].pid)
        return runner, [task for task, pid in self.runners(*tasks).items() if pid == runner]

    async def end(self, *roles: str, timeout: float = 30.0) -> None:
        """SIGTERM to all (or these) that run: each ends with 0."""
        living = [p for r, p in self.parts.items() if (not roles or r in roles) and p.returncode is None]
        for part in living:
            part.signal(signal.SIGTERM)
        for part in living:
            status = await asyncio.to_thread(part.wait, timeout)
            assert status == 0, f"{part.name} ended with {status}:\n{part.output()[-3000:]}"

    async def judge(self, client: Client | None = None) -> Verdict:
        """Check the record: of one user, or the whole, after the end of all processes."""
        if client is None:
            await self.end()
            return await check(self.url, self.effects, self.histories)
        verdict = await check(self.url, self.effects, [client.history], user=client.user)
        stats = await client.stats()
        found = Counter(Status(row.status).name.lower() for row in verdict.dump.tasks.values())
        assert stats == {"total": len(verdict.dump.tasks)} | {
            s.name.lower(): found[s.name.lower()] for s in Status
        }
        return verdict

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        self.processes.end()


async def flush(url: str) -> None:
    """FLUSHALL: of a server of the test's own."""
    client = redis.Redis.from_url(url)
    try:
        await client.flushall()
    finally:
        await client.aclose()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
