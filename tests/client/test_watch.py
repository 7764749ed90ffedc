"""Live updates through the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from taskmill.client import Client, TaskStatus, TaskSummary
from taskmill.errors import BadRequest, NotFound, Unauthenticated, Unavailable
from tests.api.kit import PASSWORD, Api, running
from tests.support import free_port, wait_until

TASK = {
    **dict.fromkeys(
        ("type", "progress", "error", "scheduledAt", "startedAt", "completedAt", "cancelRequestedAt")
    ),
    "id": "1",
    "title": "t",
    "queue": "default",
    "status": "QUEUED",
    "priority": "NORMAL",
    "attempts": 0,
    "maxRetries": 3,
    "createdAt": "2026-01-01T00:00:00.000Z",
    "updatedAt": "2026-01-01T00:00:00.000Z",
}


@pytest.fixture
async def api(store_url: str) -> AsyncIterator[Api]:
    async with running(store_url) as api:
        yield api


@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
class TestAgainstTheApi:
    async def test_one_task_is_seen_to_its_end(self, api: Api) -> None:
        """`watch(id)` begins with the present state and ends after the last one."""
        async with Client(api.base) as client:
            await client.register("ann@example.com", PASSWORD, "Ann")
            task = await client.create_task("A task")
            seen = []
            async for update in client.watch(task.id):
                seen.append(update.status)
                if update.status is TaskStatus.QUEUED:
                    await client.cancel_task(task.id)
            assert seen == [TaskStatus.QUEUED, TaskStatus.CANCELLED]

    async def test_all_tasks_are_seen(self, api: Api) -> None:
        """`watch()` brings the changes of every task of the caller."""
        async with Client(api.base) as client:
            await client.register("ann@example.com", PASSWORD, "Ann")
            async with aclosing(client.watch()) as updates:  # type: ignore[type-var]  # an async generator by construction
                coming = asyncio.ensure_future(anext(updates))
                made: list[str] = []

                async def seen() -> bool:
                    made.append((await client.create_task("A task")).id)
                    return coming.done()

                await wait_until(seen, every=0.1)  # the subscription stands from some moment on
                assert (await coming).id in made

    async def test_refusals_come_as_errors(self, api: Api) -> None:
        """Another's task is NotFound; without a token that holds it is Unauthenticated."""
        async with Client(api.base) as client:
            await client.register("ann@example.com", PASSWORD, "Ann")
            with pytest.raises(NotFound):
                await first(client.watch("01890000-0000-7000-8000-000000000000"))
        async with Client(api.base, token="nonsense") as stranger:
            with pytest.raises(Unauthenticated):
                await first(stranger.watch())


class TestConnection:
    async def test_it_comes_back(self) -> None:
        """After a connection that broke or was ended with "try again later", updates go on, and none comes twice."""
        states = [{**TASK}, {**TASK, "status": "PROCESSING"}, {**TASK, "status": "COMPLETED"}]

        async def act(number: int, socket: ServerConnection) -> None:
            for state in states[: number + 1][-2:]:  # each connection begins with what is known
                await socket.send(update(state))
            await socket.close(1013 if number == 0 else 1011)

        async with fake(act) as (url, tokens), Client(url, token="a token") as client:
            seen = [task.status async for task in client.watch("1")]
        assert seen == [TaskStatus.QUEUED, TaskStatus.PROCESSING, TaskStatus.COMPLETED]
        assert tokens == [{"Authorization": "Bearer a token"}] * 3

    async def test_a_quiet_connection_has_all_patience_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`patience` counts from the loss of a connection that was good, not from its start or its last update."""
        passed = [0.0]
        monkeypatch.setattr("taskmill.client.watch.monotonic", lambda: passed[0])

        async def act(number: int, socket: ServerConnection) -> None:
            if number != 1:
                await socket.send(update({**TASK, "status": ("QUEUED", "", "COMPLETED")[number]}))
            passed[0] += 1000
            await socket.close(1012)

        async with fake(act) as (url, _), Client(url, timeout=30) as client:
            seen = [task.status async for task in client.watch("1", patience=10)]
        assert seen == [TaskStatus.QUEUED, TaskStatus.COMPLETED]

    @pytest.mark.parametrize(
        ("code", "error"), [(4403, Unauthenticated), (4401, Unauthenticated), (4400, BadRequest)]
    )
    async def test_some_ends_are_for_good(self, code: int, error: type[Exception]) -> None:
        """A token that ended is Unauthenticated, a protocol error BadRequest: another try would not help."""

        async def act(_number: int, socket: ServerConnection) -> None:
            await socket.close(code, "so it is")

        async with fake(act) as (url, tokens), Client(url) as client:
            with pytest.raises(error, match="so it is"):
                await first(client.watch())
        assert len(tokens) == 1

    async def test_a_ping_is_answered(self) -> None:
        """The ping of the protocol gets its pong."""
        answers: list[Any] = []

        async def act(_number: int, socket: ServerConnection) -> None:
            await socket.send('{"type": "ping"}')
            answers.append(json.loads(await socket.recv()))
            await socket.send(update({**TASK, "status": "FAILED"}))
            await socket.wait_closed()

        async with fake(act) as (url, _), Client(url) as client:
            assert (await first(client.watch())).status is TaskStatus.FAILED
        assert answers == [{"type": "pong"}]

    async def test_patience_ends(self) -> None:
        """Nobody there: Unavailable after the client's time limit; a lost one after `patience`."""

        async def act(number: int, socket: ServerConnection) -> None:
            if number == 0:
                await socket.send(update(TASK))
            await socket.close(1012)

        async with Client(f"http://127.0.0.1:{free_port()}", timeout=0.3) as client:
            with pytest.raises(Unavailable, match="no live updates"):
                await first(client.watch())
        async with fake(act) as (url, tokens), Client(url) as client:
            with pytest.raises(Unavailable, match="1012"):
                [task async for task in client.watch(patience=0.3)]
        assert len(tokens) > 1


async def first(updates: AsyncIterator[TaskSummary]) -> TaskSummary:
    async with aclosing(updates) as open_updates:  # type: ignore[type-var]  # an async generator by construction
        return await anext(open_updates)


def update(task: dict[str, Any]) -> str:
    return json.dumps({"id": "1", "type": "next", "payload": {"data": {"taskUpdated": task}}})


class fake:
    """A WebSocket API: `act(number, socket)` after the subscription of each connection."""

    def __init__(self, act: Callable[[int, ServerConnection], Any]) -> None:
        self._act = act
        self.inits: list[Any] = []

    async def __aenter__(self) -> tuple[str, list[Any]]:
        self._server = await serve(
            self._serve, "127.0.0.1", 0, subprotocols=[Subprotocol("graphql-transport-ws")]
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"http://127.0.0.1:{port}", self.inits

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        number = len(self.inits)
        self.inits.append(json.loads(await socket.recv())["payload"])
        await socket.send('{"type": "connection_ack"}')
        assert json.loads(await socket.recv())["type"] == "subscribe"
        await self._act(number, socket)
