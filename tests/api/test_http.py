"""RELIABILITY.md part 4, rows 1 to 21: what is no proper HTTP request, against a process in production."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from taskmill.api.options import ApiOptions
from taskmill.api.server import ApiServer, bind
from tests.api.kit import Api, running
from tests.api.test_errors import BAD_BODIES
from tests.api.wire import QUERY, Answer, exchange, read_answer, request
from tests.databases import MigratedStores
from tests.support import Process, Processes, free_port, wait_until

BODY_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Row:
    """What is sent, and which statuses answer it (0: the connection is closed). A code when the body is ours."""

    number: int
    name: str
    sent: tuple[bytes, ...]
    statuses: tuple[int, ...]
    code: str = "BAD_REQUEST"
    heavy: bool = False


def row(number: int, name: str, sent: bytes, *statuses: int, code: str = "BAD_REQUEST") -> Row:
    return Row(number, name, (sent,), statuses, code)


CHUNKED = request(b"", b"Transfer-Encoding: chunked", length=False)

# The batches and bodies of rows 1 to 9.
ROWS = [Row(1, f"body: {name}", (request(body),), (400,)) for name, body in BAD_BODIES.items()]
ROWS += [
    row(5, "a batch of ten", request(b"[" + b",".join([QUERY] * 10) + b"]"), 400),
    row(10, "announced too large", request(b"", b"Content-Length: %d" % (BODY_LIMIT + 1), length=False), 413, code="PAYLOAD_TOO_LARGE"),
    Row(10, "chunked and too large", (CHUNKED, *[b"100000\r\n" + b" " * 0x100000 + b"\r\n"] * 5), (413,), "PAYLOAD_TOO_LARGE", heavy=True),
    row(11, "gzip", request(QUERY, b"Content-Encoding: gzip"), 415),
    row(11, "several encodings", request(QUERY, b"Content-Encoding: identity", b"Content-Encoding: br"), 415),
    *[row(12, f"type {kind!r}", request(kind=b"Content-Type: " + kind if kind else b""), 415)
      for kind in (b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"", b"application/jsonx", b"text/json")],
    row(13, "GET of a query", request(b"", method=b"GET", target=b"/graphql?query=%7B__typename%7D"), 405),
    row(13, "GET of a mutation", request(b"", method=b"GET", target=b"/graphql?query=mutation%7Blogout%7D"), 405),
    *[row(14, f"method {method!r}", request(method=method), 405) for method in (b"PUT", b"DELETE", b"TRACE", b"PATCH", b"OPTIONS")],
    Row(14, "method HEAD", (request(b"", method=b"HEAD"),), (405,), ""),
    row(14, "CONNECT", request(b"", method=b"CONNECT", target=b"example.com:443"), 400),
    row(14, "an unknown method", request(method=b"BREW"), 400),
    row(14, "a method in lower case", request(method=b"post"), 400),
    row(15, "Accept: image/png", request(QUERY, b"Accept: image/png"), 406),
    row(15, "JSON at q=0", request(QUERY, b"Accept: application/json;q=0, image/*"), 406),
    row(17, "two lengths", request(QUERY, b"Content-Length: 5"), 400),
    row(17, "the same length twice", request(QUERY, b"Content-Length: %d" % len(QUERY)), 400),
    row(17, "length and chunks", request(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), 400),
    row(17, "an unknown transfer encoding", request(b"0\r\n\r\n", b"Transfer-Encoding: xchunked", length=False), 400),
    row(17, "chunked, and more", request(b"0\r\n\r\n", b"Transfer-Encoding: chunked, identity", length=False), 400),
    row(17, "a negative length", request(b"", b"Content-Length: -1", length=False), 400),
    row(17, "a length in words", request(b"", b"Content-Length: ten", length=False), 400),
    row(17, "a length of 30 digits", request(b"", b"Content-Length: " + b"9" * 30, length=False), 400),
    row(17, "a space before the colon", request(QUERY, b"Transfer-Encoding : chunked"), 400),
    row(17, "a chunk of no size", CHUNKED + b"zz\r\n", 400),
    row(17, "a chunk that is longer than it says", CHUNKED + b"1\r\nabc\r\n", 400),
    row(18, "another host", request(host=b"evil.example"), 400),
    row(18, "another host with ours before it", request(host=b"localhost.evil.example"), 400),
    row(18, "no name at all", request(host=b"a/b@c"), 400),
    row(18, "an empty host", request(host=b""), 400),
    row(18, "an absolute URI", request(target=b"http://evil.example/graphql"), 400),
    row(18, "no Host", request(host=None), 400),
    row(18, "two Hosts", request(QUERY, b"Host: evil.example"), 400),
    row(19, "a header of 64 KB", request(QUERY, b"X-Long: " + b"a" * 65536), 431),
    row(19, "1000 headers", request(QUERY, *[b"X-%d: 1" % n for n in range(1000)]), 431),
    row(19, "a target of 100 KB", request(target=b"/graphql?" + b"a" * 100_000), 431),
    Row(19, "a header without an end", (b"POST /graphql HTTP/1.1\r\nX-Long: ", *[b"a" * 10_000] * 20), (431,)),
    row(19, "a token of 100 KB", request(QUERY, b"Authorization: Bearer " + b"a" * 100_000), 431),
    row(21, "an unknown path", request(target=b"/nothing"), 404, code="NOT_FOUND"),
    row(21, "out of the root", request(b"", method=b"GET", target=b"/..%2f..%2fetc/passwd"), 404, code="NOT_FOUND"),
    row(21, "out of the root, plainly", request(b"", method=b"GET", target=b"/../../etc/passwd"), 404, code="NOT_FOUND"),
    row(21, "a slash at the end", request(target=b"/graphql/"), 404, code="NOT_FOUND"),
    row(21, "two slashes", request(b"", method=b"GET", target=b"//evil.example/graphql"), 404, code="NOT_FOUND"),
    row(21, "NUL in the path", request(b"", method=b"GET", target=b"/%00"), 404, code="NOT_FOUND"),
    row(21, "a path that is no UTF-8", request(b"", method=b"GET", target=b"/%ff"), 404, code="NOT_FOUND"),
    row(0, "bytes beyond ASCII in the path", request(b"", method=b"GET", target=b"/\xff"), 400, 404),
    row(0, "a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, 400),
    row(0, "the greeting of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    row(0, "HTTP/0.9", b"GET /graphql\r\n\r\n", 505),
    row(0, "HTTP/3.0", request().replace(b"HTTP/1.1", b"HTTP/3.0"), 400),
    row(0, "a header without a colon", request(QUERY, b"nothing"), 400),
    row(0, "a folded header", request(QUERY, b"X-A: a\r\n b"), 400),
    row(0, "NUL in a header", request(QUERY, b"X-A: a\0b"), 400),
    row(0, "a bare carriage return in a header", request(QUERY, b"X-A: a\rb"), 400),
]  # fmt: skip
WHOLE = [row for row in ROWS if not row.heavy]


@dataclass
class Server:
    process: Process
    port: int

    async def answer(self, row: Row) -> Answer:
        return await exchange(self.port, *row.sent)

    def resident(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


@pytest.fixture(scope="module")
def production(migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`taskmill api` as production runs it, with two hosts of its own."""
    folder = tmp_path_factory.mktemp("production")
    processes, port = Processes(folder), free_port()
    settings = {
        "APP_ENV": "production",
        "JWT_SECRET": "a secret for tests, 32 bytes or more",
        "PORT": str(port),
        "TASKMILL_ALLOWED_HOSTS": "tasks.example.com,*.tasks.example.org",
        "TASKMILL_HOST": "127.0.0.1",
        "TASKMILL_INDEX": "none",
    }
    with migrated_stores.lend("sqlite", folder) as url:
        try:
            process = processes.taskmill("api", env=settings | {"DATABASE_URL": url})
            process.wait_for_output(f":{port}/graphql", 30)
            yield Server(process, port)
        finally:
            processes.end()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number} {row.name}")
async def test_row(production: Server, row: Row) -> None:
    """Each is answered with its status and, in the form of every error, with its code; again the same way."""
    for _ in range(1 if row.heavy else 3):
        answer = await production.answer(row)
        assert answer.status in row.statuses, answer
        assert answer.code == row.code
        assert len(answer.headers["x-request-id"]) == 16
        if row.code:
            assert answer.request_id == answer.headers["x-request-id"]


async def test_a_hundred_times(production: Server) -> None:
    """All of them over and over: the process answers on, holds no more memory, and its log has no traceback."""
    for row in WHOLE:
        await production.answer(row)
    before = production.resident()
    for _ in range(10):
        for row in WHOLE:
            await production.answer(row)
    assert (await exchange(production.port, request())).status == 200
    assert production.process.returncode is None
    assert production.resident() - before < 50
    output = production.process.output()
    assert "Traceback" not in output
    assert "request.failed" not in output
    assert len(output.splitlines()) < 50, "a wrong request writes a line of log"


# ---- row 16: slow ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def hasty(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """An API that waits for heads and bodies for a moment."""
    options = ApiOptions(head_timeout=0.2, body_timeout=0.2)
    with migrated_stores.lend("sqlite", tmp_path_factory.mktemp("hasty")) as url:
        async with running(url, options=options) as api:
            yield api


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),
        (b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"a"),
        (b"P", b""),
        (b"", b"\r\n"),
        (request() + b"POST /gr", b""),
        (request() + b"\r\n", b"\r\n"),
        (request(b"", b"Content-Length: 100", length=False), b"{"),
        (CHUNKED, b"1\r\na\r\n"),
    ],
    ids=["nothing", "a header without end", "one byte", "blank lines", "half of a second request", "blank lines after one",
         "a body", "chunks"],
)  # fmt: skip
async def test_slow(hasty: Api, sent: bytes, drip: bytes) -> None:
    """A head or a body that does not come in time ends the connection, with 408, however slowly it goes on; others are
    served all the while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(hasty))
    writer.write(sent)

    async def go_on() -> None:
        while True:
            writer.write(drip)
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(10):
            answers = []
            while (answer := await read_answer(reader)).status:
                answers.append(answer)
        assert [a.status for a in answers][-1] == 408
        assert answers[-1].code == "TIMEOUT"
        assert (await exchange(port_of(hasty), request())).status == 200
    finally:
        dripping.cancel()
        writer.close()


async def test_kept_alive(hasty: Api) -> None:
    """Between two requests of a connection there may be more time than for a head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(hasty))
    for _ in range(2):
        writer.write(request())
        assert (await read_answer(reader)).status == 200
        await asyncio.sleep(0.3)
    writer.close()


async def test_pipelined(hasty: Api) -> None:
    """Requests that come at once are answered one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(hasty))
    writer.write(request() * 5)
    assert [(await read_answer(reader)).status for _ in range(5)] == [200] * 5
    writer.close()


class Page:
    """An application whose only answer is long, and how much of it is on its way."""

    size = 16 * 1024 * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"%d" % self.size)],
            }
        )
        await send({"type": "http.response.body", "body": b" " * self.size})


@pytest.fixture
async def long_answers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    """A server of it that is impatient."""
    monkeypatch.setattr("taskmill.api.server.KEEP_ALIVE", 1.0)
    server = ApiServer(Page(), bind("127.0.0.1", 0), head_timeout=10.0)
    serving = asyncio.create_task(server.run())
    await server.started()
    yield server
    server.stop()
    server.stop()
    await serving


async def test_an_answer_that_nobody_takes(long_answers: ApiServer) -> None:
    """A client that asks and does not read holds no connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", long_answers.port, limit=1024)
    writer.write(request(b"", method=b"GET"))
    connections = long_answers._server.server_state.connections
    await wait_until(lambda: connections, what="it is connected")
    await wait_until(lambda: not connections, what="its connection was ended")
    writer.close()


async def test_an_answer_that_is_taken_slowly(long_answers: ApiServer) -> None:
    """A client that reads, slowly, gets all of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", long_answers.port)
    writer.write(request(b"", method=b"GET"))
    await reader.readuntil(b"\r\n\r\n")
    left = Page.size
    while left:
        left -= len(await reader.readexactly(min(left, 1024 * 1024)))
        await asyncio.sleep(0.15)  # so that it takes longer than the server waits for one that reads nothing
    writer.close()


async def test_last_call(long_answers: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request on its way while the server stops is answered, and told that it is the last one of its connection."""
    monkeypatch.setattr("taskmill.api.protocol.LAST_CALL", 10.0)
    monkeypatch.setattr(Page, "size", 2)
    reader, writer = await asyncio.open_connection("127.0.0.1", long_answers.port)
    writer.write(request(b"", method=b"GET"))
    assert "connection" not in (await read_answer(reader)).headers
    long_answers.stop()
    connections: Any = long_answers._server.server_state.connections
    await wait_until(lambda: all(c._last for c in connections), what="it stops")
    writer.write(request(b"", method=b"GET"))
    assert (await read_answer(reader)).headers["connection"] == "close"
    await wait_until(lambda: not connections, what="the connection was ended")
    writer.close()


async def test_no_last_request(long_answers: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing comes holds up no stop."""
    monkeypatch.setattr("taskmill.api.protocol.LAST_CALL", 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", long_answers.port)
    await wait_until(lambda: long_answers._server.server_state.connections, what="it is connected")
    long_answers.stop()
    assert await asyncio.wait_for(reader.read(), 8) == b""
    writer.close()


def port_of(api: Api) -> int:
    return int(api.base.rpartition(":")[2])


# ---- what production hides -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("{ __schema { __typename } }", "GRAPHQL_VALIDATION_FAILED"),
        ('{ __type(name: "Task") { name } }', "GRAPHQL_VALIDATION_FAILED"),
        ("{ taskk { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ tasks { idd } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ tasks(limitt: 1) { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ tasks(status: QUEUEDD) { id } }", "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_the_schema_is_not_told(production: Server, document: str, code: str) -> None:
    """No introspection, and no suggestion of what was meant, to anybody."""
    answer = await exchange(production.port, request(json.dumps({"query": document}).encode()))
    assert answer.code == code
    assert b"Did you mean" not in answer.body
    assert b"QUEUED," not in answer.body


async def test_no_page(production: Server) -> None:
    """A browser finds nothing to try documents with."""
    for target, status in ((b"/graphql", 405), (b"/graphiql", 404), (b"/", 404)):
        asked = request(b"", b"Accept: text/html", method=b"GET", target=target, kind=b"")
        assert (await exchange(production.port, asked)).status == status


# ---- row 20: the caller's request id ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [b"X-Request-ID: chosen", b"X-Request-ID: " + b"x" * 10_000, "X-Request-ID: ü☃".encode(), b"X-Request-ID: a\r\nX-Injected: b"],
    ids=["plain", "long", "unicode", "two lines"],
)  # fmt: skip
async def test_request_id(production: Server, header: bytes) -> None:
    """It is never taken over: neither in headers nor in the body nor in the log."""
    answer = await exchange(production.port, request(b"{", header))
    assert answer.status == 400
    assert len(answer.request_id) == 16
    assert answer.headers["x-request-id"] == answer.request_id
    assert "x-injected" not in answer.headers
    assert "chosen" not in production.process.output()


# ---- row 18: which hosts are ours ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LOCALHOST:3000", b"tasks.example.com", b"tasks.example.com.", b"a.b.tasks.example.org",
     b"127.0.0.1", b"192.0.2.7:80", b"[::1]:3000"],
)  # fmt: skip
async def test_hosts(production: Server, host: bytes) -> None:
    """Names of the settings, addresses and localhost are answered, with any port."""
    assert (await exchange(production.port, request(host=host))).status == 200


async def test_an_old_health_check(production: Server) -> None:
    """HTTP/1.0 names no host."""
    assert (await exchange(production.port, b"GET /health HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.parametrize("host", [b"tasks.example.org", b"xtasks.example.org", b"example.com", b"2130706433"])
async def test_other_hosts(production: Server, host: bytes) -> None:
    """What only looks like one of them is refused, by the health check too."""
    assert (await exchange(production.port, request(host=host))).status == 400
    health = request(b"", method=b"GET", target=b"/health", host=host)
    assert (await exchange(production.port, health)).status == 400
