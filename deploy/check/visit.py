"""The ten documents of the specification against a running Taskmill, by clients that are not its own.

    python -m deploy.check.visit http://127.0.0.1:8080

The database is new: the user of the documents is registered here. The proxy is asked for all of it, the WebSocket too.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from deploy.check.seed import CANCEL, CREATE, LOGIN, REGISTER, RETRY, SCHEDULE, STATS, TASK, TASKS, UPDATES
from deploy.check.stage import Broken

PATIENCE_SECONDS = 60.0


async def visit(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=30) as http:
        health = await http.get("/health")
        expect(health.status_code == 200, "/health", health.text)
        registered = await ask(http, REGISTER, "register")
        expect(registered["user"]["email"] == "user@example.com", "register", registered)
        token = (await ask(http, LOGIN, "login"))["accessToken"]
        http.headers["Authorization"] = f"Bearer {token}"
        async with updates(url, token) as events, asyncio.timeout(PATIENCE_SECONDS):
            created = await ask(http, CREATE, "createTask")
            expect(created["status"] == "QUEUED", "createTask", created)
            await completed(events, created["id"])
        await the_rest(http, created["id"])


async def the_rest(http: httpx2.AsyncClient, done: str) -> None:
    task = await ask(http, TASK, "task", done)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not task["logs"]:  # its lines come in batches of their own
            await asyncio.sleep(0.2)
            task = await ask(http, TASK, "task", done)
    expect((task["status"], task["attempts"]) == ("COMPLETED", 1), "task", task)
    expect(task["result"] == task["payload"], "what the worker made of it", task)
    scheduled = await ask(http, SCHEDULE, "createTask")
    cancelled = await ask(http, CANCEL, "cancelTask", scheduled["id"])
    expect(cancelled["status"] == "CANCELLED", "cancelTask", cancelled)
    retried = await ask(http, RETRY, "retryTask", scheduled["id"])
    expect(retried["status"] in ("PENDING", "QUEUED"), "retryTask", retried)
    expect(isinstance(await ask(http, TASKS, "tasks"), list), "tasks", "no list")
    stats = await ask(http, STATS, "taskStats")
    expect((stats["total"], stats["failed"]) == (2, 0), "taskStats", stats)


async def ask(http: httpx2.AsyncClient, document: str, field: str, task: str = "") -> Any:
    """The field's value, from an answer without errors."""
    answer = await http.post("/graphql", json={"query": document.replace("task-id-here", task)})
    expect(answer.status_code == 200, field, answer.text)
    said = answer.json()
    expect("errors" not in said, field, said)
    return said["data"][field]


@asynccontextmanager
async def updates(url: str, token: str) -> AsyncIterator[ClientConnection]:
    """The subscription of the specification, by graphql-transport-ws."""
    address = url.replace("http", "ws", 1) + "/graphql"
    async with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        await send(socket, "connection_init", payload={"Authorization": f"Bearer {token}"})
        expect((said := await receive(socket))["type"] == "connection_ack", "connection_init", said)
        await send(socket, "subscribe", id="1", payload={"query": UPDATES})
        # The protocol acknowledges no subscription: what is answered after it has been read after it.
        await send(socket, "ping")
        expect((said := await receive(socket))["type"] == "pong", "subscribe", said)
        yield socket


async def completed(socket: ClientConnection, task: str) -> None:
    """Returns when the subscription tells that the task has completed."""
    while True:
        message = await receive(socket)
        expect(message["type"] == "next", "taskUpdated", message)
        update = message["payload"]["data"]["taskUpdated"]
        if update["id"] == task and update["status"] == "COMPLETED":
            return


async def send(socket: ClientConnection, type_: str, **rest: Any) -> None:
    await socket.send(json.dumps({"type": type_, **rest}))


async def receive(socket: ClientConnection) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return json.loads(await socket.recv())


def expect(well: bool, what: str, got: object) -> None:
    if not well:
        raise Broken(f"{what}: not as expected: {got}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(visit(sys.argv[1]))
    except Broken as broken:
        raise SystemExit(str(broken)) from None
    print("the ten documents work")
