"""HTTP/1.1 with bounds: uvicorn's protocol limits neither the head of a request nor the time that it takes."""

from __future__ import annotations

import asyncio
import logging
import math
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from taskmill.api.edge import plain_refusal

HEAD_MOST: Final = 32 * 1024
"""Bytes of the request line and the headers."""
HEADERS_MOST: Final = 100
LINGER: Final = 2.0
LINGER_BYTES: Final = 1024 * 1024
"""How long, and how much, is still read of a connection after a refusal: closed with unread bytes in it, it would be
reset, and the client would learn nothing."""
LAST_CALL: Final = 0.5
"""Seconds that an idle connection is still read when the server stops: a request that was just sent is answered, and told
that it is the last one there. Closed at once, its client would not know whether it was done."""

_quiet: Final = logging.getLogger("uvicorn.error.connection")
"""Of a connection errors are told; uvicorn warns of each wrong request, and anybody can send many."""
_quiet.setLevel(logging.ERROR)


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, head_timeout: float, **given: Any) -> None:
        super().__init__(*args, **given)
        self.logger = _quiet
        self._head_timeout = head_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False  # the head of a request has begun
        self._messages = 0
        self._head = 0  # bytes of it in finished headers
        self._part = 0  # bytes of it that came in pieces
        self._unsent = math.inf
        self._refused = (400, "BAD_REQUEST", "The request is no HTTP/1.1.")
        self._over = False
        self._last = False
        self._thrown_away = 0

    # ---- the head is bounded ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._over:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.transport.abort()
            return
        reading, messages = self._reading, self._messages
        super().data_received(data)
        if self._is_over():
            return
        if self._messages == messages and self._reading == reading:
            # No head began or ended in it: a piece of one, or blank lines before one, or of a body.
            if self._reading:
                self._part += len(data)
                if self._part > HEAD_MOST:
                    self._refuse(431, "BAD_REQUEST", f"A request's head may have {HEAD_MOST} bytes.")
            elif self._is_idle():
                self._expect_head()
        elif self._reading:
            self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = True
        self._messages += 1
        self._head = self._part = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)
        if len(self.headers) > HEADERS_MOST:
            self._give_up(431, "BAD_REQUEST", f"A request may have {HEADERS_MOST} headers.")

    def on_headers_complete(self) -> None:
        self._reading = False
        self._expect_nothing()
        if not self.url.startswith(b"/"):
            self._give_up(400, "BAD_REQUEST", "The target of a request is a path.")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._give_up(505, "BAD_REQUEST", "HTTP/1.1 is spoken here.")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._give_up(400, "BAD_REQUEST", "One Host header is expected.")
        super().on_headers_complete()
        if self._last and self.cycle is not None:
            self.cycle.keep_alive = False

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_MOST:
            self._give_up(431, "BAD_REQUEST", f"A request's head may have {HEAD_MOST} bytes.")

    # ---- and so is its time -----------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        cycle: Any = self.cycle  # none before the first request, whatever uvicorn calls it
        return cycle is None or cycle.response_complete

    def _is_over(self) -> bool:
        """Refused, or a WebSocket's by now."""
        return self._over or self.transport.get_protocol() is not self

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._head_timeout, self._too_late)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if not self._is_idle():
            self._expect_head()  # its answer is on the way: what follows may wait
        elif not self._over and not self.transport.is_closing():
            self._refuse(408, "TIMEOUT", "The head of the request did not arrive in time.")

    def on_response_complete(self) -> None:
        self._unsent = math.inf
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """An answer that nobody takes would hold the connection for good."""
        left = self.transport.get_write_buffer_size()
        if 0 < left < self._unsent:
            self._unsent = left
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif left:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self._is_idle() and not self._is_over() and not self.transport.is_closing():
            self._last = True
            self.loop.call_later(LAST_CALL, self._leave)
        else:
            super().shutdown()

    def _leave(self) -> None:
        if self._is_idle() and not self._is_over():
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        self._expect_nothing()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    # ---- refusals ---------------------------------------------------------------------------------------------

    def _give_up(self, status: int, code: str, message: str) -> None:
        """Out of the parser, which ends in `send_400_response`."""
        self._refused = (status, code, message)
        raise httptools.HttpParserError(message)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refused)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._over = True
        self._expect_nothing()
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        body, headers = plain_refusal(code, message)
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Connection: close", f"Content-Length: {len(body)}", "", ""]
        self.transport.write("\r\n".join(lines).encode("latin-1") + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)
