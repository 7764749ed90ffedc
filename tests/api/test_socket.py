"""WebSockets that are misused, and those whose login ends while they are open."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from taskmill.api import auth
from taskmill.api.options import ApiOptions
from taskmill.api.schema import live, socket, view
from taskmill.api.users import Role
from taskmill.errors import Unauthenticated, Unavailable
from taskmill.model.ids import parse_id
from tests.api.kit import PASSWORD, Api, Socket, running
from tests.api.test_live import following, stream
from tests.support import wait_until

UPDATES = "subscription { taskUpdated { id title } }"
INIT: dict[str, Any] = {"type": "connection_init"}
SUBSCRIBE: dict[str, Any] = {"id": "1", "type": "subscribe", "payload": {"query": "{ __typename }"}}
FOLLOW = {"id": "1", "type": "subscribe", "payload": {"query": UPDATES}}
FORGED = {"type": "connection_init", "payload": {"Authorization": "Bearer x.y.z"}}
NEW, OLD = Subprotocol("graphql-transport-ws"), Subprotocol("graphql-ws")


def one_more(message: dict[str, Any], n: int) -> list[dict[str, Any]]:
    return [INIT, *({**message, "id": str(i)} for i in range(n))]


# name: (what is sent, the close code)
MISUSED: dict[str, tuple[list[Any], int]] = {
    "subscribe before init": ([SUBSCRIBE], 4401),
    "subscribe after a failed init": ([FORGED, SUBSCRIBE], 4403),
    "start, of the old protocol": ([{**SUBSCRIBE, "type": "start"}], 4400),
    "init twice": ([INIT, INIT], 4429),
    "a forged token": ([FORGED], 4403),
    "a token of another type": ([{"type": "connection_init", "payload": {"Authorization": 1}}], 4403),
    "another scheme": ([{"type": "connection_init", "payload": {"Authorization": "Basic dTpw"}}], 4403),
    "init with a list": ([{"type": "connection_init", "payload": []}], 4400),
    "more operations than 20": (one_more(FOLLOW, 21), 4429),
    "an id twice": ([INIT, FOLLOW, FOLLOW], 4409),
    "a large message": ([json.dumps({"type": "ping", "payload": {"a": "x" * 1_000_000}})], 1009),
    "a large message in parts": ([[b"x" * 100_000 for _ in range(10)]], 1009),
    "a flood of pings": ([INIT, *([{"type": "ping"}] * 1000)], 1008),
    "a flood of pings before init": ([{"type": "ping"}] * 1000, 1008),
    "a flood of completes": ([INIT, *([{"id": "1", "type": "complete"}] * 1000)], 1008),
    "a binary message": ([INIT, b'{"type":"ping"}'], 1003),
    "a binary message before init": ([b"\x00\xff"], 1003),
    "no JSON": (["{"], 4400),
    "no object": (["[]"], 4400),
    "an unknown type": ([{"type": "nothing"}], 4400),
    "JSON that is nested deeply": (['{"type":"ping","payload":' + "[" * 10_000 + "]" * 10_000 + "}"], 4400),
}


@pytest.mark.parametrize("name", MISUSED)
async def test_misused(api: Api, name: str) -> None:
    """A connection that is misused is closed with the code that says how, and the server serves on."""
    messages, code = MISUSED[name]
    if messages[0] == INIT:
        messages = [{**INIT, "payload": {"token": api.token}}, *messages[1:]]
    async with api.bare_socket(max_queue=None) as connection:
        with suppress(ConnectionClosed):
            for message in messages:
                await connection.send(json.dumps(message) if isinstance(message, dict) else message)
        assert (await Socket(connection).closed())[0] == code
    assert await api.ok("{ __typename }") == {"__typename": "Query"}


@pytest.mark.parametrize("protocols", [[OLD], [Subprotocol("soap")], None], ids=["old", "unknown", "none"])
@pytest.mark.parametrize("first", [INIT, {**SUBSCRIBE, "type": "start"}], ids=["init", "start"])
async def test_protocol(api: Api, protocols: list[Subprotocol] | None, first: Any) -> None:
    """Another protocol than graphql-transport-ws is closed with 4406, whatever is said in it."""
    async with api.bare_socket(subprotocols=protocols) as connection:
        with suppress(ConnectionClosed):
            await connection.send(json.dumps(first))
        assert (await Socket(connection).closed())[0] == 4406


async def test_protocols(api: Api) -> None:
    """A client that speaks both gets the new one."""
    async with api.bare_socket(subprotocols=[OLD, NEW]) as connection:
        assert connection.subprotocol == NEW


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1", "file://", "x"],
)
async def test_origin(api: Api, origin: str) -> None:
    """A page of another origin, host and port alike, cannot open a connection: 403."""
    with pytest.raises(InvalidStatus) as refused:
        async with api.bare_socket(origin=Origin(origin)):
            pass
    assert refused.value.response.status_code == 403


async def test_own_origin(api: Api) -> None:
    """A page of the server itself can, and so can a client that is no browser."""
    async with api.socket(origin=Origin(api.base)):
        pass
    async with api.socket():
        pass


async def test_no_init(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not begin in time is closed with 4408."""
    assert timedelta(seconds=10) == view.INIT_TIMEOUT
    monkeypatch.setattr(view, "INIT_TIMEOUT", timedelta(seconds=0.1))
    async with running(store_url) as api, api.bare_socket() as connection:
        assert (await Socket(connection).closed())[0] == 4408


async def test_flood_of_frames(api: Api) -> None:
    """Pings of the WebSocket protocol itself, which no application sees, end the connection too when they flood it."""
    async with api.bare_socket(ping_interval=None) as connection:
        with suppress(ConnectionClosed):
            for _ in range(2000):
                await connection.ping()
        # Its last frames may be lost: the server does not read what still comes.
        assert (await Socket(connection).closed())[0] in (1008, 1006)


async def test_fragments(api: Api) -> None:
    """A message in more fragments than there is use for ends the connection."""

    async def parts() -> AsyncIterator[str]:
        for _ in range(6000):
            yield "x"

    async with api.bare_socket() as connection:
        with suppress(ConnectionClosed):
            await connection.send(parts())
        assert (await Socket(connection).closed())[0] in (1008, 1006)


async def test_pings_at_leisure(api: Api) -> None:
    """A client may ping as often as any does."""
    async with api.socket() as client:
        for _ in range(50):
            await client.send({"type": "ping"})
            assert await client.receive() == {"type": "pong"}
            await client.connection.ping()
        await client.subscribe("{ __typename }")
        assert await client.next() == {"__typename": "Query"}


async def test_text_without_login(api: Api) -> None:
    """Who is not signed in is told what to do on a WebSocket, which has no headers to send."""
    async with api.socket(init={}) as client:
        for query in ("{ me { id } }", UPDATES):
            await client.subscribe(query)
            message = await client.receive()
            [error] = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
            assert error["extensions"]["code"] == "UNAUTHENTICATED"
            assert "connection_init" in error["message"]
            assert "header" not in error["message"]
            if message["type"] == "next":
                assert (await client.receive())["type"] == "complete"


async def test_database_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that cannot be checked now is no bad token: 1013, try again later."""

    async def away(*_: Any) -> None:
        raise Unavailable("The database does not answer. Try again.")

    monkeypatch.setattr(api.accounts, "by_id", away)
    async with api.bare_socket() as connection:
        await connection.send(json.dumps({**INIT, "payload": {"token": api.token}}))
        assert (await Socket(connection).closed())[0] == 1013


# ---- the login ends ----------------------------------------------------------------------------------------------


async def disable(api: Api, user: bytes) -> None:
    await api.accounts.disable(user)


async def end_logins(api: Api, user: bytes) -> None:
    await api.ok("mutation { logoutEverywhere }")


async def change_password(api: Api, user: bytes) -> None:
    document = "mutation($i: ChangePasswordInput!) { changePassword(input: $i) { accessToken } }"
    await api.ok(document, i={"currentPassword": PASSWORD, "newPassword": "another good password"})


async def change_role(api: Api, user: bytes) -> None:
    await api.accounts.change_role(user, Role.WORKER)


ENDS = [disable, end_logins, change_password, change_role]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks whether logins hold come more often."""
    assert live.WATCH <= 2.0, "with the cache of users 5 seconds at most"
    monkeypatch.setattr(live, "WATCH", 0.05)
    monkeypatch.setattr(socket, "WATCH", 0.05)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("busy", [True, False], ids=["subscribed", "idle"])
@pytest.mark.usefixtures("watched")
async def test_login_ends(api: Api, end: Callable[[Api, bytes], Awaitable[None]], busy: bool) -> None:
    """Disabled, logged out, with a new password or another role: closed with 4403, whatever it was doing."""
    user = await viewer(api)
    async with api.socket() as client:
        if busy:
            await client.subscribe(UPDATES)
            await wait_until(lambda: api.feed.following == 1)
        await end(api, user)
        assert (await client.closed())[0] == 4403


async def viewer(api: Api) -> bytes:
    user = parse_id((await api.ok("{ me { id } }"))["me"]["id"])
    assert user is not None
    return user


@pytest.mark.usefixtures("watched")
async def test_key_is_revoked(api: Api) -> None:
    """So does a connection with an API key that is revoked."""
    document = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key apiKey { id } } }"
    made = (await api.ok(document, i={"name": "k", "role": "USER"}))["createApiKey"]
    async with api.socket(init={"token": made["key"]}) as client:
        await client.subscribe("{ me { email } }")
        assert (await client.next())["me"]["email"] == "user@example.com"
        await api.ok("mutation($id: ID!) { revokeApiKey(id: $id) { id } }", id=made["apiKey"]["id"])
        assert (await client.closed())[0] == 4403


@pytest.mark.usefixtures("watched")
async def test_token_runs_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that runs out ends its connection, though nothing is asked of it."""
    ending = auth.LEEWAY + timedelta(hours=1)
    async with api.socket() as client:
        await client.subscribe(UPDATES)
        await wait_until(lambda: api.feed.following == 1)
        monkeypatch.setattr(auth, "time", SimpleNamespace(time=lambda: time.time() + ending.total_seconds()))
        code, reason = await client.closed()
        assert (code, reason) == (4403, "The token has expired. Log in again.")


@pytest.mark.usefixtures("watched")
async def test_stream_ends(api: Api) -> None:
    """A stream over SSE ends with its login too, and says why."""
    user = await viewer(api)
    async with stream(api, UPDATES) as events:
        await wait_until(lambda: api.feed.following == 1)
        await api.accounts.disable(user)
        event = await anext(events)
        assert event["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    await wait_until(lambda: api.feed.following == 0)


@pytest.mark.parametrize(
    ("query", "variables"),
    [("", {}), ("query($n: Int) { tasks(limit: $n) { id } }", {"n": None})],
    ids=["no document", "null where there is a default"],
)
async def test_wrong_operation(api: Api, query: str, variables: dict[str, Any]) -> None:
    """What HTTP calls the caller's mistake is none of ours on a WebSocket either, and the connection goes on."""
    async with api.socket() as client:
        await client.subscribe(query, **variables)
        message = await client.receive()
        errors = message["payload"] if message["type"] == "error" else message["payload"]["errors"]
        assert errors[0]["extensions"]["code"] in ("BAD_REQUEST", "BAD_USER_INPUT")
        await client.subscribe("{ me { id } }", id="2")
        while (await client.receive()).get("id") != "2":
            pass


@pytest.mark.usefixtures("watched")
async def test_others_go_on(api: Api) -> None:
    """Connections of other users, and those without login, stay open."""
    user = await viewer(api)
    other = await api.register("other")
    async with AsyncExitStack() as stack:
        ended = await stack.enter_async_context(api.socket())
        theirs = await stack.enter_async_context(api.socket(token=other))
        anonymous = await stack.enter_async_context(api.socket(init={}))
        await api.accounts.disable(user)
        assert (await ended.closed())[0] == 4403
        for client in (theirs, anonymous):
            await client.subscribe("{ __typename }")
            assert await client.next() == {"__typename": "Query"}


@pytest.mark.usefixtures("watched")
async def test_cannot_be_looked_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database does not answer a connection stays open; the first look that is answered decides."""
    looks, answers = 0, Unavailable("no answer")

    async def recheck(*_: Any) -> Any:
        nonlocal looks
        looks += 1
        raise answers

    monkeypatch.setattr(auth.Tokens, "recheck", recheck)
    async with api.socket() as client:
        await wait_until(lambda: looks >= 3)
        await client.send({"type": "ping"})
        assert await client.receive() == {"type": "pong"}
        answers = Unauthenticated("gone")  # type: ignore[assignment]  # another error of the tree
        assert await client.closed() == (4403, "gone")


@pytest.mark.usefixtures("watched")
async def test_watch_breaks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose login cannot be watched, by a bug, is not left open."""

    async def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(auth.Tokens, "recheck", broken)
    async with api.socket() as client:
        assert (await client.closed())[0] == 1013


@pytest.mark.usefixtures("watched")
async def test_idle_without_login(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without login is not kept for nothing, one with a login is; 4401."""
    monkeypatch.setattr(socket, "ANONYMOUS", 0.2)
    async with api.socket() as client:
        async with api.socket(init={}) as anonymous:
            assert (await anonymous.closed())[0] == 4401
        await client.subscribe("{ __typename }")
        assert await client.next() == {"__typename": "Query"}


async def test_connections_of_a_user(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may have so many connections; one more is closed with 4429, and one that ended makes room."""
    monkeypatch.setattr(live, "CONNECTIONS", 2)
    other = await api.register("other")
    async with api.socket(), api.socket(token=other):
        async with api.socket(), api.bare_socket() as third:
            await third.send(json.dumps({**INIT, "payload": {"token": api.token}}))
            assert (await Socket(third).closed())[0] == 4429
        await wait_until(lambda: live._open.total() == 2)
        async with api.socket() as again:
            await again.subscribe("{ __typename }")
            assert await again.next() == {"__typename": "Query"}
    await wait_until(lambda: not live._open)


async def test_streams_of_a_user(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams over SSE are counted with them, and told so."""
    monkeypatch.setattr(live, "CONNECTIONS", 2)
    async with api.socket(), stream(api, UPDATES):
        await wait_until(lambda: api.feed.following == 1)
        async with stream(api, UPDATES) as events:
            event = await anext(events)
            assert event["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
    await wait_until(lambda: not live._open)


async def test_client_goes(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that went while it was sent to is no error of ours, and none is logged."""

    async def gone(*_: Any) -> None:
        raise WebSocketDisconnect(1006)

    async with api.socket() as client:
        await client.subscribe(UPDATES)
        await following(api)
        monkeypatch.setattr(WebSocket, "send_text", gone)
        await api.create()
        await client.closed()
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


async def test_nothing_is_left(api: Api) -> None:
    """A hundred connections that come and go leave no task behind."""
    before = len(asyncio.all_tasks())
    for _ in range(100):
        async with api.bare_socket() as connection:
            await connection.send(json.dumps({**INIT, "payload": {"token": api.token}}))
            await connection.recv()
    await wait_until(lambda: len(asyncio.all_tasks()) <= before + 2)


async def test_operations_at_once(store_url: str) -> None:
    """Operations that have ended make room for others."""
    async with running(store_url, options=ApiOptions(subscriptions=2)) as api:
        await api.register("user")
        async with api.socket() as client:
            for n in range(20):
                await client.subscribe("{ __typename }", id=str(n))
                assert await client.next() == {"__typename": "Query"}
                assert (await client.receive())["type"] == "complete"
