"""The outermost layer of HTTP: request ids, hosts, proxies, the limit of bodies, headers, the form of errors."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from taskmill.api.headers import Hosts, Origins, Proxies, accepts, first, joined, site
from taskmill.api.meter import REFUSED, count_refused
from taskmill.api.options import ApiOptions
from taskmill.errors import PayloadTooLarge, RateLimited, RequestTimeout, TaskmillError, Unavailable
from taskmill.runtime.probes import Probes

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
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_HSTS: Final = "max-age=31536000"
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


def refusal(
    scope: Scope, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The body of every error outside a GraphQL result, which has the same form."""
    scope[REFUSED] = status, code
    extensions: dict[str, object] = {"code": code, "requestId": request_id(scope)}
    if headers and code == "RATE_LIMITED":
        extensions["retryAfter"] = int(headers["Retry-After"])
    return Response(_body(message, extensions), status, dict(headers or {}), media_type="application/json")


def plain_refusal(code: str, message: str) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers of an error for what did not become a request."""
    number = _new_id()
    headers = {"X-Request-Id": number, "Content-Type": "application/json", **_HEADERS}
    return _body(message, {"code": code, "requestId": number}), headers


def _body(message: str, extensions: Mapping[str, object]) -> bytes:
    error = {"message": message, "path": None, "extensions": extensions}
    return msgspec.json.encode({"data": None, "errors": [error]})


def _new_id() -> str:
    return f"{_random.getrandbits(64):016x}"


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

    def __init__(self, app: ASGIApp, *, options: ApiOptions, probes: Probes) -> None:
        self._app = app
        self._probes = probes
        self._body_limit = options.body_limit
        self._body_timeout = options.body_timeout
        self._proxies = Proxies(options.trusted_proxies)
        self._hosts = Hosts(options.allowed_hosts)
        self._origins = Origins(options.allowed_origins)
        self._told_of_proxies = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope[REQUEST_ID] = _new_id()
        self._unfold(scope)
        with structlog.contextvars.bound_contextvars(request_id=scope[REQUEST_ID]):
            if scope["type"] == "http":
                await self._http(scope, receive, send)
            elif self._is_ours(scope):
                await self._app(scope, receive, send)
            else:
                await WebSocket(scope, receive, send).send_denial_response(_wrong_host(scope))
        if REFUSED in scope:
            count_refused(self._probes, *scope[REFUSED])

    def _unfold(self, scope: Scope) -> None:
        """Who sent it, behind the proxies that the settings name. Another proxy is the sender itself: that is logged once."""
        client = scope.get("client")
        self._proxies.unfold(scope)
        if scope.get("client") is client and not self._told_of_proxies and joined(scope, b"x-forwarded-for"):
            self._told_of_proxies = True
            log.warning(
                "proxy.unknown",
                address=client[0] if client else "",
                hint="X-Forwarded-For counts only from TASKMILL_TRUSTED_PROXIES: limits take its sender for the caller",
            )

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        about_pages = self._origins.headers(scope)
        body = _Body(scope, receive, self._body_limit, self._body_timeout)

        async def told(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = scope[REQUEST_ID]
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.update(about_pages)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = _HSTS
            elif body.unread and not message.get("more_body", False):
                # The answer goes out whole, and ends when the body has come in.
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await (self._answer(scope) or self._app)(scope, body.receive, told)
        except TaskmillError as error:
            if started:
                raise
            await refused(scope, error)(scope, receive, told)
        except ClientDisconnect:
            log.debug("request.abandoned", path=scope["path"][:200])
        except Exception:
            log.exception("request.failed", path=scope["path"][:200])
            if started:
                raise
            message = "Something went wrong inside. The log has it under this request id."
            await refusal(scope, 500, "INTERNAL", message)(scope, receive, told)

    def _is_ours(self, scope: Scope) -> bool:
        """Whether it asks for a host that we are. HTTP/1.0, which some health checks speak, need not name one."""
        host = first(scope, b"host")
        return self._hosts.knows(host) or (not host and scope["http_version"] == "1.0")

    def _answer(self, scope: Scope) -> Response | None:
        """What needs no application."""
        if not self._is_ours(scope):
            return _wrong_host(scope)
        if scope["method"] == "POST" and not accepts(joined(scope, b"accept")):
            return refusal(scope, 406, "BAD_REQUEST", "Answers are JSON: see the Accept header.")
        preflight = self._origins.preflight(scope)
        return None if preflight is None else Response(status_code=204, headers=dict(preflight))


def _wrong_host(scope: Scope) -> Response:
    message = "The Host header names none of this server's hosts: see TASKMILL_ALLOWED_HOSTS."
    return refusal(scope, 400, "BAD_REQUEST", message)


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
