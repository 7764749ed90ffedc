"""/graphql over HTTP, SSE and WebSocket: strict about what it takes, one form of error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState
from strawberry.asgi import ASGIWebSocketAdapter, GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.http.exceptions import NonJsonMessageReceived, WebSocketDisconnected
from strawberry.schema.base import BaseSchema
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler
from strawberry.subscriptions.protocols.graphql_transport_ws.types import SubscribeMessage
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.unset import UNSET, UnsetType

from taskmill.api.auth import Session, bearer
from taskmill.api.edge import peer, refusal, refused, request_id
from taskmill.api.page import PAGE, PAGE_POLICY
from taskmill.api.schema.context import Context, Services
from taskmill.api.schema.faults import told
from taskmill.api.schema.live import TRY_AGAIN
from taskmill.api.text import JsonError, load_json
from taskmill.errors import BadRequest, RateLimited, TaskmillError, Unauthenticated, Unavailable

INIT_TIMEOUT: Final = timedelta(seconds=10)
RESPONSE_JSON: Final = "application/graphql-response+json"
_END: Final = object()
TOO_SLOW: Final = "The client does not read what it is sent."

log = structlog.get_logger(__name__)


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
                message = coming.result()
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
        except (OSError, RuntimeError) as error:
            # Starlette's disconnect is an OSError; a send after a close that came in between is a RuntimeError.
            raise WebSocketDisconnected from error

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
    async def handle(self) -> None:
        # So that a subscription can end the connection with a code of its own.
        self.context.socket = self.websocket
        await super().handle()

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        try:
            if self.connection_acknowledged:
                await self.context.services.limiter.call(self.context.session, self.context.peer)
        except RateLimited as error:
            [told_error] = told([GraphQLError(error.message, original_error=error)], self.context.request_id)
            await self.send_message({"id": message["id"], "type": "error", "payload": [told_error.formatted]})
        else:
            await super().handle_subscribe(message)


class _Stream(StreamingResponse):
    """An SSE response that gives up on a client that takes nothing."""

    send_timeout: float = 10.0

    async def stream_response(self, send: Send) -> None:
        async def bounded(message: Any) -> None:
            try:
                async with asyncio.timeout(self.send_timeout):
                    await send(message)
            except TimeoutError:
                raise OSError(TOO_SLOW) from None

        await super().stream_response(bounded)


class GraphQLView(GraphQL[Context, None]):
    websocket_adapter_class = Socket  # type: ignore[assignment]
    graphql_transport_ws_handler_class = Handler

    def __init__(self, schema: BaseSchema, services: Services) -> None:
        super().__init__(
            schema,
            graphql_ide=None,
            allow_queries_via_get=False,
            subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
            connection_init_wait_timeout=INIT_TIMEOUT,
            max_subscriptions_per_connection=services.options.subscriptions,
            allowed_origins=services.options.allowed_origins,
        )
        self.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                await self.services.limiter.call(None, peer(scope))
            except RateLimited as error:
                await WebSocket(scope, receive, send).send_denial_response(refused(scope, error))
            else:
                await self.run(WebSocket(scope, receive=receive, send=send))
            return
        request = Request(scope, receive)
        response = self._not_ours(request)
        if response is None:
            try:
                response = await self.run(request)
            except HTTPException as error:
                response = refusal(scope, error.status_code, "BAD_REQUEST", error.reason)
            except TaskmillError as error:
                response = refused(scope, error)
        await response(scope, receive, send)

    def _not_ours(self, request: Request) -> Response | None:
        """The answer to a request that is no GraphQL operation."""
        scope, headers = request.scope, request.headers
        if request.method != "POST":
            page = request.method in ("GET", "HEAD") and self.services.options.development
            if page and "text/html" in headers.get("accept", ""):
                return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})
            return refusal(scope, 405, "BAD_REQUEST", "Send the operation by POST.", {"Allow": "POST"})
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return refusal(scope, 415, "BAD_REQUEST", "Send the operation as application/json.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            return refusal(scope, 415, "BAD_REQUEST", "Send the body as it is, without a content encoding.")
        return None

    # ---- who asks ---------------------------------------------------------------------------------------------

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        context = Context(self.services, request_id(request.scope), peer=peer(request.scope))
        limiter = self.services.limiter
        if isinstance(request, Request):
            try:
                context.session = await self._session(bearer(request.headers.getlist("authorization")))
            except Unauthenticated:
                await limiter.call(None, context.peer)  # a guess counts as any call
                raise
            await limiter.call(context.session, context.peer)
        else:
            context.handshake = request.headers.getlist("authorization")
            context.streams = True
        return context

    async def on_ws_connect(self, context: Context) -> UnsetType | dict[str, object] | None:
        """connection_init brings the token; a client that is no browser may send it as a header instead."""
        try:
            context.session = await self._session(_socket_token(context))
        except Unauthenticated:
            raise ConnectionRejectionError from None
        except Unavailable:
            log.warning("socket.refused", reason="the database does not answer")
            raise ConnectionRejectionError from None
        unset: UnsetType = UNSET  # no payload with the acknowledgement
        return unset

    async def _session(self, token: str | None) -> Session | None:
        return None if token is None else await self.services.tokens.check(token)

    # ---- in ---------------------------------------------------------------------------------------------------

    def decode_json(self, data: str | bytes) -> object:
        try:
            return load_json(data)
        except JsonError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None

    def parse_json(self, data: str | bytes) -> Any:
        try:
            value = load_json(data)
        except JsonError as error:
            raise BadRequest(f"The body is not the JSON that is expected: {error}.") from None
        if not isinstance(value, dict):
            raise BadRequest("One operation a request is expected: an object with the key 'query'.")
        return value

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        data = await super().parse_http_body(request)
        assert isinstance(data, GraphQLRequestData)  # parse_json took no list
        if not data.query:
            raise BadRequest("The key 'query' is expected, with a GraphQL document.")
        if not isinstance(data.operation_name, str | None):
            raise BadRequest("operationName: a string is expected.")
        return data

    async def execute_operation(self, *args: Any, **given: Any) -> Any:
        given["context"].streams = given["request_data"].protocol == "sse"
        return await super().execute_operation(*args, **given)

    # ---- out --------------------------------------------------------------------------------------------------

    def encode_json(self, data: object) -> bytes:
        return msgspec.json.encode(data)

    async def process_result(self, request: Request, result: ExecutionResult) -> GraphQLHTTPResponse:
        if result.errors:
            result.errors = told(result.errors, request_id(request.scope))
            waits = [(e.extensions or {}).get("retryAfter") for e in result.errors]
            request.state.retry_after = max((wait for wait in waits if wait), default=None)
            request.state.limited = result.data is None and None not in waits
        if isinstance(result, PreExecutionError) or _ran_nothing(result):
            # Clients from before the GraphQL-over-HTTP draft take only 200 for an answer about a document.
            unfit = any((e.extensions or {}).get("code") == "BAD_REQUEST" for e in result.errors or ())
            request.state.refused = unfit or RESPONSE_JSON in request.headers.get("accept", "")
        return await super().process_result(request, result)

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        response = await super().get_sub_response(request)
        response.state = request.state  # type: ignore[attr-defined]  # read by create_response
        return response

    def create_response(self, response_data: Any, sub_response: Response) -> Response:
        response = super().create_response(response_data, sub_response)
        state = sub_response.state  # type: ignore[attr-defined]
        if getattr(state, "refused", False):
            response.status_code = 400
        if getattr(state, "limited", False):
            response.status_code = 429
        if getattr(state, "retry_after", None):
            response.headers["Retry-After"] = str(state.retry_after)
        return response

    async def create_streaming_response(
        self,
        request: Request | WebSocket,
        stream: Callable[[], AsyncIterator[str]],
        sub_response: Response,
        headers: Mapping[str, str],
    ) -> Response:
        response = _Stream(stream(), headers=dict(headers))
        response.send_timeout = self.services.options.send_timeout
        return response


def _ran_nothing(result: ExecutionResult) -> bool:
    """The variables were refused: an error of the request, not of a field."""
    return result.data is None and bool(result.errors) and all(e.path is None for e in result.errors or ())


def _socket_token(context: Context) -> str | None:
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
