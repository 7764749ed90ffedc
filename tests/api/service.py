"""A real `taskmill api` with people of every role and a task in every state, all made over HTTP."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.databases import MigratedStores
from tests.support import Process, Processes, free_port

PASSWORD = "securepassword"
ENTER = "mutation($i: %s!) { %s(input: $i) { accessToken user { id } } }"
CREATE = "mutation($i: CreateTaskInput!) { createTask(input: $i) { id } }"
CLAIM = "mutation($i: ClaimTasksInput!) { claimTasks(input: $i) { tasks { id fence } } }"


@dataclass
class Service:
    """`tokens`: by role in small letters, "key" for an API key, "" for nobody. `named`: what `@name` in variables
    stands for: a task in each state, another user's task, one that is absent."""

    process: Process
    port: int
    http: httpx2.AsyncClient
    tokens: dict[str, str] = field(default_factory=lambda: {"nobody": ""})
    users: dict[str, str] = field(default_factory=dict)
    named: dict[str, Any] = field(default_factory=dict)

    async def post(self, query: str, variables: Any, *, by: str, **headers: str) -> httpx2.Response:
        sent = {"Accept": "application/json", **headers}
        if self.tokens[by]:
            sent["Authorization"] = f"Bearer {self.tokens[by]}"
        return await self.http.post(
            "/graphql", json={"query": query, "variables": self.filled(variables)}, headers=sent
        )

    async def ok(self, query: str, *, by: str = "user", **variables: Any) -> Any:
        """The data of an answer without errors."""
        body = (await self.post(query, variables, by=by)).json()
        assert "errors" not in body, body["errors"]
        return body["data"]

    def filled(self, value: Any) -> Any:
        """The same with the values that `@name` stands for."""
        if isinstance(value, dict):
            return {key: self.filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.filled(inner) for inner in value]
        return self.named.get(value[1:], value) if isinstance(value, str) and value[:1] == "@" else value

    def resident(self) -> float:
        """MiB that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def check(self) -> None:
        """It lives, and its log tells of no mistake of its own."""
        output = self.process.output()
        assert self.process.returncode is None, output[-4000:]
        assert "Traceback" not in output, output[output.index("Traceback") - 2000 :][:6000]
        assert "request.failed" not in output

    async def furnish(self) -> None:
        """The people, and the tasks of the user."""
        for role in ("admin", "user", "worker", "other"):  # the first one is ADMIN
            await self._enter("register", role)
        made = "mutation($id: ID!) { setUserRole(id: $id, role: WORKER) { id } }"
        await self.ok(made, by="admin", id=self.users["worker"])
        await self._enter("login", "worker")
        key = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }"
        made_key = await self.ok(key, i={"name": "k", "role": "USER"})
        self.tokens["key"] = made_key["createApiKey"]["key"]
        self.named |= {"foreign": await self._task("other"), "absent": str(uuid.uuid4())}
        self.named["run"] = await self._claimed("processing")
        await self._ended("completed", "completeTask", "CompleteTaskInput")
        await self._ended("failed", "failTask", "FailTaskInput", message="m", retryable=False)
        self.named["cancelling"] = (await self._claimed("cancelling"))["id"]
        self.named["cancelled"] = await self._task("user")
        for name in ("cancelling", "cancelled"):
            await self.ok("mutation($id: ID!) { cancelTask(id: $id) { id } }", id=f"@{name}")
        self.named["queued"] = await self._task("user")
        self.named["pending"] = await self._task("user", scheduledAt="2095-01-01T00:00:00Z")

    async def _enter(self, how: str, name: str) -> None:
        given = {"email": f"{name}@example.com", "password": PASSWORD}
        given |= {"name": name} if how == "register" else {}
        data = await self.ok(ENTER % (f"{how.title()}Input", how), by="nobody", i=given)
        self.tokens[name], self.users[name] = data[how]["accessToken"], data[how]["user"]["id"]

    async def _task(self, by: str, **given: Any) -> Any:
        return (await self.ok(CREATE, by=by, i={"title": "A task", **given}))["createTask"]["id"]

    async def _claimed(self, name: str) -> Any:
        """A task of a queue of its own, in the hands of the worker `@boot`."""
        self.named[name] = await self._task("user", queue=name)
        self.named["boot"] = self.named.get("boot") or str(uuid.uuid4())
        given = {"worker": "@boot", "queues": [name], "waitSeconds": 10}
        [run] = (await self.ok(CLAIM, by="worker", i=given))["claimTasks"]["tasks"]
        return run

    async def _ended(self, name: str, call: str, kind: str, **given: Any) -> None:
        run = await self._claimed(name)
        document = f"mutation($i: {kind}!) {{ {call}(input: $i) {{ state }} }}"
        await self.ok(document, by="worker", i={"worker": "@boot", **run, **given})


@contextmanager
def served(stores: MigratedStores, folder: Path, **settings: str) -> Iterator[tuple[Process, int]]:
    """`taskmill api` over SQLite as development runs it (the first user is ADMIN), and its port."""
    processes, port = Processes(folder), free_port()
    with stores.lend("sqlite", folder) as url:
        environment: Mapping[str, str] = {
            "APP_ENV": "development",
            "DATABASE_URL": url,
            "JWT_SECRET": secrets.token_hex(32),
            "PORT": str(port),
            "TASKMILL_BCRYPT_ROUNDS": "4",
            "TASKMILL_HOST": "127.0.0.1",
            "TASKMILL_INDEX": "none",
            "TASKMILL_LEASE": "300",
            **settings,
        }
        try:
            process = processes.taskmill("api", env=environment)
            process.wait_for_output(f":{port}/graphql", 30)
            yield process, port
        finally:
            processes.end()


def codes(response: httpx2.Response) -> list[str]:
    """Of its errors."""
    return [error["extensions"]["code"] for error in json.loads(response.content).get("errors", ())]
