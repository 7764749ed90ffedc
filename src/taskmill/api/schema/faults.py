"""The error contract: every error that leaves the API has a message, a code and the request's id, and tells no internals.

What the product raised (errors.RequestError, Unavailable) is shown as it is; what graphql-core says of a document gets
a code; anything else is INTERNAL to the caller and a traceback in the log, joined by the request's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, Final

import structlog
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.exceptions import MissingQueryError
from strawberry.extensions import SchemaExtension
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import StreamExecutionResult

from taskmill.api.feed import Dropped, Ended
from taskmill.api.meter import OURS, count_operation
from taskmill.errors import RateLimited, RequestError, TaskmillError, Unavailable

MOST: Final = 5
"""Errors in one response."""
MESSAGE_MOST: Final = 1000
INTERNAL: Final = "Something went wrong inside. The log has it under this request id."

_NO_OPERATION: Final = (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError)

_SUGGESTION: Final = " Did you mean "

_VALUE: Final = re.compile(r"(Variable '\$\w+'|Argument '\w+') has invalid value")
"""The document is right, and a value that came with it is not: of its type, or null for an argument that has a default,
which shows only when the field is reached."""

log = structlog.get_logger(__name__)


class Faults(SchemaExtension):
    """Rewrites the errors of each result, and counts operations and errors, over HTTP, WebSocket and SSE alike."""

    def on_operation(self) -> Iterator[None]:
        began = perf_counter()
        self._codes: list[str] = []
        self._failed = False
        try:
            yield
            self._rewrite(self.execution_context.result)
        except _NO_OPERATION:
            raise  # the view refuses the request, which counts it
        except BaseException as error:
            if isinstance(error, Exception):  # else the caller has gone, or has seen enough of a subscription
                self._note(_judged(GraphQLError("", original_error=error))[0], error)
            self._count(began)
            raise
        self._count(began)

    def on_stream_result(self, result: StreamExecutionResult) -> Iterator[None]:
        self._rewrite(result)
        yield

    def _rewrite(self, result: Any) -> None:
        errors = getattr(result, "errors", None)
        if errors:
            result.errors = told(errors, self.execution_context.context.request_id)
            for new, old in zip(result.errors, errors, strict=False):
                if new is not old:  # the last result of a stream comes twice
                    self._note(new.extensions["code"], _origin(old))

    def _note(self, code: str, origin: BaseException | None) -> None:
        """An error that the caller is told. A subscription that our stop ends was served; one that is dropped read too
        slowly, though both are told to try again as in an outage."""
        if not isinstance(origin, Ended):
            self._codes.append(code)
            self._failed |= code in OURS and not isinstance(origin, Dropped)

    def _count(self, began: float) -> None:
        context = self.execution_context
        probes, seconds = context.context.services.mill.probes, perf_counter() - began
        count_operation(probes, context, self._codes, seconds, failed=self._failed)


def told(errors: Sequence[GraphQLError], request_id: str) -> list[GraphQLError]:
    """The errors as the caller may see them, at most MOST. Telling them twice changes nothing."""
    return [_told(error, request_id) for error in errors[:MOST]]


def _told(error: GraphQLError, request_id: str) -> GraphQLError:
    if error.extensions and "requestId" in error.extensions:
        return error
    code, message = _judged(error)
    if code == "INTERNAL":
        cause = _origin(error) or error
        log.error("request.failed", request_id=request_id, path=_path(error), exc_info=cause)
    return GraphQLError(
        message[:MESSAGE_MOST],
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions={"code": code, "requestId": request_id} | _when(error),
    )


def _when(error: GraphQLError) -> dict[str, Any]:
    """When it is worth trying again: a WebSocket has no header for it."""
    origin = _origin(error)
    return {"retryAfter": origin.retry_after} if isinstance(origin, RateLimited) else {}


def _judged(error: GraphQLError) -> tuple[str, str]:
    """Its code and its message."""
    origin = _origin(error)
    if isinstance(origin, RequestError | Unavailable):
        return origin.code, origin.message
    if isinstance(origin, CannotGetOperationTypeError | InvalidOperationTypeError):
        return "BAD_REQUEST", error.message
    if isinstance(origin, MissingQueryError):
        return "BAD_REQUEST", "The key 'query' is expected, with a GraphQL document."
    if isinstance(origin, TaskmillError) or (origin is not None and not isinstance(origin, GraphQLError)):
        return "INTERNAL", INTERNAL
    known = (error.extensions or {}).get("code") or (getattr(origin, "extensions", None) or {}).get("code")
    if isinstance(known, str):
        return known, error.message
    if isinstance(error, GraphQLSyntaxError):
        # The parser counts tokens: more than the limit is no error of syntax.
        too_long = "tokens" in error.message and "abort" in error.message.lower()
        return ("QUERY_TOO_COMPLEX" if too_long else "GRAPHQL_PARSE_FAILED"), error.message
    if _VALUE.match(error.message):
        return "BAD_USER_INPUT", _unsuggested(error.message)
    if error.path is None:
        return "GRAPHQL_VALIDATION_FAILED", _unsuggested(error.message)
    return "INTERNAL", INTERNAL


def _unsuggested(message: str) -> str:
    """Without what graphql-core suggests at its end. It hides suggestions of fields when told to, those of enums never, and
    they tell a hidden schema. The rest may repeat megabytes of what the caller sent, with any words in it."""
    before, found, _ = message.rpartition(_SUGGESTION)
    return before if found and message.endswith("?") else message


def _origin(error: GraphQLError) -> BaseException | None:
    """What was raised first: graphql-core wraps its own errors again."""
    origin: BaseException | None = error.original_error
    while isinstance(origin, GraphQLError) and origin.original_error is not None:
        origin = origin.original_error
    return origin


def _path(error: GraphQLError) -> str:
    return ".".join(str(part) for part in error.path or ())
