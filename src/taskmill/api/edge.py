"""The outermost layer of HTTP: request ids, the limit of bodies, the form of errors."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskmill.errors import PayloadTooLarge, RateLimited, RequestTimeout, TaskmillError, Unavailable

REQUEST_ID: Final = "taskmill.request_id"
"""Where a scope holds it."""

STATUSES: Final[Mapping[str, int]] = {
    "BAD_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "TIMEOUT": 408,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "UNAVAILABLE": 503,
}

# Names a request in the logs and is no secret: no system call for it.
_random: Final = random.Random()

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_DIGITS: Final = re.compile(rb"\d{1,18}")

log = structlog.get_logger(__name__)

LINGER_SECONDS: Final = 5.0
LINGER_BYTES: Final = 64 * 1024 * 1024
"""What is still read of a body that was refused. Closed with unread bytes in it, a connection is reset, and a client
that sends first and reads then would learn nothing of the refusal."""


def request_id(scope: Scope) -> str:
    """Ours, never the caller's: it goes into logs and headers."""
    return str(scope.get(REQUEST_ID, ""))


def peer(scope: Scope) -> str:
    """Whose calls these are, when nobody is signed in: the client's address, of IPv6 the network of its site."""
    client = scope.get("client")
    return "" if client is None else site(client[0])


def site(host: str) -> str:
    """An address as limits know it. A site has 2^64 addresses of IPv6, and would have as many limits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64))


def refusal(
    scope: Scope, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The body of every error outside a GraphQL result, which has the same form."""
    error = {"message": message, "path": None, "extensions": {"code": code, "requestId": request_id(scope)}}
    body = msgspec.json.encode({"data": None, "errors": [error]})
    return Response(body, status, dict(headers or {}), media_type="application/json")


def refused(scope: Scope, error: TaskmillError) -> Response:
    """The response to what the product raised."""
    headers = {}
    if error.code == "UNAUTHENTICATED":
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RequestTimeout):
        headers["Connection"] = "close"
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "1"
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(error.retry_after)
    return refusal(scope, STATUSES.get(error.code, 400), error.code, error.message, headers)


class Edge:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, *, body_limit: int, body_timeout: float) -> None:
        self._app = app
        self._body_limit = body_limit
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = f"{_random.getrandbits(64):016x}"
        with structlog.contextvars.bound_contextvars(request_id=scope[REQUEST_ID]):
            if scope["type"] == "http":
                await self._http(scope, receive, send)
            else:
                await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        body = _Body(scope, receive, self._body_limit, self._body_timeout)

        async def told(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = scope[REQUEST_ID]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            elif body.unread and not message.get("more_body", False):
                # The answer goes out whole, and ends when the body has come in.
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self._app(scope, body.receive, told)
        except TaskmillError as error:
            if started:
                raise
            await refused(scope, error)(scope, receive, told)
        except Exception:
            log.exception("request.failed", path=scope["path"][:200])
            if started:
                raise
            message = "Something went wrong inside. The log has it under this request id."
            await refusal(scope, 500, "INTERNAL", message)(scope, receive, told)


class _Body:
    """Counts a request's body while it comes in: PayloadTooLarge or RequestTimeout before it is held."""

    def __init__(self, scope: Scope, receive: Receive, limit: int, timeout: float) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit
        self._deadline = asyncio.get_running_loop().time() + timeout
        self._complete = True
        for name, value in scope["headers"]:
            if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                self._complete = False
            if name == b"content-length" and _DIGITS.fullmatch(value) and int(value) > limit:
                self._left = -1

    @property
    def unread(self) -> bool:
        """Whether more of it may come."""
        return not self._complete

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._left < 0:
            raise self._too_large()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._complete = True  # nothing more is waited for
            raise RequestTimeout("The body of the request did not arrive in time.") from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._left < 0:
                raise self._too_large()
        else:
            self._complete = True
        return message

    async def drain(self) -> None:
        """Throws away what still comes, within the bounds of lingering."""
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0 and not self._complete:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._complete = not message.get("more_body", False)
        except TimeoutError:
            log.debug("body.endless")

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body of a request may have {self._limit} bytes.")
