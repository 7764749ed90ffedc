"""API keys: made once, shown once, bounded by their owner, ended within seconds."""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed

from taskmill.api import keys as keys_module
from taskmill.api.identity import Role
from taskmill.model.clock import iso
from taskmill.sql.schema import api_keys, users
from tests.api.kit import Api, Socket, every_engine
from tests.support import wait_until

CREATE = """mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) {
    key apiKey { id name role queues prefix createdAt expiresAt lastUsedAt revokedAt user { email } } } }"""
LIST = "query($n: Int! = 20, $a: ID) { apiKeys(limit: $n, after: $a) { id name revokedAt lastUsedAt } }"
REVOKE = "mutation($id: ID!) { revokeApiKey(id: $id) { id revokedAt } }"
ME = "{ me { email role } }"
TASK = 'mutation($q: String! = "default") { createTask(input: {title: "t", queue: $q}) { id } }'


def later(**given: float) -> str:
    return iso(datetime.now(UTC).replace(tzinfo=None) + timedelta(**given))


async def create(api: Api, *, token: str | None = None, **given: Any) -> dict[str, Any]:
    data = await api.ok(CREATE, token=token, i={"name": "deploy", "role": "USER", **given})
    made: dict[str, Any] = data["createApiKey"]
    return made


async def status(api: Api, key: str) -> int:
    return (await api.post({"query": ME}, token=key)).status_code


@pytest.fixture
def at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered: as another process would see it after its CACHE_SECONDS."""
    monkeypatch.setattr(api.accounts, "cache", 0.0)
    monkeypatch.setattr(api.accounts.keys, "cache", 0.0)
    api.accounts._known.clear()
    api.accounts.keys._known.clear()


class TestMaking:
    @every_engine
    async def test_shown_once(self, api: Api) -> None:
        """The text is in the answer and nowhere else: the row has its hash and how it begins."""
        made = await create(api, name=" deploy ", queues=["media", "mail", "media"])
        key, shown = made["key"], made["apiKey"]
        assert re.fullmatch(r"tm_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}", key)
        assert shown["prefix"] == key[:11]
        assert (shown["name"], shown["role"], shown["queues"]) == ("deploy", "USER", ["media", "mail"])
        assert shown["user"] == {"email": "user@example.com"}
        row = await api.db.read(lambda c: c.execute(sa.select(api_keys)).one())
        assert row.hash == hashlib.sha256(key.encode()).digest()
        assert key[12:] not in repr(tuple(row))

    @every_engine
    async def test_opens(self, api: Api) -> None:
        """It is taken where a token is: over HTTP and over WebSocket."""
        key = (await create(api))["key"]
        assert (await api.ok(ME, token=key))["me"] == {"email": "user@example.com", "role": "USER"}
        async with api.socket(token=key) as socket:
            await socket.subscribe(ME)
            assert (await socket.next())["me"]["email"] == "user@example.com"

    @pytest.mark.parametrize(
        ("given", "code"),
        [
            ({"name": ""}, "BAD_USER_INPUT"),
            ({"name": "x" * 101}, "BAD_USER_INPUT"),
            ({"name": "a\nb"}, "BAD_USER_INPUT"),
            ({"queues": []}, "BAD_USER_INPUT"),
            ({"queues": ["a b"]}, "BAD_USER_INPUT"),
            ({"queues": [""]}, "BAD_USER_INPUT"),
            ({"queues": [f"q{n}" for n in range(101)]}, "BAD_USER_INPUT"),
            ({"expiresAt": "2020-01-01T00:00:00Z"}, "BAD_USER_INPUT"),
            ({"role": "ADMIN"}, "FORBIDDEN"),
            ({"role": "WORKER"}, "FORBIDDEN"),
            ({"role": "ROOT"}, "BAD_USER_INPUT"),
        ],
        ids=str,
    )
    async def test_refused(self, api: Api, given: dict[str, Any], code: str) -> None:
        """What a USER may not have, and values that cannot stand."""
        found, _ = await api.fails(CREATE, i={"name": "k", "role": "USER", **given})
        assert found == code

    @pytest.mark.parametrize("owner", list(Role))
    async def test_never_outranks(self, api: Api, owner: Role) -> None:
        """An ADMIN gives any role, the others their own."""
        token = await api.enlist("owner", owner)
        given = set()
        for role in Role:
            body = await api.call(CREATE, token=token, i={"name": "k", "role": role.name})
            if "errors" not in body:
                given.add(role)
                key = body["data"]["createApiKey"]["key"]
                assert (await api.ok(ME, token=key))["me"]["role"] == role.name
        assert given == (set(Role) if owner is Role.ADMIN else {owner})

    @every_engine
    async def test_most(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user has so many live keys at most, also when they are made at once; a revoked one makes room."""
        monkeypatch.setattr(keys_module, "LIVE_MOST", 3)
        given = {"name": "k", "role": "USER"}
        bodies = await asyncio.gather(*(api.call(CREATE, i=given) for _ in range(6)))
        codes = [b["errors"][0]["extensions"]["code"] for b in bodies if "errors" in b]
        assert codes == ["CONFLICT"] * 3
        [first, *_] = (await api.ok(LIST))["apiKeys"]
        await api.ok(REVOKE, id=first["id"])
        await create(api)

    async def test_old_ones_go(self, api: Api) -> None:
        """Keys that ended long ago are deleted when a new one is made."""
        old = (await create(api))["apiKey"]["id"]
        long_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=31)
        await api.db.write(lambda c: c.execute(sa.update(api_keys).values(revoked_at=long_ago)))
        new = (await create(api))["apiKey"]["id"]
        assert [k["id"] for k in (await api.ok(LIST))["apiKeys"]] == [new] != [old]

    async def test_lost_reply(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the reply to COMMIT was lost, the key that stands is answered, not a second one made."""
        write = api.db.write

        async def lossy(work: Any, *, resend: Any, **_: Any) -> Any:
            await write(work)
            return await write(resend)

        monkeypatch.setattr(api.db, "write", lossy)
        assert await status(api, (await create(api))["key"]) == 200
        assert len((await api.ok(LIST))["apiKeys"]) == 1


class TestKeysOfKeys:
    """A key that makes a key."""

    @pytest.mark.parametrize(
        ("given", "allowed"),
        [
            ({"queues": ["media"]}, True),
            ({"queues": ["media", "mail"]}, False),
            ({}, False),
        ],
        ids=str,
    )
    async def test_queues(self, api: Api, given: dict[str, Any], allowed: bool) -> None:
        """It gives away only its own queues."""
        key = (await create(api, queues=["media", "other"]))["key"]
        body = await api.call(CREATE, token=key, i={"name": "k", "role": "USER", **given})
        assert ("errors" not in body) is allowed

    @pytest.mark.parametrize(("hours", "allowed"), [(1, True), (3, False), (None, False)])
    async def test_time(self, api: Api, hours: int | None, allowed: bool) -> None:
        """What it makes does not outlive it."""
        key = (await create(api, expiresAt=later(hours=2)))["key"]
        given = {"name": "k", "role": "USER", "expiresAt": hours and later(hours=hours)}
        assert ("errors" not in await api.call(CREATE, token=key, i=given)) is allowed

    async def test_role(self, api: Api) -> None:
        """A USER key of an ADMIN makes no ADMIN key."""
        admin = await api.enlist("admin", Role.ADMIN)
        key = (await create(api, token=admin))["key"]
        assert (await api.fails(CREATE, token=key, i={"name": "k", "role": "ADMIN"}))[0] == "FORBIDDEN"

    @pytest.mark.parametrize("query", [CREATE, LIST, REVOKE])
    @pytest.mark.parametrize("owner", [Role.ADMIN, Role.WORKER])
    async def test_of_a_worker(self, api: Api, owner: Role, query: str) -> None:
        """A WORKER key works and has nothing to do with keys: it cannot outlive its end through another one."""
        token = await api.enlist("owner", owner)
        made = await create(api, token=token, role="WORKER")
        variables = {
            CREATE: {"i": {"name": "k", "role": "WORKER"}}, LIST: {}, REVOKE: {"id": made["apiKey"]["id"]},
        }  # fmt: skip
        assert (await api.fails(query, token=made["key"], **variables[query]))[0] == "FORBIDDEN"
        await api.ok(query, token=token, **variables[query])

    @pytest.mark.parametrize(
        "query",
        [
            'mutation { changePassword(input: {currentPassword: "securepassword", newPassword: "anotherpassword"}) { accessToken } }',
            "mutation { logoutEverywhere }",
        ],
    )
    async def test_no_person(self, api: Api, query: str) -> None:
        """The password and the logins are the person's."""
        key = (await create(api))["key"]
        assert (await api.fails(query, token=key))[0] == "FORBIDDEN"


class TestQueues:
    async def test_create(self, api: Api) -> None:
        """A bound key submits to its queues and to no others, alone or in a batch."""
        key = (await create(api, queues=["media"]))["key"]
        await api.ok(TASK, token=key, q="media")
        assert (await api.fails(TASK, token=key))[0] == "FORBIDDEN"
        batch = "mutation($i: [CreateTaskInput!]!) { createTasks(inputs: $i) { id } }"
        inputs = [{"title": "a", "queue": "media"}, {"title": "b", "queue": "mail"}]
        assert (await api.fails(batch, token=key, i=inputs))[0] == "FORBIDDEN"
        assert (await api.ok("{ taskStats { total } }"))["taskStats"]["total"] == 1

    @pytest.mark.parametrize(
        "verb", ["cancelTask(id: $id)", "retryTask(id: $id)", 'updateTask(id: $id, input: {title: "x"})']
    )
    async def test_verbs(self, api: Api, verb: str) -> None:
        """It changes no task of another queue, though its owner may."""
        key = (await create(api, queues=["media"]))["key"]
        other, own = await api.create(), await api.create(queue="media")
        query = f"mutation($id: ID!) {{ {verb} {{ id }} }}"
        assert (await api.fails(query, token=key, id=other["id"]))[0] == "FORBIDDEN"
        body = await api.call(query, token=key, id=own["id"])
        assert "errors" not in body or body["errors"][0]["extensions"]["code"] == "CONFLICT"


@pytest.mark.usefixtures("at_once")
class TestEnding:
    @every_engine
    async def test_revoked(self, api: Api) -> None:
        """A revoked key is 401; revoking again changes nothing."""
        made = await create(api)
        assert await status(api, made["key"]) == 200
        first = (await api.ok(REVOKE, id=made["apiKey"]["id"]))["revokeApiKey"]
        assert await status(api, made["key"]) == 401
        assert (await api.ok(REVOKE, id=made["apiKey"]["id"]))["revokeApiKey"] == first

    async def test_expired(self, api: Api) -> None:
        """A key is 401 from its time on."""
        made = await create(api, expiresAt=later(hours=1))
        assert await status(api, made["key"]) == 200
        past = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
        await api.db.write(lambda c: c.execute(sa.update(api_keys).values(expires_at=past)))
        assert await status(api, made["key"]) == 401

    @pytest.mark.parametrize("change", [{"disabled_at": datetime(2026, 1, 1)}, {"role": int(Role.WORKER)}])
    async def test_owner(self, api: Api, change: dict[str, Any]) -> None:
        """It ends with its owner: disabled, or without the role any more."""
        made = await create(api)
        await api.db.write(lambda c: c.execute(sa.update(users).values(**change)))
        assert await status(api, made["key"]) == 401

    async def test_owner_gone(self, api: Api) -> None:
        """The key of a deleted user is 401."""
        made = await create(api)
        await api.db.write(lambda c: c.execute(sa.delete(users)))
        assert await status(api, made["key"]) == 401

    async def test_stays(self, api: Api) -> None:
        """Logging out everywhere ends tokens, not keys."""
        key = (await create(api))["key"]
        await api.ok("mutation { logoutEverywhere }")
        assert await status(api, key) == 200

    async def test_socket(self, api: Api) -> None:
        """A WebSocket that a key opened runs nothing for it any more."""
        made = await create(api)
        async with api.socket(token=made["key"]) as socket:
            await socket.subscribe(ME)
            assert (await socket.next())["me"]
            assert (await socket.receive())["type"] == "complete"
            await api.ok(REVOKE, id=made["apiKey"]["id"])
            assert await refused(socket, TASK)


async def refused(socket: Socket, query: str) -> bool:
    """Whether the operation is refused, or the connection is closed for it, before or after it was sent."""
    try:
        await socket.subscribe(query, id="refused")
        message = await socket.receive()
    except ConnectionClosed as closed:
        return closed.rcvd is not None and closed.rcvd.code == 4403
    payload = message["payload"]
    errors = payload if isinstance(payload, list) else payload["errors"]
    return bool(errors[0]["extensions"]["code"] == "UNAUTHENTICATED")


class TestForged:
    @pytest.mark.parametrize(
        "change",
        [
            lambda key: key[:-1] + ("a" if key[-1] != "a" else "b"),
            lambda key: key[:-1],
            lambda key: key + "a",
            lambda key: key[:12],
            lambda key: "tm_",
            lambda key: "tm_" + "x" * 100_000,
            lambda key: key.upper(),
            lambda key: "tm_aaaaaaaa_" + "é" * 43,
        ],
        ids=["other", "short", "long", "prefix", "mark", "huge", "case", "no ASCII"],
    )
    async def test_refused(self, api: Api, change: Any) -> None:
        """Only the whole key opens. (A header of 100 kB may be refused before us.)"""
        text = change((await create(api))["key"])
        sent = {b"Content-Type": b"application/json", b"Authorization": f"Bearer {text}".encode()}
        response = await api.http.post("/graphql", content=b'{"query":"{me{id}}"}', headers=sent)
        assert response.status_code in ((400, 401, 431) if len(text) > 50_000 else (401,))


class TestListing:
    async def test_pages(self, api: Api) -> None:
        """Own keys, newest first, page by page; an ADMIN sees all."""
        names = ["a", "b", "c"]
        for name in names:
            await create(api, name=name)
        first = (await api.ok(LIST, n=2))["apiKeys"]
        rest = (await api.ok(LIST, n=2, a=first[-1]["id"]))["apiKeys"]
        assert [k["name"] for k in first + rest] == ["c", "b", "a"]
        other = await api.register("other")
        assert (await api.ok(LIST, token=other))["apiKeys"] == []
        admin = await api.enlist("admin", Role.ADMIN)
        assert len((await api.ok(LIST, token=admin))["apiKeys"]) == 3

    async def test_foreign(self, api: Api) -> None:
        """Another user's key, an absent one and a malformed id are the same; an ADMIN revokes any."""
        made = await create(api)
        other = await api.register("other")
        ids = [made["apiKey"]["id"], "01990000-0000-7000-8000-000000000000", "x"]
        [answer] = {await api.fails(REVOKE, token=other, id=given) for given in ids}
        assert answer[0] == "NOT_FOUND"
        admin = await api.enlist("admin", Role.ADMIN)
        assert (await api.ok(REVOKE, token=admin, id=ids[0]))["revokeApiKey"]["revokedAt"]


class TestLastUse:
    @every_engine
    async def test_written(self, api: Api) -> None:
        """The first use is written, off the request's way."""
        key = (await create(api))["key"]
        await api.ok(ME, token=key)

        async def used() -> Any:
            return (await api.ok(LIST))["apiKeys"][0]["lastUsedAt"]

        await wait_until(used)

    async def test_once_a_minute(self, api: Api) -> None:
        """Uses within a minute are one write, whichever process they reach."""
        key = (await create(api))["key"]
        await api.ok(ME, token=key)
        await wait_until(lambda: api.accounts.keys._writing and api.accounts.keys._writing.done())
        stamp = sa.select(api_keys.c.last_used_at)
        first = await api.db.read(lambda c: c.execute(stamp).scalar_one())
        api.accounts.keys._noted.clear()  # another process knows nothing of it
        await api.ok(ME, token=key)
        await wait_until(lambda: api.accounts.keys._writing and api.accounts.keys._writing.done())
        assert await api.db.read(lambda c: c.execute(stamp).scalar_one()) == first
