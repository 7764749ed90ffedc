"""An installation of real processes, and a client that speaks to it over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from taskmill.model.jsontext import json_text
from tests.e2e.check import History, Verdict, check
from tests.support import ROOT, Process, Processes, free_port, wait_until

PASSWORD = "a password for tests"
LIVE = "PENDING QUEUED PROCESSING".lower().split()


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Client:
    """A user. What it is told goes into the history, which the checker reads."""

    def __init__(self, base: str, history: History) -> None:
        self.base = base
        self.history = history
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
            "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }",
            i={"email": f"{name}@example.com", "password": PASSWORD, "name": name},
        )
        self.token = data["register"]["accessToken"]

    async def create(self, *payloads: dict[str, Any], type: str | None = "NOTE", **given: Any) -> list[str]:
        """One `createTasks` call; the ids. Without an answer the payloads are unsure, and the error comes through."""
        inputs = [{"title": f"task {i}", "type": type, "payload": p, **given} for i, p in enumerate(payloads)]
        texts = [json_text(p) for p in payloads]
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
                text = json_text({"n": i, **payload})
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
        data = await self.call(
            "{ taskStats { total pending queued processing completed failed cancelled } }"
        )
        stats: dict[str, int] = data["taskStats"]
        return stats

    async def drained(self, timeout: float = 30.0) -> dict[str, int]:
        """The numbers as soon as nothing is live any more."""

        async def quiet() -> dict[str, int] | None:
            with suppress(httpx2.TransportError):
                stats = await self.stats()
                return None if any(stats[s] for s in LIVE) else stats
            return None

        return await wait_until(quiet, timeout, every=0.05, what="all tasks are terminal")

    @asynccontextmanager
    async def updates(self) -> AsyncIterator[list[Any]]:
        """A list that grows with each event of `taskUpdated`, over graphql-transport-ws."""
        import json

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
    """One installation: its settings, processes, users and history, and its end with the checker's verdict."""

    def __init__(self, processes: Processes, folder: Path, url: str, **settings: str) -> None:
        self.processes = processes
        self.url = url
        self.history = History()
        self.effects = folder / "effects.jsonl"
        self.gates = folder / "gates"
        self.gates.mkdir()
        self.data = folder / "data"
        self.clients: list[Client] = []
        self.parts: list[Process] = []
        self.ports: dict[Process, int] = {}
        self.settings = {
            "PYTHONPATH": str(ROOT),
            "APP_ENV": "test",
            "DATABASE_URL": url,
            "JWT_SECRET": secrets.token_hex(32),
            "TASKMILL_APP": "tests.e2e.apps:app",
            "TASKMILL_DATA": str(self.data),
            "TASKMILL_BCRYPT_ROUNDS": "4",
            "TASKMILL_BACKOFF_BASE": "0.05",
            "TASKMILL_INDEX_HOLD": "2",
            "TASKMILL_INDEX_TIMEOUT": "1",
            "TASKMILL_LEASE": "2",
            "TASKMILL_LOG_FORMAT": "json",
            "E2E_EFFECTS": str(self.effects),
            "E2E_GATES": str(self.gates),
            **settings,
        }

    def start(self, command: str, **settings: str) -> Process:
        """`taskmill <command>`; `ready` waits for it."""
        part = self.processes.taskmill(command, env=self.settings | settings, name=command)
        self.parts.append(part)
        return part

    def up(self, **settings: str) -> Process:
        return self._serving("up", settings)

    def api(self, **settings: str) -> Process:
        return self._serving("api", settings)

    def worker(self, name: str = "w", **settings: str) -> Process:
        return self._probed("worker", {"TASKMILL_WORKER_NAME": name, **settings})

    def scheduler(self, **settings: str) -> Process:
        return self._probed("scheduler", settings)

    def _serving(self, command: str, settings: dict[str, str]) -> Process:
        port = int(settings.get("PORT", 0)) or free_port()
        part = self.start(command, **{**settings, "PORT": str(port)})
        self.ports[part] = port
        return part

    def _probed(self, command: str, settings: dict[str, str]) -> Process:
        port = free_port()
        part = self.start(command, **{**settings, "TASKMILL_METRICS_PORT": str(port)})
        self.ports[part] = port
        return part

    async def ready(self, *parts: Process, timeout: float = 30.0) -> None:
        """All of them (or of these) answer: an API its health, a worker and a scheduler /ready."""
        for part in parts or self.parts:
            path = "/health" if part.name.startswith(("up", "api")) else "/ready"
            if part.name.startswith("up"):
                await wait_until(
                    lambda part=part: "taskmill is up" in part.output() or _died(part), timeout, what=part.name
                )

            async def answers(part: Process = part, path: str = path) -> bool:
                return await self.get(part, path) == 200 or _died(part)

            await wait_until(answers, timeout, what=f"{part.name} answers")

    async def get(self, part: Process, path: str) -> int | None:
        """The status of a GET; None without an answer."""
        response = await self.fetch(part, path)
        return response.status_code if response is not None else None

    async def fetch(self, part: Process, path: str) -> httpx2.Response | None:
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            with suppress(httpx2.TransportError):
                return await http.get(f"http://127.0.0.1:{self.ports[part]}{path}")
        return None

    async def metric(self, part: Process, name: str) -> float:
        """The sum of a metric over its labels, as this process tells it."""
        response = await self.fetch(part, "/metrics")
        assert response is not None, f"no metrics from {part.name}"
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", response.text, re.MULTILINE)
        return sum(map(float, found))

    async def client(self, part: Process, name: str = "ada") -> Client:
        """A new user at this API."""
        client = self.at(part)
        await client.register(name)
        return client

    def at(self, part: Process, token: str = "") -> Client:
        client = Client(f"http://127.0.0.1:{self.ports[part]}", self.history)
        client.token = token
        self.clients.append(client)
        return client

    def open(self, gate: str) -> None:
        """Let the handlers go on that wait for this file."""
        (self.gates / gate).touch()

    def started(self, tasks: Iterable[str] | None = None) -> set[str]:
        """The tasks (of these) that a handler has begun so far."""
        text = self.effects.read_text() if self.effects.exists() else ""
        found = set(re.findall(r'"task": "([^"]+)"', text))
        return found if tasks is None else found & set(tasks)

    async def running(self, *tasks: str, timeout: float = 20.0) -> None:
        await wait_until(lambda: self.started(tasks) == set(tasks), timeout, what="the handlers have begun")

    async def end(self, parts: Sequence[Process] | None = None, timeout: float = 20.0) -> None:
        """SIGTERM to all (or these) that run: each ends with 0."""
        living = [p for p in (self.parts if parts is None else parts) if p.returncode is None]
        for part in living:
            part.signal(signal.SIGTERM)
        for part in living:
            status = await asyncio.to_thread(part.wait, timeout)
            assert status == 0, f"{part.name} ended with {status}:\n{part.output()[-3000:]}"

    async def judge(self, *, overlap: bool = False) -> Verdict:
        """End everything, then check the record."""
        await self.end()
        return await check(self.url, self.effects, self.history, overlap=overlap)

    def said(self, event: str) -> int:
        """How often the processes logged this."""
        return sum(part.output().count(event) for part in self.parts)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        self.processes.end()


def _died(part: Process) -> bool:
    assert part.returncode is None, f"{part.name} ended with {part.returncode}:\n{part.output()[-4000:]}"
    return False


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
