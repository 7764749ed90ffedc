"""Who is let in: users, passwords, tokens, over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from taskmill.api import passwords as passwords_module
from taskmill.api.auth import key_id
from taskmill.api.options import ApiOptions, AuthOptions
from taskmill.api.users import Role
from taskmill.errors import ConfigError, Conflict, NotFound
from taskmill.model.task import PAYLOAD_LIMIT
from taskmill.sql.schema import users
from tests.api.kit import PASSWORD, SECRET, Api, every_engine, running

REGISTER = "mutation($i: RegisterInput!) { register(input: $i) { accessToken user { email name role } } }"
LOGIN = "mutation($i: LoginInput!) { login(input: $i) { accessToken user { id } } }"
ME = "{ me { email role } }"


def given(**changes: Any) -> dict[str, Any]:
    return {"email": "new@example.com", "password": PASSWORD, "name": "New", **changes}


class TestRegister:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"email": "nobody"}, "email"),
            ({"email": "a@b@c"}, "email"),
            ({"email": "a b@example.com"}, "email"),
            ({"email": "a\n@example.com"}, "email"),
            ({"email": "a" * 250 + "@example.com"}, "email"),
            ({"email": ""}, "email"),
            ({"password": "1234567"}, "password"),
            ({"password": "x" * 73}, "password"),
            ({"password": "é" * 37}, "password"),
            ({"password": "x" * 1_000_000}, "password"),
            ({"name": ""}, "name"),
            ({"name": "   "}, "name"),
            ({"name": "x" * 201}, "name"),
            ({"name": "a\x00b"}, "name"),
        ],
        ids=lambda value: str(value)[:40],
    )
    async def test_refused(self, api: Api, changes: dict[str, str], field: str) -> None:
        """A value that cannot stand is BAD_USER_INPUT and names its field."""
        code, message = await api.fails(REGISTER, token="", i=given(**changes))
        assert code == "BAD_USER_INPUT"
        assert message.startswith(f"{field}:")

    @pytest.mark.parametrize("query", [REGISTER, LOGIN])
    async def test_endless_address(self, api: Api, query: str) -> None:
        """An address that Unicode takes minutes to bring into order is refused unread: others are answered meanwhile."""
        email = "e" + "\u0301\u0323" * 250_000 + "@example.com"
        entering = given(email=email)
        if query == LOGIN:
            del entering["name"]
        code, _ = await api.fails(query, token="", i=entering)
        assert code == ("BAD_USER_INPUT" if query == REGISTER else "UNAUTHENTICATED")

    @pytest.mark.parametrize("password", ["x" * 72, "é" * 36, "a\tbcdefgh", "🦊🦊🦊🦊"])
    async def test_whole_password_counts(self, api: Api, password: str) -> None:
        """Passwords of 8 to 72 bytes are taken whole: one without its end does not open."""
        await api.ok(REGISTER, token="", i=given(password=password))
        entering = {"email": "new@example.com", "password": password}
        await api.ok(LOGIN, token="", i=entering)
        code, _ = await api.fails(LOGIN, token="", i=entering | {"password": password[:-1]})
        assert code == "UNAUTHENTICATED"

    async def test_address_is_one(self, api: Api) -> None:
        """Capitals and blanks around make no other address."""
        data = await api.ok(REGISTER, token="", i=given(email="  New@Example.COM "))
        assert data["register"]["user"]["email"] == "new@example.com"
        assert (await api.fails(REGISTER, token="", i=given()))[0] == "CONFLICT"
        await api.ok(LOGIN, token="", i={"email": "NEW@example.com", "password": PASSWORD})


class TestLogin:
    async def test_tells_nothing(self, api: Api) -> None:
        """An unknown address and a wrong password get the same answer."""
        answers = {
            await api.fails(LOGIN, token="", i={"email": email, "password": "not the password"})
            for email in ("user@example.com", "nobody@example.com", "no address")
        }
        [(code, _)] = answers
        assert code == "UNAUTHENTICATED"

    async def test_unknown_user_costs_a_hash(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hash is computed for an unknown address too: the time tells nothing."""
        checked: list[object] = []
        hashes = api.accounts.passwords._hashes
        check = hashes.verify

        def counting(password: str, known: str) -> Any:
            checked.append(known)
            return check(password, known)

        monkeypatch.setattr(hashes, "verify", counting)
        await api.fails(LOGIN, token="", i={"email": "nobody@example.com", "password": PASSWORD})
        assert len(checked) == 1

    async def test_stronger_hash(self, store_url: str) -> None:
        """A login renews a hash that was made with another cost."""
        async with running(store_url) as api:
            await api.register("user")
            api.accounts.passwords.hasher.rounds = 5
            entering = {"email": "user@example.com", "password": PASSWORD}
            await api.ok(LOGIN, token="", i=entering)
            stored = await api.db.read(lambda c: c.execute(sa.select(users.c.password_hash)).scalar_one())
            assert stored.startswith("$2b$05$")
            await api.ok(LOGIN, token="", i=entering)

    async def test_flood(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """More sign-ins than can wait are turned away at once, and the rest go through."""
        monkeypatch.setattr(passwords_module, "HASHING_WAITERS", 3)
        entering = {"email": "user@example.com", "password": PASSWORD}
        bodies = await asyncio.gather(*(api.call(LOGIN, token="", i=entering) for _ in range(30)))
        codes = {b["errors"][0]["extensions"]["code"] if "errors" in b else "ok" for b in bodies}
        assert codes <= {"ok", "UNAVAILABLE"}
        assert "ok" in codes


class TestFirstAdmin:
    @every_engine
    async def test_one_of_many(self, store_url: str) -> None:
        """Of many who register at once with an empty installation, one becomes ADMIN."""
        async with running(store_url, first_admin=True) as one, running_beside(store_url, one) as two:
            inputs = [given(email=f"u{n}@example.com") for n in range(8)]
            answers = await asyncio.gather(
                *((one, two)[n % 2].ok(REGISTER, token="", i=i) for n, i in enumerate(inputs))
            )
            roles = sorted(a["register"]["user"]["role"] for a in answers)
            assert roles == ["ADMIN"] + ["USER"] * 7

    async def test_not_beside_others(self, store_url: str) -> None:
        """Where a user exists, the next to register is a USER."""
        async with running(store_url, first_admin=True) as api:
            await api.accounts.create("made@example.com", PASSWORD, "Made", Role.USER)
            data = await api.ok(REGISTER, token="", i=given())
            assert data["register"]["user"]["role"] == "USER"

    async def test_never_in_production(self, store_url: str) -> None:
        """Unless the options say so, the first user is a USER."""
        async with running(store_url) as api:
            data = await api.ok(REGISTER, token="", i=given())
            assert data["register"]["user"]["role"] == "USER"

    async def test_failed_first(self, store_url: str) -> None:
        """A first registration that fails takes nothing: the next one becomes ADMIN."""
        async with running(store_url, first_admin=True) as api:
            await api.fails(REGISTER, token="", i=given(name=""))
            data = await api.ok(REGISTER, token="", i=given())
            assert data["register"]["user"]["role"] == "ADMIN"


def running_beside(url: str, api: Api) -> Any:
    """A second process on the servers; SQLite has one process, which is asked twice."""
    from contextlib import nullcontext

    return nullcontext(api) if url.startswith("sqlite") else running(url, first_admin=True)


class TestLostReply:
    async def test_register_once(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the reply to COMMIT was lost, the user that stands is found, not made twice or refused."""
        write = api.db.write

        async def lossy(work: Any, *, resend: Any, **_: Any) -> Any:
            await write(work)
            return await write(resend)

        monkeypatch.setattr(api.db, "write", lossy)
        data = await api.ok(REGISTER, token="", i=given())
        assert data["register"]["user"]["email"] == "new@example.com"

    async def test_register_lost(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """When nothing stands, the second try makes the user."""
        write = api.db.write

        async def lost(work: Any, *, resend: Any, **_: Any) -> Any:
            return await write(resend)

        monkeypatch.setattr(api.db, "write", lost)
        await api.ok(REGISTER, token="", i=given())


class TestAccounts:
    """What the command line does."""

    @every_engine
    async def test_roles(self, api: Api) -> None:
        """A new role ends the tokens that are out, and counts at the next login."""
        user = await api.accounts.set_role("User@example.com", Role.ADMIN)
        assert user.role is Role.ADMIN
        assert (await api.post({"query": ME})).status_code == 401
        data = await api.ok(LOGIN, token="", i={"email": "user@example.com", "password": PASSWORD})
        assert (await api.ok(ME, token=data["login"]["accessToken"]))["me"]["role"] == "ADMIN"
        assert [u.email for u in await api.accounts.list()] == ["user@example.com"]

    async def test_refusals(self, api: Api) -> None:
        """An address that is taken, or that nobody has."""
        with pytest.raises(Conflict):
            await api.accounts.create("user@example.com", PASSWORD, "Again", Role.USER)
        with pytest.raises(NotFound):
            await api.accounts.set_role("nobody@example.com", Role.ADMIN)


def claims(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    good = {
        "iss": "taskmill",
        "aud": "taskmill-api",
        "typ": "access",
        "sub": "",
        "ver": 1,
        "jti": "x",
        "iat": now,
        "exp": now + timedelta(hours=1),
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


KID = {"kid": key_id(SECRET)}

FORGED: dict[str, Any] = {
    "not a token": lambda sub: "abc",
    "another key": lambda sub: jwt.encode(
        claims(sub=sub), b"another secret of more than 32 bytes!", "HS256", headers=KID
    ),
    "no signature": lambda sub: jwt.encode(claims(sub=sub), "", "none", headers=KID),
    "another algorithm": lambda sub: jwt.encode(claims(sub=sub), SECRET + b"." * 64, "HS512", headers=KID),
    "expired": lambda sub: sign(sub, exp=datetime.now(UTC) - timedelta(minutes=1)),
    "from the future": lambda sub: sign(sub, nbf=datetime.now(UTC) + timedelta(hours=1)),
    "no expiry": lambda sub: sign(sub, exp=None),
    "expiry as text": lambda sub: sign(sub, exp="tomorrow"),
    "expiry beyond numbers": lambda sub: sign(sub, exp=1e300),
    "no id": lambda sub: sign(sub, jti=None),
    "no time": lambda sub: sign(sub, iat=None),
    "another issuer": lambda sub: sign(sub, iss="taskmill2"),
    "another audience": lambda sub: sign(sub, aud="taskmill"),
    "several audiences": lambda sub: sign(sub, aud=["taskmill-api", "x"]),
    "another type": lambda sub: sign(sub, typ="refresh"),
    "no type": lambda sub: sign(sub, typ=None),
    "another version": lambda sub: sign(sub, ver=2),
    "no version": lambda sub: sign(sub, ver=None),
    "nobody": lambda sub: sign("01990000-0000-7000-8000-000000000000"),
    "no id of a user": lambda sub: sign("nobody"),
    "very long": lambda sub: sign(sub, jti="x" * 5000),
    "unknown critical header": lambda sub: jwt.encode(
        claims(sub=sub), SECRET, "HS256", headers=KID | {"crit": ["x"], "x": 1}
    ),
}


def sign(sub: str, **changes: Any) -> str:
    return jwt.encode(claims(sub=sub, **changes), SECRET, "HS256", headers=KID)


class TestTokens:
    async def test_good(self, api: Api) -> None:
        """The claims that the forgeries below change are good as they are."""
        assert (await api.ok(ME, token=sign(await user_id(api))))["me"]["email"] == "user@example.com"

    @pytest.mark.parametrize("name", list(FORGED))
    async def test_forged(self, api: Api, name: str) -> None:
        """A presented but invalid token is 401 before anything runs, over HTTP, and 4403 over WebSocket."""
        token = FORGED[name](await user_id(api))
        response = await api.post({"query": "{ __typename }"}, token=token)
        assert response.status_code == 401
        assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        assert response.headers["www-authenticate"] == "Bearer"
        async with api.bare_socket() as socket:
            await socket.send(f'{{"type":"connection_init","payload":{{"token":"{token}"}}}}')
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 4403

    @pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer a b", "", "x"])
    async def test_other_schemes(self, api: Api, value: str) -> None:
        """Another scheme is a credential that is not valid."""
        assert (await api.post({"query": "{ __typename }"}, Authorization=value)).status_code == 401

    async def test_two_headers(self, api: Api) -> None:
        """Two credentials are none."""
        headers = [("Authorization", f"Bearer {api.token}")] * 2 + [("Content-Type", "application/json")]
        response = await api.http.post("/graphql", content=b'{"query":"{me{id}}"}', headers=headers)
        assert response.status_code == 401

    async def test_scheme_in_any_case(self, api: Api) -> None:
        """The scheme's case does not count."""
        response = await api.post({"query": ME}, Authorization=f"bearer {api.token}")
        assert response.json()["data"]["me"]

    async def test_none(self, api: Api) -> None:
        """Without a token what is protected is UNAUTHENTICATED, with 200."""
        response = await api.post({"query": ME}, token="")
        assert response.status_code == 200
        assert response.json()["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"

    @pytest.mark.parametrize(
        "query",
        [
            "{ tasks { id } }",
            '{ task(id: "x") { id } }',
            "{ taskStats { total } }",
            'mutation { createTask(input: {title: "t"}) { id } }',
            'mutation { createTasks(inputs: [{title: "t"}]) { id } }',
            'mutation { updateTask(id: "x", input: {title: "t"}) { id } }',
            'mutation { cancelTask(id: "x") { id } }',
            'mutation { retryTask(id: "x") { id } }',
        ],
    )
    async def test_all_protected(self, api: Api, query: str) -> None:
        """Only register and login are open."""
        assert (await api.fails(query, token=""))[0] == "UNAUTHENTICATED"

    @pytest.mark.parametrize("change", [{"token_version": 2}, {"disabled_at": datetime(2026, 1, 1)}])
    async def test_revoked(self, api: Api, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
        """A raised token version and a disabled user end the tokens that are out."""
        monkeypatch.setattr(api.accounts, "cache", 0.0)
        api.accounts._known.clear()
        await api.ok(ME)
        await api.db.write(lambda c: c.execute(sa.update(users).values(**change)))
        assert (await api.post({"query": ME})).status_code == 401

    async def test_disabled_cannot_enter(self, api: Api) -> None:
        """A disabled user is refused like a wrong password."""
        await api.db.write(lambda c: c.execute(sa.update(users).values(disabled_at=datetime(2026, 1, 1))))
        entering = {"email": "user@example.com", "password": PASSWORD}
        wrong = await api.fails(LOGIN, token="", i=entering | {"password": "wrong password"})
        assert await api.fails(LOGIN, token="", i=entering) == wrong

    async def test_expiration(self, store_url: str) -> None:
        """A token lives as long as the options say."""
        async with running(store_url, expiration=timedelta(minutes=5)) as api:
            token = await api.register("user")
            told = jwt.decode(token, SECRET, algorithms=["HS256"], audience="taskmill-api")
            assert told["exp"] - told["iat"] == 300


async def user_id(api: Api) -> str:
    return str((await api.ok("{ me { id } }"))["me"]["id"])


def test_short_secret() -> None:
    """A key shorter than 32 bytes is refused."""
    with pytest.raises(ConfigError):
        AuthOptions(b"short")


class TestSocket:
    @pytest.mark.parametrize("key", ["Authorization", "authorization", "token"])
    async def test_token_in_init(self, api: Api, key: str) -> None:
        """connection_init takes the token by any of its usual names."""
        value = api.token if key == "token" else f"Bearer {api.token}"
        async with api.socket(init={key: value}) as socket:
            await socket.subscribe(ME)
            assert (await socket.next())["me"]["email"] == "user@example.com"

    async def test_token_in_handshake(self, api: Api) -> None:
        """A client that is no browser may send it as a header."""
        headers = {"Authorization": f"Bearer {api.token}"}
        async with api.socket(init={}, additional_headers=headers) as socket:
            await socket.subscribe(ME)
            assert (await socket.next())["me"]["email"] == "user@example.com"

    async def test_without_token(self, api: Api) -> None:
        """Without a token the connection stands and its operations are UNAUTHENTICATED."""
        async with api.socket(init={}) as socket:
            await socket.subscribe("subscription { taskUpdated { id } }")
            message = await socket.receive()
            errors = message["payload"]["errors"] if message["type"] == "next" else message["payload"]
            assert errors[0]["extensions"]["code"] == "UNAUTHENTICATED"

    async def test_subscribe_before_init(self, api: Api) -> None:
        """Nothing runs before connection_init: 4401."""
        async with api.bare_socket() as socket:
            await socket.send('{"id":"1","type":"subscribe","payload":{"query":"{ __typename }"}}')
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 4401

    async def test_legacy_protocol(self, api: Api) -> None:
        """The protocol graphql-ws of old is not spoken: 4406."""
        async with api.bare_socket(subprotocols=[Subprotocol("graphql-ws")]) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 4406

    async def test_foreign_page(self, api: Api) -> None:
        """A page of another origin cannot open a WebSocket; one that the options name can."""
        with pytest.raises(InvalidStatus) as refused:
            async with api.bare_socket(origin=Origin("https://evil.example")):
                pass
        assert refused.value.response.status_code == 403

    async def test_allowed_page(self, store_url: str) -> None:
        """A page of an origin that the options name can."""
        options = ApiOptions(allowed_origins=("https://good.example",))
        async with running(store_url, options=options) as api:
            await api.register("user")
            async with api.socket(origin=Origin("https://good.example")):
                pass

    @pytest.mark.parametrize(
        "message",
        [
            "{",
            "[]",
            '"x"',
            '{"type":1}',
            '{"type":"subscribe","id":[],"payload":{"query":"{__typename}"}}',
            '{"type":"subscribe","id":"1"}',
            '{"type":"subscribe","id":"1","payload":{"query":1}}',
            '{"type":"subscribe","id":"1","payload":{"query":"{__typename}","variables":[]}}',
            "null",
            '{"type":"nothing"}',
            '{"type":"' + "é" * 500 + '"}',
            '{"type":"ping","payload":{"a":1,"a":2}}',
        ],
    )
    async def test_malformed(self, api: Api, message: str) -> None:
        """A message that is none closes the connection with 4400, and nothing breaks."""
        async with api.socket() as socket:
            await socket.send(message)
            assert (await socket.closed())[0] == 4400

    async def test_binary(self, api: Api) -> None:
        """A binary message is none of the protocol's: 1003."""
        async with api.socket() as socket:
            await socket.connection.send(b"{}")
            assert (await socket.closed())[0] == 1003

    async def test_large(self, api: Api) -> None:
        """A message beyond the limit closes the connection with 1009; the largest payload fits."""
        async with api.socket() as socket:
            query = 'mutation($p: JSON) { createTask(input: {title: "t", payload: $p}) { id } }'
            await socket.subscribe(query, p={"a": "x" * (PAYLOAD_LIMIT - 8)})
            assert (await socket.next())["createTask"]["id"]
            await socket.send(json.dumps({"type": "ping", "payload": {"a": "x" * 600_000}}))
            assert (await socket.closed())[0] == 1009

    async def test_too_many(self, store_url: str) -> None:
        """A connection has room for so many operations; one more closes it with 4429."""
        async with running(store_url, options=ApiOptions(subscriptions=2)) as api:
            await api.register("user")
            async with api.socket() as socket:
                for n in range(3):
                    await socket.subscribe("subscription { taskUpdated { id } }", id=str(n))
                assert (await socket.closed())[0] == 4429
