"""An API in this process, on a free port, and a client that speaks to it over real HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from taskmill.api.app import create_app
from taskmill.api.feed import Feed
from taskmill.api.limits import Limiter
from taskmill.api.options import ApiOptions, AuthOptions
from taskmill.api.server import ApiServer, bind
from taskmill.api.users import Accounts, Role
from taskmill.api.work import Desk
from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index
from taskmill.index.wake import LocalBell
from taskmill.runtime.probes import Probes
from taskmill.sql.engine import Database, open_database
from taskmill.tasks.mill import Mill, TaskOptions
from taskmill.tasks.submit import Submitter
from tests.databases import patient

every_engine = pytest.mark.parametrize("sql_engine", ["sqlite", "mariadb", "mysql"], indirect=True)

SECRET = b"a secret for tests, 32 bytes or more"
PASSWORD = "securepassword"

TASK = "id title status priority type queue attempts createdAt updatedAt"


@dataclass
class Api:
    """A running API. `call` raises no error: it returns the body."""

    base: str
    db: Database
    mill: Mill
    feed: Feed
    accounts: Accounts
    http: httpx2.AsyncClient
    desk: Desk
    token: str | None = None
    tokens: dict[str, str] = field(default_factory=dict)

    async def post(self, body: Any, *, token: str | None = None, **headers: str) -> httpx2.Response:
        """POST /graphql: `body` as JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", "Accept": "application/json", **self._auth(token)}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/graphql", content=content, headers=sent)

    async def call(self, query: str, *, token: str | None = None, **variables: Any) -> dict[str, Any]:
        response = await self.post({"query": query, "variables": variables}, token=token)
        body: dict[str, Any] = response.json()
        return body

    async def ok(self, query: str, *, token: str | None = None, **variables: Any) -> Any:
        """The data of an answer without errors."""
        body = await self.call(query, token=token, **variables)
        assert "errors" not in body, body["errors"]
        return body["data"]

    async def fails(self, query: str, *, token: str | None = None, **variables: Any) -> tuple[str, str]:
        """Code and message of the only error of an answer."""
        body = await self.call(query, token=token, **variables)
        assert "errors" in body, body
        [error] = body["errors"]
        assert error["extensions"]["requestId"]
        return error["extensions"]["code"], error["message"]

    async def register(self, name: str) -> str:
        """The token of a new user `<name>@example.com`; the first one is used when a call names none."""
        data = await self.ok(
            "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }",
            token="",
            i={"email": f"{name}@example.com", "password": PASSWORD, "name": name.title()},
        )
        token: str = data["register"]["accessToken"]
        self.tokens[name] = token
        self.token = self.token or token
        return token

    async def login(self, name: str) -> str:
        """A new token of a user that `register` made."""
        data = await self.ok(
            "mutation($i: LoginInput!) { login(input: $i) { accessToken } }",
            token="",
            i={"email": f"{name}@example.com", "password": PASSWORD},
        )
        self.tokens[name] = data["login"]["accessToken"]
        return self.tokens[name]

    async def enlist(self, name: str, role: Role) -> str:
        """The token of a new user with a role."""
        await self.register(name)
        await self.accounts.set_role(f"{name}@example.com", role)
        return await self.login(name)

    async def create(self, *, token: str | None = None, fields: str = TASK, **given: Any) -> Any:
        data = await self.ok(
            f"mutation($i: CreateTaskInput!) {{ createTask(input: $i) {{ {fields} }} }}",
            token=token,
            i={"title": "A task", **given},
        )
        return data["createTask"]

    def _auth(self, token: str | None) -> dict[str, str]:
        value = self.token if token is None else token
        return {"Authorization": f"Bearer {value}"} if value else {}

    @asynccontextmanager
    async def socket(
        self, *, token: str | None = None, init: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncIterator[Socket]:
        """A WebSocket of graphql-transport-ws, past its connection_ack."""
        async with self.bare_socket(**options) as connection:
            socket = Socket(connection)
            payload = init if init is not None else self._auth(token)
            await socket.send({"type": "connection_init", "payload": payload})
            assert await socket.receive() == {"type": "connection_ack"}
            yield socket

    def bare_socket(self, **options: Any) -> connect:
        protocols = options.pop("subprotocols", [Subprotocol("graphql-transport-ws")])
        url = self.base.replace("http", "ws", 1) + "/graphql"
        return connect(url, subprotocols=protocols, proxy=None, **options)


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: Any) -> None:
        await self.connection.send(message if isinstance(message, str) else json.dumps(message))

    async def receive(self, timeout: float = 10.0) -> Any:
        async with asyncio.timeout(timeout):
            return json.loads(await self.connection.recv())

    async def subscribe(self, query: str, *, id: str = "1", **variables: Any) -> None:
        await self.send({"id": id, "type": "subscribe", "payload": {"query": query, "variables": variables}})

    async def next(self, timeout: float = 10.0) -> Any:
        """The data of the next event."""
        message = await self.receive(timeout)
        assert message["type"] == "next", message
        assert "errors" not in message["payload"], message
        return message["payload"]["data"]

    async def closed(self, timeout: float = 10.0) -> tuple[int | None, str | None]:
        """Code and reason of the close, whatever comes before it."""
        async with asyncio.timeout(timeout):
            with suppress(ConnectionClosed):
                while True:
                    await self.connection.recv()
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def running(
    url: str,
    *,
    options: ApiOptions | None = None,
    first_admin: bool = False,
    expiration: timedelta = timedelta(hours=1),
    previous: bytes | None = None,
    index: Index | None = None,
    feed_buffer: int = 1000,
    limits: IndexOptions | None = None,
) -> AsyncIterator[Api]:
    """An API over the migrated database at `url`; its limits count at `limits`, else in this process."""
    db = await open_database(patient(url))
    probes = Probes()
    mill = Mill(db, index, LocalBell(), TaskOptions(), probes)
    submitter, feed = Submitter(mill), Feed(db, mill.bell, probes, buffer=feed_buffer)
    auth = AuthOptions(SECRET, expiration, bcrypt_rounds=4, first_admin=first_admin, previous=previous)
    accounts = Accounts(db, rounds=auth.bcrypt_rounds, first_admin=auth.first_admin)
    desk = Desk(mill)
    options = options or ApiOptions(development=True)
    limiter = Limiter(options.limits, limits, probes=probes)
    app = create_app(mill, submitter, feed, accounts, options, auth, limiter, desk=desk)
    server = ApiServer(app, bind("127.0.0.1", 0), head_timeout=options.head_timeout)
    running_parts = [asyncio.create_task(feed.run()), asyncio.create_task(server.run())]
    try:
        await server.started()
        base = f"http://127.0.0.1:{server.port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False, timeout=20) as http:
            yield Api(base, db, mill, feed, accounts, http, desk)
    finally:
        feed.stop()
        desk.stop()
        server.stop()
        async with asyncio.timeout(15):
            await asyncio.gather(*running_parts)
            await desk.close()
        await submitter.drain()
        await mill.flush()
        accounts.close()
        await limiter.close()
        await db.close()


@contextmanager
def counted() -> Iterator[list[str]]:
    """The SQL statements that are sent inside the block."""
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
