"""The WebSocket of /graphql: its clients may be slow, gone or ill-behaved, and logins end while it is open.

How it ends (close codes):

    1003  a binary message                          4401  an operation before connection_init, long idle without login
    1008  a flood of messages                       4403  the token is refused, or has ended since
    1009  a message over 512 KiB                    4406  another protocol than graphql-transport-ws
    1012  the server stops                          4408  no connection_init in time
    1013  the client reads too slowly               4409  an id that is in use
    4400  a message of another form                 4429  a second connection_init, too many operations or connections
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Final

import structlog
from graphql import GraphQLError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from strawberry.asgi import ASGIWebSocketAdapter
from strawberry.http.exceptions import NonJsonMessageReceived, NonTextMessageReceived
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_transport_ws.types import (
    ConnectionInitMessage,
    Message,
    SubscribeMessage,
)

from taskmill.api.auth import bearer
from taskmill.api.meter import count_refused
from taskmill.api.schema.context import Context
from taskmill.api.schema.faults import told
from taskmill.api.schema.live import CROWDED, FORBIDDEN, TRY_AGAIN, WATCH, enter, leave
from taskmill.errors import RateLimited, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from taskmill.api.schema.view import GraphQLView

_END: Final = object()
TOO_SLOW: Final = "The client does not read what it is sent."
UNSUPPORTED: Final = 1003
POLICY: Final = 1008
UNAUTHORIZED: Final = 4401
TOO_MANY: Final = 4429
MESSAGES: Final = 200
"""That come at once, besides operations, which have a limit of their own (limits.py)."""
MESSAGES_A_SECOND: Final = 20
ANONYMOUS: Final = 60.0
"""Seconds that a connection without login stays open while it asks nothing: anyone may open one."""

log = structlog.get_logger(__name__)
_rng: Final = Random()


class Socket(ASGIWebSocketAdapter):
    """A WebSocket whose client may be slow, gone or ill-behaved."""

    def __init__(self, view: GraphQLView, request: WebSocket, response: WebSocket) -> None:
        super().__init__(view, request, response)  # type: ignore[arg-type]  # Strawberry types the context as None
        self._encode = view.encode_json
        self._timeout = view.services.options.send_timeout
        self._over = asyncio.Event()

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        messages = super().iter_json(ignore_parsing_errors=ignore_parsing_errors)
        over = asyncio.ensure_future(self._over.wait())
        try:
            while not self._over.is_set():
                coming = asyncio.ensure_future(anext(messages, _END))
                await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait({coming})
                    return
                try:
                    message = coming.result()
                except NonTextMessageReceived:
                    await self.close(UNSUPPORTED, "Messages are text.")
                    return
                if message is _END:
                    return
                if not _is_message(message):
                    raise NonJsonMessageReceived
                yield message
        finally:
            over.cancel()

    async def send_json(self, message: Mapping[str, object]) -> None:
        if self._over.is_set() or self.ws.application_state is WebSocketState.DISCONNECTED:
            return
        encoded = self._encode(message)
        try:
            async with asyncio.timeout(self._timeout):
                await self.ws.send_text(encoded.decode())
        except TimeoutError:
            await self.close(TRY_AGAIN, TOO_SLOW)
        except (WebSocketDisconnect, OSError, RuntimeError):
            # The client went meanwhile, which is no error: one that is raised in an operation is logged as a bug of ours.
            # A send after a close that came in between is a RuntimeError.
            self._over.set()

    async def close(self, code: int, reason: str) -> None:
        """Says why, for as long as `send_timeout`, and ends the connection in any case."""
        if self._over.is_set():
            return
        with suppress(TimeoutError, OSError, RuntimeError):
            async with asyncio.timeout(self._timeout):
                await self.ws.close(code=code, reason=_short(reason))
        self._over.set()


def _short(reason: str) -> str:
    """As much of it as a close frame can carry: 123 bytes. It may repeat what the client sent."""
    return reason.encode()[:120].decode(errors="ignore")


def _is_message(message: object) -> bool:
    """The form that Strawberry's handler takes for granted."""
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    if message["type"] not in ("subscribe", "complete"):
        return True
    if not isinstance(message.get("id"), str):
        return False
    payload = message.get("payload")
    return message["type"] == "complete" or (
        isinstance(payload, dict)
        and isinstance(payload.get("query"), str)
        and isinstance(payload.get("variables"), dict | None)
        and isinstance(payload.get("operationName"), str | None)
    )


class Handler(BaseGraphQLTransportWSHandler[Context, None]):
    """The protocol on one connection, until its client goes, breaks it, or has no login any more."""

    _user: bytes | None = None
    """Whose connection it counts as."""

    async def handle(self) -> None:
        # So that a subscription can end the connection with a code of its own.
        self.context.socket = self.websocket
        self._allowed, self._at = float(MESSAGES), asyncio.get_running_loop().time()
        watch = asyncio.create_task(self._watch())
        try:
            await super().handle()
        finally:
            watch.cancel()
            await asyncio.wait({watch})
            if self._user is not None:
                leave(self._user)

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        await super().handle_connection_init(message)
        session = self.context.session
        if session is None or self._user is not None:
            return
        if enter(session.user.id):
            self._user = session.user.id
        else:
            await self.websocket.close(TOO_MANY, CROWDED)

    async def _watch(self) -> None:
        """Ends the connection once its token or key no longer holds, whether or not anything is asked of it."""
        busy = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(WATCH * _rng.uniform(0.8, 1.2))
            if self.context.session is None:
                now = asyncio.get_running_loop().time()
                busy = now if self.operations else busy
                if now - busy > ANONYMOUS:
                    await self.websocket.close(UNAUTHORIZED, "Log in: nothing was asked without.")
                    return
                continue
            try:
                self.context.session = await self.context.services.tokens.recheck(self.context.session)
            except Unauthenticated as error:
                await self.websocket.close(FORBIDDEN, error.message)
                return
            except Unavailable:
                continue  # whether it holds cannot be told now; what needs it to hold cannot be done either
            except Exception:
                log.exception("socket.watch", request_id=self.context.request_id)
                await self.websocket.close(TRY_AGAIN, "Something went wrong inside.")
                return

    async def handle_message(self, message: Message) -> None:
        if message["type"] != "subscribe" and not self._one_more():
            await self.websocket.close(POLICY, "Too many messages at once.")
            return
        await super().handle_message(message)

    def _one_more(self) -> bool:
        """Whether another message may come now."""
        now = asyncio.get_running_loop().time()
        self._allowed = min(float(MESSAGES), self._allowed + (now - self._at) * MESSAGES_A_SECOND) - 1
        self._at = now
        return self._allowed >= 0

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        most = self.max_subscriptions_per_connection
        if most is not None and len(self.operations) >= most and message["id"] not in self.operations:
            await self.websocket.close(TOO_MANY, f"At most {most} operations at once are taken.")
            return
        try:
            if self.connection_acknowledged:
                await self.context.services.limiter.call(self.context.session, self.context.peer)
        except RateLimited as error:
            [told_error] = told([GraphQLError(error.message, original_error=error)], self.context.request_id)
            await self.send_message({"id": message["id"], "type": "error", "payload": [told_error.formatted]})
            count_refused(self.context.services.mill.probes, 429, error.code)
        else:
            await super().handle_subscribe(message)


def socket_token(context: Context) -> str | None:
    """`Authorization: Bearer …` (in either case) or `token: …` of connection_init, else the handshake's header."""
    given = context.connection_params if isinstance(context.connection_params, dict) else {}
    found = [given[key] for key in ("Authorization", "authorization") if given.get(key) is not None]
    if found:
        if not all(isinstance(value, str) for value in found):
            raise Unauthenticated("connection_init: a string is expected as Authorization.")
        return bearer(found)
    token = given.get("token")
    if token is not None and not isinstance(token, str):
        raise Unauthenticated("connection_init: a string is expected as token.")
    if token is not None:
        return token.removeprefix("Bearer ").strip()
    return bearer(context.handshake)
