"""What an ADMIN does with users, what users do with their own account, and how logins end."""

from __future__ import annotations

import asyncio
import unicodedata
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from taskmill.api import users as users_module
from taskmill.api.identity import CACHE_SECONDS, Role
from taskmill.api.schema import socket as socket_module
from taskmill.api.schema.live import WATCH
from taskmill.model.clock import boottime
from taskmill.sql.schema import users
from taskmill.tasks.service import service_user
from tests.api.kit import PASSWORD, Api, counted, every_engine, running
from tests.api.test_auth import LOGIN, ME, REGISTER, given
from tests.api.test_keys import refused
from tests.support import wait_until

USERS = "query($n: Int! = 20, $a: ID) { users(limit: $n, after: $a) { id email role disabled } }"
SET_ROLE = "mutation($id: ID!, $r: Role!) { setUserRole(id: $id, role: $r) { role } }"
DISABLE = "mutation($id: ID!) { disableUser(id: $id) { disabled } }"
ENABLE = "mutation($id: ID!) { enableUser(id: $id) { disabled } }"
CHANGE = "mutation($i: ChangePasswordInput!) { changePassword(input: $i) { accessToken user { email } } }"
LOGOUT = "mutation { logoutEverywhere }"
NEW = "another password"


async def ids(api: Api, admin: str) -> dict[str, str]:
    """Name → id of all users."""
    found = (await api.ok(USERS, token=admin, n=100))["users"]
    return {user["email"].partition("@")[0]: user["id"] for user in found}


async def status(api: Api, token: str | None = None) -> int:
    return (await api.post({"query": ME}, token=token)).status_code


async def enter(api: Api, name: str, password: str = PASSWORD) -> dict[str, Any]:
    return await api.call(LOGIN, token="", i={"email": f"{name}@example.com", "password": password})


@pytest.fixture
async def admin(api: Api) -> str:
    return await api.enlist("admin", Role.ADMIN)


class TestAdmin:
    @every_engine
    async def test_list(self, api: Api, admin: str) -> None:
        """All users, oldest first, page by page."""
        await api.register("last")
        first = (await api.ok(USERS, token=admin, n=2))["users"]
        rest = (await api.ok(USERS, token=admin, n=2, a=first[-1]["id"]))["users"]
        assert [u["email"].partition("@")[0] for u in first + rest] == ["user", "admin", "last"]
        assert first[1]["role"] == "ADMIN"
        for n in (0, 101, -1):
            assert (await api.fails(USERS, token=admin, n=n))[0] == "BAD_USER_INPUT"

    @every_engine
    async def test_role(self, api: Api, admin: str) -> None:
        """Another role counts at the next login; the same role again ends no login."""
        user = (await ids(api, admin))["user"]
        assert (await api.ok(SET_ROLE, token=admin, id=user, r="USER"))["setUserRole"]["role"] == "USER"
        assert await status(api) == 200
        await api.ok(SET_ROLE, token=admin, id=user, r="WORKER")
        assert await status(api) == 401
        assert (await api.ok(ME, token=await api.login("user")))["me"]["role"] == "WORKER"

    @every_engine
    async def test_disable(self, api: Api, admin: str) -> None:
        """A disabled user is out at once and cannot come in, until it is enabled; its old tokens stay dead."""
        user = (await ids(api, admin))["user"]
        for _ in range(2):
            assert (await api.ok(DISABLE, token=admin, id=user))["disableUser"]["disabled"] is True
        assert await status(api) == 401
        assert (await enter(api, "user"))["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        assert (await api.ok(ENABLE, token=admin, id=user))["enableUser"]["disabled"] is False
        assert await status(api) == 401
        assert await status(api, await api.login("user")) == 200

    @every_engine
    @pytest.mark.parametrize("change", [SET_ROLE, DISABLE])
    async def test_last_admin(self, api: Api, admin: str, change: str) -> None:
        """The last ADMIN stays one; a disabled one does not count."""
        mine = (await ids(api, admin))["admin"]
        variables = {"r": "USER"} if change is SET_ROLE else {}
        assert (await api.fails(change, token=admin, id=mine, **variables))[0] == "CONFLICT"
        second = await api.enlist("second", Role.ADMIN)
        await api.ok(DISABLE, token=admin, id=(await ids(api, admin))["second"])
        assert (await api.fails(change, token=admin, id=mine, **variables))[0] == "CONFLICT"
        await api.ok(ENABLE, token=admin, id=(await ids(api, admin))["second"])
        await api.ok(change, token=admin, id=mine, **variables)
        assert await status(api, second) == 401  # it was disabled meanwhile

    async def test_service_user(self, api: Api, admin: str) -> None:
        """A service user, whom no password opens, is no other ADMIN."""
        await api.db.write(lambda c: service_user(c, "service"))
        await api.accounts.change_role((await api.accounts.list())[-1].id, Role.ADMIN)
        mine = (await ids(api, admin))["admin"]
        assert (await api.fails(DISABLE, token=admin, id=mine))[0] == "CONFLICT"

    @every_engine
    async def test_two_last_admins(self, api: Api, admin: str) -> None:
        """Of two ADMINs who take each other's role at the same time, one stays."""
        second = await api.enlist("second", Role.ADMIN)
        known = await ids(api, admin)
        await asyncio.gather(
            api.call(SET_ROLE, token=admin, id=known["second"], r="USER"),
            api.call(SET_ROLE, token=second, id=known["admin"], r="USER"),
        )
        roles = await api.db.read(lambda c: c.execute(sa.select(users.c.role)).scalars().all())
        assert list(roles).count(int(Role.ADMIN)) == 1

    @pytest.mark.parametrize("query", [SET_ROLE, DISABLE, ENABLE])
    @pytest.mark.parametrize("id", ["x", "", "01990000-0000-7000-8000-000000000000"])
    async def test_absent(self, api: Api, admin: str, query: str, id: str) -> None:
        """A user that there is not."""
        variables = {"r": "USER"} if query is SET_ROLE else {}
        assert await api.fails(query, token=admin, id=id, **variables) == (
            "NOT_FOUND", "There is no such user.",
        )  # fmt: skip


class TestPassword:
    @every_engine
    async def test_change(self, api: Api) -> None:
        """The new password opens, the old one does not; old tokens end, and the answer has a new one."""
        other = await api.login("user")
        data = await api.ok(CHANGE, i={"currentPassword": PASSWORD, "newPassword": NEW})
        assert await status(api) == await status(api, other) == 401
        assert await status(api, data["changePassword"]["accessToken"]) == 200
        assert "errors" in await enter(api, "user")
        assert "errors" not in await enter(api, "user", NEW)

    @pytest.mark.parametrize(
        ("current", "new", "field"),
        [
            ("not the password", NEW, "currentPassword"),
            ("", NEW, "currentPassword"),
            ("x" * 100, NEW, "currentPassword"),
            (PASSWORD, "short", "newPassword"),
            (PASSWORD, "x" * 73, "newPassword"),
            (PASSWORD, "x" * 1_000_000, "newPassword"),
        ],
        ids=lambda value: str(value)[:20],
    )
    async def test_refused(self, api: Api, current: str, new: str, field: str) -> None:
        """What does not stand changes nothing, and the login goes on."""
        code, message = await api.fails(CHANGE, i={"currentPassword": current, "newPassword": new})
        assert (code, message.partition(":")[0]) == ("BAD_USER_INPUT", field)
        assert await status(api) == 200
        assert "errors" not in await enter(api, "user")

    @every_engine
    async def test_two_at_once(self, api: Api) -> None:
        """Of two changes at the same time one stands, and its password opens."""
        news = ["first password", "second password"]
        bodies = await asyncio.gather(
            *(api.call(CHANGE, i={"currentPassword": PASSWORD, "newPassword": new}) for new in news)
        )
        opened = ["errors" not in await enter(api, "user", new) for new in news]
        assert opened == ["errors" not in body for body in bodies]
        assert opened.count(True) == 1

    async def test_lost_reply(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the reply to COMMIT was lost, the change that stands is told, with a token that holds."""
        write = api.db.write

        async def lossy(work: Any, *, resend: Any, **_: Any) -> Any:
            await write(work)
            return await write(resend)

        monkeypatch.setattr(api.db, "write", lossy)
        data = await api.ok(CHANGE, i={"currentPassword": PASSWORD, "newPassword": NEW})
        assert await status(api, data["changePassword"]["accessToken"]) == 200

    async def test_logout_everywhere(self, api: Api) -> None:
        """All tokens that are out end; the password opens as before."""
        other = await api.login("user")
        assert (await api.ok(LOGOUT))["logoutEverywhere"] is True
        assert await status(api) == await status(api, other) == 401
        assert await status(api, await api.login("user")) == 200


ENDINGS = {
    "deleted": lambda: sa.delete(users),
    "disabled": lambda: sa.update(users).values(disabled_at=datetime(2026, 1, 1), token_version=2),
    "another role, new password, logged out": lambda: sa.update(users).values(token_version=2),
}


class TestEnding:
    """RELIABILITY.md row 71."""

    @pytest.mark.parametrize("how", list(ENDINGS))
    async def test_bounded(self, api: Api, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        """What another process changed counts here after CACHE_SECONDS, whatever this one remembers."""
        start = boottime()
        monkeypatch.setattr(users_module, "boottime", lambda: start)
        api.accounts._known.clear()
        assert await status(api) == 200
        await api.db.write(lambda c: c.execute(ENDINGS[how]()))
        assert await status(api) == 200
        assert CACHE_SECONDS <= 5
        monkeypatch.setattr(users_module, "boottime", lambda: start + CACHE_SECONDS)
        assert await status(api) == 401

    async def test_at_once_here(self, api: Api) -> None:
        """In the process that made the change it counts with the next request."""
        admin = await api.enlist("admin", Role.ADMIN)
        await api.ok(DISABLE, token=admin, id=(await ids(api, admin))["user"])
        assert await status(api) == 401

    @pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
    async def test_elsewhere(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second server turns the token away, and ends the WebSocket that it opened there."""
        assert CACHE_SECONDS + 1.2 * WATCH < 5
        monkeypatch.setattr(socket_module, "WATCH", 0.05)
        async with AsyncExitStack() as stack:
            one, two = [await stack.enter_async_context(running(store_url)) for _ in range(2)]
            two.accounts.cache = 0.1
            token = two.token = await one.register("user")
            async with two.socket() as socket:
                await socket.subscribe("subscription { taskUpdated { id } }")
                await one.ok(LOGOUT)

                async def out() -> bool:
                    return await status(two, token) == 401

                await wait_until(out)
                assert (await socket.closed())[0] == 4403

    async def test_socket(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A WebSocket runs nothing more for a login that has ended."""
        monkeypatch.setattr(api.accounts, "cache", 0.0)
        api.accounts._known.clear()
        async with api.socket() as socket:
            await api.db.write(lambda c: c.execute(sa.update(users).values(token_version=2)))
            assert await refused(socket, 'mutation { createTask(input: {title: "t"}) { id } }')


class TestSameAnswer:
    """RELIABILITY.md row 64. Measuring the time would be noise: what takes it is counted."""

    @pytest.fixture
    async def known(self, api: Api) -> None:
        await api.register("disabled")
        await api.db.write(
            lambda c: c.execute(
                sa.update(users)
                .where(users.c.email == "disabled@example.com")
                .values(disabled_at=datetime(2026, 1, 1))
            )
        )
        await api.register("program")
        await api.db.write(
            lambda c: c.execute(
                sa.update(users).where(users.c.email == "program@example.com").values(password_hash="!")
            )
        )

    @pytest.mark.usefixtures("known")
    async def test_login(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """Unknown address, wrong password, disabled user, user without password: one answer, one hash of one cost, and
        as many statements."""
        costs: list[str] = []
        hashes = api.accounts.passwords._hashes
        verify = hashes.verify

        def counting(password: str, known: str) -> bool:
            costs.append(known.split("$")[2])
            return verify(password, known)

        monkeypatch.setattr(hashes, "verify", counting)
        tries = [
            ("nobody@example.com", PASSWORD), ("no address", PASSWORD), ("user@example.com", "wrong password"),
            ("disabled@example.com", PASSWORD), ("disabled@example.com", "wrong password"),
            ("program@example.com", PASSWORD), ("program@example.com", "!"),
        ]  # fmt: skip
        seen = set()
        for email, password in tries:
            costs.clear()
            with counted() as statements:
                answer = await api.fails(LOGIN, token="", i={"email": email, "password": password})
            seen.add((answer, tuple(costs), len(statements)))
        [((code, _), hashed, _)] = seen
        assert code == "UNAUTHENTICATED"
        assert hashed == ("04",)


class TestPasswordsTaken:
    """RELIABILITY.md row 65."""

    @pytest.mark.parametrize("password", ["x" * 73, "x" * 1024, "x" * 1_000_000, "é" * 37, "🦊" * 19])
    async def test_too_long(self, api: Api, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
        """More than 72 bytes are refused before anything is hashed, with the reason, at register and at login."""
        monkeypatch.setattr(api.accounts.passwords, "_run", None)
        for query, values in (
            (REGISTER, given(password=password)),
            (LOGIN, {"email": "user@example.com", "password": password}),
        ):
            code, message = await api.fails(query, token="", i=values)
            assert code == "BAD_USER_INPUT"
            assert "72" in message

    @pytest.mark.parametrize(
        "password", ["\x00" * 8, "a\x00bcdefgh", "securepassword\x00", "x" * 71 + "\x00"]
    )
    async def test_nul(self, api: Api, password: str) -> None:
        """A NUL is refused, at register and at login: bcrypt would take some passwords with one for others."""
        code, message = await api.fails(REGISTER, token="", i=given(password=password))
        assert (code, "NUL" in message) == ("BAD_USER_INPUT", True)
        assert (await enter(api, "user", password))["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"

    @pytest.mark.parametrize(("made", "entered"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
    async def test_unicode_forms(self, api: Api, made: Any, entered: Any) -> None:
        """One password in two Unicode forms is one: keyboards differ."""
        word = "pässwörd-Ångström"
        await api.ok(REGISTER, token="", i=given(password=unicodedata.normalize(made, word)))
        assert "errors" not in await enter(api, "new", unicodedata.normalize(entered, word))

    async def test_composing_is_bounded(self, api: Api) -> None:
        """A text of a million combining marks is refused without bringing it into any form."""
        marks = "a" + "\u0301\u0316" * 200_000
        assert (await api.fails(REGISTER, token="", i=given(password=marks)))[0] == "BAD_USER_INPUT"


async def test_unreadable_hash(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A hash that cannot be read opens for nobody, and is no error to the caller."""
    await api.db.write(lambda c: c.execute(sa.update(users).values(password_hash="$nothing$")))
    body = await enter(api, "user")
    assert body["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
