"""/graphql over HTTP, SSE and WebSocket: strict about what it takes, one form of error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
import structlog
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.schema.base import BaseSchema
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.unset import UNSET, UnsetType

from taskmill.api.auth import Session, bearer
from taskmill.api.edge import peer, refusal, refused, request_id
from taskmill.api.page import PAGE, PAGE_POLICY
from taskmill.api.schema.context import Context, Services
from taskmill.api.schema.faults import MESSAGE_MOST, told
from taskmill.api.schema.live import TRY_AGAIN
from taskmill.api.schema.socket import TOO_SLOW, Handler, Socket, socket_token
from taskmill.api.text import JsonError, load_json
from taskmill.errors import BadRequest, RateLimited, TaskmillError, Unauthenticated, Unavailable

INIT_TIMEOUT: Final = timedelta(seconds=10)
RESPONSE_JSON: Final = "application/graphql-response+json"

log = structlog.get_logger(__name__)


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
                # It may repeat what was sent.
                response = refusal(scope, error.status_code, "BAD_REQUEST", error.reason[:MESSAGE_MOST])
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
        if any(value.lower() != "identity" for value in headers.getlist("content-encoding")):
            return refusal(scope, 415, "BAD_REQUEST", "Send the body as it is, without a content encoding.")
        return None

    # ---- who asks ---------------------------------------------------------------------------------------------

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        context = Context(self.services, request_id(request.scope), peer=peer(request.scope))
        limiter = self.services.limiter
        if isinstance(request, Request):
            context.gone = request.is_disconnected
            try:
                token = bearer(request.headers.getlist("authorization"))
                if token is not None and self.services.tokens.unfamiliar(token):
                    limiter.guess(context.peer)
                context.session = await self._session(token)
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
            context.session = await self._session(socket_token(context))
        except Unauthenticated:
            raise ConnectionRejectionError from None
        except Unavailable as error:
            # Not 4403: the token may well be good.
            log.warning("socket.refused", reason="the database does not answer")
            assert context.socket is not None
            await context.socket.close(TRY_AGAIN, error.message)
            raise ConnectionRejectionError from None
        finally:
            context.connection_params, context.handshake = None, []  # half a megabyte, for hours otherwise
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
            codes = {(e.extensions or {}).get("code") for e in result.errors or ()}
            knows = RESPONSE_JSON in request.headers.get("accept", "")
            # One that took too long was a good request.
            request.state.refused = "BAD_REQUEST" in codes or (knows and "TIMEOUT" not in codes)
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
