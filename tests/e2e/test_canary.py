"""A secret that goes in never comes out: not in a log at its most talkative, not in an answer, an error or a metric."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis.asyncio as redis
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.e2e.kit import Site
from tests.support import Processes, RedisServer, free_port, server_binary, wait_until

REGISTER = "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }"
LOGIN = "mutation($i: LoginInput!) { login(input: $i) { accessToken } }"
KEY = "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }"
CHANGE = "mutation($i: ChangePasswordInput!) { changePassword(input: $i) { accessToken } }"


class Canaries:
    """A new random text for each use: the one that is found says where it leaked."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        return self.given.setdefault(name, f"Canary-{len(self.given)}-{secrets.token_hex(16)}")

    def found(self, text: str) -> list[str]:
        return [name for name, value in self.given.items() if value in text]


@pytest.fixture
async def guarded() -> AsyncIterator[RedisServer]:
    """A Redis server that gets a password, at a port."""
    binary = server_binary()
    if binary is None:
        pytest.skip("no Valkey or Redis server binary")
    server = RedisServer(binary, port=free_port()).start()
    try:
        yield server
    finally:
        server.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("sql_engine", ["mysql"], indirect=True)
async def test_no_secret_comes_out(
    store_url: str, processes: Processes, guarded: RedisServer, tmp_path: Path
) -> None:
    """Passwords, tokens, keys, payloads and the URLs of the servers are in no log line, answer or metric but the one answer that hands them over."""
    canary = Canaries()
    async with redis.from_url(guarded.url) as server:
        await server.config_set("requirepass", canary("redis password"))
    canary.given["database password"] = store_url.partition("//")[2].partition("@")[0].partition(":")[2]
    site = Site(
        processes,
        tmp_path,
        store_url,
        APP_ENV="development",  # the first user becomes ADMIN
        REDIS_URL=f"redis://:{canary('redis password')}@127.0.0.1:{guarded.port}/0",
        JWT_SECRET=canary("signing key"),
        TASKMILL_SMTP_USER="mailer",
        TASKMILL_SMTP_PASSWORD=canary("mail password"),
        TASKMILL_LOG_LEVEL="debug",
    )
    for role in ("api", "worker", "scheduler"):
        site.start(role)
    await site.ready()
    heard = await provoke(f"http://127.0.0.1:{site.ports['api']}", canary)
    guarded.kill()  # each process now has something to say of its Redis
    heard += await ask(f"http://127.0.0.1:{site.ports['api']}", "{ taskStats { total } }", {}, "nobody")
    await wait_until(lambda: "index" in site.parts["worker"].output(), 20)
    for role in ("api", "worker", "scheduler"):
        response = await site.get(role, "/metrics")
        heard += response.text if response is not None else ""
    logs = "".join(part.output() for part in site.parts.values())
    await site.end()
    assert len(logs) > 1000
    assert canary.found(heard) == []
    assert canary.found(logs) == []


async def ask(base: str, query: str, variables: dict[str, Any], token: str, path: str = "/graphql") -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
        response = await http.post(
            base + path, json={"query": query, "variables": variables}, headers=headers
        )
        return response.text + str(response.headers)


async def provoke(base: str, canary: Canaries) -> str:
    """Gives every kind of secret, right and wrong; what came back, without the answers that hand one over."""
    heard = ""
    given = {"email": "ada@example.com", "password": canary("password")[:60], "name": "Ada"}
    canary.given["password"] = given["password"]
    token = json.loads((await ask(base, REGISTER, {"i": given}, "")).partition("Headers(")[0])["data"][
        "register"
    ]
    canary.given["token"] = token = token["accessToken"]
    heard += await ask(base, REGISTER, {"i": given}, "")
    heard += await ask(
        base, LOGIN, {"i": {"email": given["email"], "password": canary("wrong password")[:70]}}, ""
    )
    heard += await ask(
        base, LOGIN, {"i": {"email": canary("address"), "password": canary("long password") * 3}}, ""
    )
    changed = {"currentPassword": canary("guess")[:70], "newPassword": canary("next password")[:60]}
    heard += await ask(base, CHANGE, {"i": changed}, token)
    made = json.loads(
        (await ask(base, KEY, {"i": {"name": "ci", "role": "USER"}}, token)).partition("Headers(")[0]
    )
    canary.given["key"] = made["data"]["createApiKey"]["key"]
    heard += await ask(base, "{ me { id } apiKeys { name prefix } }", {}, canary.given["key"])
    heard += await ask(base, "{ me { id } }", {}, canary("forged token"))
    heard += await ask(base, "{ me { id } }", {}, f"tm_{canary('forged key')}")
    heard += await ask(
        base, "{ nothing }", {"x": canary("variable")}, token, f"/graphql?token={canary('query string')}"
    )
    heard += await ask(base, "{ me { id } }", {}, token, f"/nowhere?password={canary('path')}")
    for type_ in ("NOTE", "FAIL_ONCE", "NOBODY_KNOWS"):
        task = {"title": "a task", "type": type_, "payload": {"secret": canary(f"payload of {type_}")}}
        heard += await ask(
            base, "mutation($i: CreateTaskInput!) { createTask(input: $i) { id } }", {"i": task}, token
        )
    heard += await on_a_socket(base, {"Authorization": f"Bearer {canary('socket token')}"})
    heard += await on_a_socket(base, {"token": canary("socket parameter")})
    return heard


async def on_a_socket(base: str, payload: dict[str, str]) -> str:
    """connection_init with this; what the server says, up to its close."""
    said = ""
    protocol = [Subprotocol("graphql-transport-ws")]
    async with connect(f"{base.replace('http', 'ws')}/graphql", subprotocols=protocol, proxy=None) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
        with suppress(WebSocketException):
            async with asyncio.timeout(10):
                said += str(await socket.recv())
        said += socket.close_reason or ""
    return said
