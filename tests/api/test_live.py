"""Live updates: over WebSocket and SSE, across processes, to slow clients, through a RESYNC."""

from __future__ import annotations

import asyncio
import gc
import json
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from graphql.execution.collect_fields import CollectedFields

from taskmill.api import feed as feed_module
from taskmill.api.feed import Dropped, Feed, Updates
from taskmill.api.options import ApiOptions
from taskmill.api.users import Role
from taskmill.errors import Unavailable
from taskmill.model.ids import parse_id
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import journal, tasks
from taskmill.tasks import journal as journalling
from taskmill.tasks import read
from taskmill.tasks.read import TaskView
from tests.api.kit import Api, Socket, every_engine, running
from tests.support import wait_until

UPDATES = "subscription($id: ID) { taskUpdated(taskId: $id) { id title status progress updatedAt } }"
CANCEL = "mutation($id: ID!) { cancelTask(id: $id) { id } }"
servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)


async def following(api: Api, clients: int = 1) -> None:
    await wait_until(lambda: api.feed.following == clients)


@every_engine
async def test_states_in_order(api: Api) -> None:
    """The last state of each task arrives, in order per task."""
    async with api.socket() as socket:
        await socket.subscribe(UPDATES)
        await following(api)
        ids = [(await api.create(title=str(n)))["id"] for n in range(5)]
        for task_id in ids:
            await api.ok(CANCEL, id=task_id)
        seen: dict[str, list[str]] = {task_id: [] for task_id in ids}
        while not all(states and states[-1] == "CANCELLED" for states in seen.values()):
            event = (await socket.next())["taskUpdated"]
            seen[event["id"]].append(event["status"])
        # A change that is read between two looks is told twice: with the first, as the newest state, and by itself.
        for states in seen.values():
            assert states == sorted(states, key=["QUEUED", "CANCELLED"].index)


async def test_a_long_subscription_keeps_nothing_of_its_updates(api: Api) -> None:
    """What the execution of one update needed is gone with it: a subscriber may listen for months."""

    async def updates(socket: Socket, count: int) -> int:
        for _ in range(count):
            created = (await api.create())["id"]
            while (await socket.next())["taskUpdated"]["id"] != created:
                pass
        gc.collect()
        return sum(isinstance(o, CollectedFields) for o in gc.get_objects())

    async with api.socket() as socket:
        await socket.subscribe(UPDATES)
        await following(api)
        few = await updates(socket, 5)
        assert await updates(socket, 20) < few + 10


async def test_own_tasks_only(api: Api) -> None:
    """A USER hears of its own tasks, an ADMIN of all."""
    other, admin = await api.register("other"), await api.enlist("admin", Role.ADMIN)
    async with api.socket() as user, api.socket(token=admin) as boss:
        await user.subscribe(UPDATES)
        await boss.subscribe(UPDATES)
        await following(api, 2)
        await api.create(title="theirs", token=other)
        await api.create(title="mine")
        assert (await user.next())["taskUpdated"]["title"] == "mine"
        assert [(await boss.next())["taskUpdated"]["title"] for _ in range(2)] == ["theirs", "mine"]


class TestOneTask:
    async def test_state_first(self, api: Api) -> None:
        """A subscription to one task begins with its state, so nothing falls between; others are not heard of."""
        task = await api.create(title="this")
        async with api.socket() as socket:
            await subscribe_to(socket, task["id"])
            assert (await socket.next())["taskUpdated"]["status"] == "QUEUED"
            await api.create(title="another")
            await api.ok(CANCEL, id=task["id"])
            event = (await socket.next())["taskUpdated"]
            assert (event["title"], event["status"]) == ("this", "CANCELLED")

    @pytest.mark.parametrize("given", ["01990000-0000-7000-8000-000000000000", "garbage", "foreign"])
    async def test_absent(self, api: Api, given: str) -> None:
        """A foreign, an absent and a malformed id are NOT_FOUND, alike."""
        if given == "foreign":
            given = (await api.create(token=await api.register("other")))["id"]
        async with api.socket() as socket:
            await subscribe_to(socket, given)
            message = await socket.receive()
            errors = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
            assert errors[0]["extensions"]["code"] == "NOT_FOUND"
            assert errors[0]["message"] == "There is no such task."


async def subscribe_to(socket: Any, task_id: str) -> None:
    payload = {"query": UPDATES, "variables": {"id": task_id}}
    await socket.send({"id": "1", "type": "subscribe", "payload": payload})


@servers
class TestProcesses:
    async def test_across(self, store_url: str) -> None:
        """What one process writes reaches the subscribers of another, without a bell between them."""
        async with running(store_url) as one, running(store_url) as two:
            token = await one.register("user")
            async with two.socket(token=token) as socket:
                await socket.subscribe(UPDATES)
                await following(two)
                task = await one.create(title="from one")
                event = (await socket.next())["taskUpdated"]
                assert (event["id"], event["status"]) == (task["id"], "QUEUED")
                await one.ok(CANCEL, id=task["id"])
                assert (await socket.next())["taskUpdated"]["status"] == "CANCELLED"


class TestSse:
    async def test_stream(self, api: Api) -> None:
        """The same over server-sent events."""
        async with stream(api, UPDATES) as events:
            await following(api)
            task = await api.create()
            event = await anext(events)
            assert event["data"]["taskUpdated"]["id"] == task["id"]
        await following(api, 0)

    async def test_query(self, api: Api) -> None:
        """A query over SSE is one event."""
        async with stream(api, "{ me { email } }") as events:
            assert await anext(events) == {"data": {"me": {"email": "user@example.com"}}}

    async def test_bad_document(self, api: Api) -> None:
        """Errors of the document come as an event in the form of every error."""
        for query, code in (("{", "GRAPHQL_PARSE_FAILED"), ("{ x }", "GRAPHQL_VALIDATION_FAILED")):
            async with stream(api, query) as events:
                event = await anext(events)
                assert event["errors"][0]["extensions"]["code"] == code

    async def test_stop(self, store_url: str) -> None:
        """A process that stops ends its streams with a reason, at once."""
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(running(store_url))
            await api.register("user")
            events = await stack.enter_async_context(stream(api, UPDATES))
            await following(api)
            api.feed.stop()
            event = await anext(events)
            assert event["errors"][0]["extensions"]["code"] == "UNAVAILABLE"


@asynccontextmanager
async def stream(api: Api, query: str) -> AsyncIterator[AsyncIterator[Any]]:
    """The events of an operation over SSE."""
    headers = {
        "Authorization": f"Bearer {api.token}",
        "Accept": "text/event-stream",
        "Content-Type": "application/json",
    }
    content = json.dumps({"query": query}).encode()
    async with api.http.stream("POST", "/graphql", content=content, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncIterator[Any]:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    yield json.loads(line.removeprefix("data: "))

        yield events()


async def test_stop_closes_sockets(store_url: str) -> None:
    """A process that stops closes its WebSockets with 1012."""
    async with running(store_url) as api:
        await api.register("user")
        async with api.socket() as socket:
            await socket.subscribe(UPDATES)
            await following(api)
            api.feed.stop()
            assert (await socket.closed())[0] == 1012


class TestErrorsOverSocket:
    async def test_bad_document(self, api: Api) -> None:
        """A document that cannot run ends its operation, not the connection, and the error has its code."""
        async with api.socket() as socket:
            await socket.subscribe("{ nothing }")
            message = await socket.receive()
            assert (message["type"], message["id"]) == ("error", "1")
            assert message["payload"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
            await socket.subscribe("{ me { email } }", id="2")
            assert (await socket.next())["me"]["email"] == "user@example.com"

    async def test_syntax(self, api: Api) -> None:
        """So does one that cannot be parsed."""
        async with api.socket() as socket:
            await socket.subscribe("{")
            message = await socket.receive()
            assert message["payload"][0]["extensions"]["code"] == "GRAPHQL_PARSE_FAILED"


class TestSlowClient:
    async def test_dropped(self, store_url: str) -> None:
        """A client that does not read is closed with 1013 once too much waits for it; others go on."""
        options = ApiOptions(development=True, send_timeout=20)
        async with running(store_url, options=options, feed_buffer=20) as api:
            await api.register("user")
            small = sockets.socket()
            small.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
            small.setblocking(False)
            await asyncio.get_running_loop().sock_connect(
                small, ("127.0.0.1", int(api.base.rpartition(":")[2]))
            )
            async with api.socket(sock=small, max_queue=1) as slow, api.socket() as quick:
                await slow.subscribe("subscription { taskUpdated { id payload } }")
                await quick.subscribe("subscription { taskUpdated { id } }")
                await following(api, 2)
                heard = asyncio.create_task(count_until(quick, 60))
                many = "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id } }"
                for _ in range(4):
                    await api.ok(many, i=[{"title": "t", "payload": {"a": "x" * 200_000}}] * 15)
                    await asyncio.sleep(0.1)
                await wait_until(lambda: len(api.feed._clients) == 2)
                await heard
                code, reason = await slow.closed(20)
                assert code == 1013
                assert reason

    async def test_never_reads(self, store_url: str) -> None:
        """A client that never reads again is let go after the time to send has passed."""
        options = ApiOptions(development=True, send_timeout=0.2)
        async with running(store_url, options=options) as api:
            await api.register("user")
            small = sockets.socket()
            small.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
            small.setblocking(False)
            await asyncio.get_running_loop().sock_connect(
                small, ("127.0.0.1", int(api.base.rpartition(":")[2]))
            )
            async with api.socket(sock=small, max_queue=1, close_timeout=1) as slow:
                await slow.subscribe("subscription { taskUpdated { id payload } }")
                await following(api)
                many = "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id } }"
                for _ in range(4):
                    await api.ok(many, i=[{"title": "t", "payload": {"a": "x" * 200_000}}] * 15)
                await following(api, 0)

    async def test_over_sse(self, api: Api) -> None:
        """Over SSE the stream ends with an error that says so."""
        async with stream(api, UPDATES) as events:
            await following(api)
            [client] = api.feed._clients
            client.end(Dropped("More than 20 changed tasks were waiting for this client to read."))
            event = await anext(events)
            assert event["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
            assert "waiting" in event["errors"][0]["message"]


async def count_until(socket: Any, n: int) -> None:
    seen: set[str] = set()
    while len(seen) < n:
        seen.add((await socket.next(20))["taskUpdated"]["id"])


class TestUpdates:
    """What waits for one subscriber."""

    def test_newest_state(self) -> None:
        """States of a task that nobody has read yet become the newest one, in the place of the first."""
        updates = Updates(None, None, 10)
        for row in (view(1, "a"), view(2, "b"), view(1, "c")):
            updates.put(row)
        assert [row.title for row in updates._waiting.values()] == ["c", "b"]

    async def test_bounded(self) -> None:
        """One task more than the buffer holds ends it, and what waited is forgotten."""
        updates = Updates(None, None, 2)
        for n in range(2):
            updates.put(view(n, "a"))
        updates.put(view(1, "again"))
        updates.put(view(2, "too many"))
        with pytest.raises(Dropped):
            await anext(updates)


def view(n: int, title: str) -> TaskView:
    row: Any = dict.fromkeys(TaskView.__dataclass_fields__) | {"id": bytes([n]) * 16, "title": title}
    return TaskView(**row)


@every_engine
class TestResync:
    """The journal lost rows that this process has not seen."""

    async def lose(self, api: Api, task_id: str, title: str) -> None:
        """A change whose journal row is gone before anyone could read it."""
        raw = parse_id(task_id)

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.update(tasks).where(tasks.c.id == raw).values(title=title))
            for _ in range(3):
                change = journalling.Change(raw or b"", b"u" * 16, "default", 2, 2, 2, 2, 0)
                # Not by `append`, whose row may travel with the COMMIT: it is deleted again in this transaction.
                entry = {"at": db_now(), "verb": "update", "changes": msgspec.msgpack.encode([change])}
                connection.execute(sa.insert(journal).values(**entry))
            last = connection.execute(sa.select(sa.func.max(journal.c.seq))).scalar_one()
            connection.execute(sa.delete(journal).where(journal.c.seq < last))

        await api.db.write(work)

    async def test_brought_up_to_date(self, api: Api) -> None:
        """Subscribers get the state of their tasks again."""
        task = await api.create(title="old")
        async with api.socket() as all_tasks, api.socket() as one_task:
            await all_tasks.subscribe(UPDATES)
            await subscribe_to(one_task, task["id"])
            assert (await one_task.next())["taskUpdated"]["title"] == "old"
            await following(api, 2)
            await self.lose(api, task["id"], "new")
            assert (await one_task.next())["taskUpdated"]["title"] == "new"
            assert (await all_tasks.next())["taskUpdated"]["title"] == "new"

    async def test_too_much(self, store_url: str) -> None:
        """Who has more tasks than fit is closed with 1013 and reads them anew."""
        async with running(store_url, feed_buffer=3) as api:
            await api.register("user")
            task = await api.create()
            for _ in range(3):
                await api.create()
            async with api.socket() as socket:
                await socket.subscribe(UPDATES)
                await following(api)
                await self.lose(api, task["id"], "new")
                assert (await socket.closed())[0] == 1013


class TestOutage:
    async def test_nothing_lost(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """What changed while the rows could not be read again arrives when they can."""
        failing = 3
        real = read.tasks

        def broken(*arguments: Any) -> Any:
            nonlocal failing
            failing -= 1
            if failing >= 0:
                raise Unavailable("no answer")
            return real(*arguments)

        async with api.socket() as socket:
            await socket.subscribe(UPDATES)
            await following(api)
            monkeypatch.setattr(feed_module, "loop_delay", lambda *_: 0.01)
            monkeypatch.setattr(read, "tasks", broken)
            task = await api.create()
            assert (await socket.next())["taskUpdated"]["id"] == task["id"]
            assert failing < 0

    async def test_cannot_begin(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the feed does not run a subscription is UNAVAILABLE, in bounded time."""
        monkeypatch.setattr(feed_module, "LIVE_TIMEOUT", 0.05)
        async with running(store_url) as api:
            asleep = Feed(api.db, api.mill.bell, api.mill.probes)
            with pytest.raises(Unavailable):
                async with asleep.subscribe(None):
                    pass
            assert not asleep._clients


async def test_idle(api: Api) -> None:
    """Without subscribers the journal is not read."""
    async with api.socket() as socket:
        await socket.subscribe(UPDATES)
        await following(api)
    await wait_until(lambda: not api.feed._live.is_set())
    assert api.feed.following == 0
    async with api.socket() as socket:
        await socket.subscribe(UPDATES)
        await following(api)
        task = await api.create()
        assert (await socket.next())["taskUpdated"]["id"] == task["id"]
