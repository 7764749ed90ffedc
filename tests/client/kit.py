"""An API that answers what a test says, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

DROP = b""
"""Reads the request, and closes the connection without an answer."""

SILENCE = b"\0"
"""Reads the request, and neither answers nor closes."""


def answer(body: Any, *, status: int = 200, **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def refusal(code: str, *, status: int = 200, message: str = "no", **headers: str) -> bytes:
    error = {"message": message, "extensions": {"code": code, "requestId": "0123"}}
    return answer({"data": None, "errors": [error]}, status=status, **headers)


ME = {
    "id": "1",
    "email": "a@b.example",
    "name": "A",
    "role": "USER",
    "disabled": False,
    "createdAt": "2026-01-01T00:00:00.000Z",
}


@dataclass
class Scripted:
    """Answers one request after the other; the last answer stays."""

    answers: list[bytes]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                self.requests.append(json.loads(await reader.readexactly(length)))
                reply = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if reply == DROP:
                    break
                if reply == SILENCE:
                    continue
                writer.write(reply)
        writer.close()


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[Scripted]:
    api = Scripted(list(answers))
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield api
