"""Requests as bytes on a socket, for what no client library would send."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

QUERY = b'{"query":"{__typename}"}'
JSON = b"Content-Type: application/json"


@dataclass(frozen=True)
class Answer:
    """What came back; status 0: nothing but the end of the connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the only error; empty when the body is not ours."""
        return str(self._error()["extensions"]["code"]) if self.body else ""

    @property
    def request_id(self) -> str:
        return str(self._error()["extensions"]["requestId"])

    def _error(self) -> Any:
        [error] = json.loads(self.body)["errors"]
        return error


def request(
    body: bytes = QUERY,
    *headers: bytes,
    method: bytes = b"POST",
    target: bytes = b"/graphql",
    host: bytes | None = b"localhost",
    kind: bytes = JSON,
    length: bool = True,
) -> bytes:
    """A request with the usual headers, but for those that a test takes away."""
    lines = [method + b" " + target + b" HTTP/1.1"]
    lines += [b"Host: " + host] if host is not None else []
    lines += [kind] if kind else []
    lines += [b"Content-Length: %d" % len(body)] if length else []
    return b"\r\n".join([*lines, *headers, b"", body])


async def exchange(port: int, *pieces: bytes, timeout: float = 10.0) -> Answer:
    """Sends the pieces and reads one answer. AssertionError: none came, and the connection stayed open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(timeout):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
            except ConnectionError:
                pass  # it may answer before all was sent
            return await read_answer(reader, head=pieces[0].startswith(b"HEAD"))
    except TimeoutError:
        raise AssertionError("no answer, and the connection is open") from None
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    try:
        top = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return Answer(0, {}, b"")
    first, *lines = top.decode("latin-1").strip().split("\r\n")
    pairs = [line.partition(":") for line in lines]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    size = 0 if head else int(headers.get("content-length", 0))
    return Answer(int(first.split()[1]), headers, await reader.readexactly(size))
