"""What a document may ask for: all that is checked before anything runs, and the cache of documents that were.

In this order, and the first finding ends it: how long it is (characters, tokens), how large (bounds.py), whether it is
valid, whether it can be run here, what it costs (cost.py). Then it runs, for as long as the wall-clock limit lets it:
a query is given up, a mutation that has begun is carried out to its end, whoever still waits for it (`carry_out`).

The payload of a task is best sent as a variable: variables are not part of the document, so its limits do not count
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Final

import structlog
from graphql import (
    ASTValidationRule,
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    TokenKind,
    parse,
)
from strawberry.extensions import AddValidationRules, MaxTokensLimiter, SchemaExtension
from strawberry.schema.schema import validate_document
from strawberry.types.graphql import OperationType

from taskmill.api.schema.bounds import SHOWN_MOST, too_much
from taskmill.api.schema.cost import Plan, plans
from taskmill.api.schema.faults import MOST, Faults
from taskmill.errors import RequestTimeout
from taskmill.runtime.recent import Recent

TOKENS: Final = 1000
CHARACTERS: Final = 15_000
DIGITS: Final = 4000
CACHED: Final = 128
CACHED_SIZE: Final = 2048
"""Characters of a document that is kept parsed. It takes about 170 times its size, and anyone may send new ones: the
two bounds keep the cache under 50 MB."""

_NOTHING: Final = parse("{ __typename }")
_TOO_LONG: Final = (
    f"The document has {{}} characters; at most {CHARACTERS} are taken: send values as variables."
)
_LATE: Final = "The operation took longer than {:g} s."
_WRITTEN: Final = (
    " A mutation that had begun is carried out all the same, and the next ones of the document are not begun: look "
    "before you send it again."
)

log = structlog.get_logger(__name__)

Factory = Callable[[], SchemaExtension]


@dataclass(slots=True)
class Known:
    """A document that was parsed, and what was found of it: the same for each request that sends it."""

    document: DocumentNode
    errors: list[GraphQLError] | None = None
    """None: not validated yet."""
    plans: Mapping[str | None, Plan] = field(default_factory=dict)


class Documents(SchemaExtension):
    """Reads and judges a document: 2 ms the first time, nothing when a short one comes again."""

    def __init__(self, kept: Recent[str, Known]) -> None:
        super().__init__()
        self._kept = kept
        self._known: Known | None = None
        self._wait = 0.0

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        query = context.query or ""
        self._known = self._kept.get(query)
        if len(query) > CHARACTERS:
            # Not read at all: it goes on as a document that is refused.
            context._provided_operation_name = None
            self._known = Known(_NOTHING, [refusal(_TOO_LONG.format(len(query)))])
        if self._known is not None:
            context.graphql_document = self._known.document
        yield
        if self._known is None and context.graphql_document is not None:
            self._known = Known(context.graphql_document)
            if len(query) <= CACHED_SIZE:
                self._kept.put(query, self._known)

    def on_validate(self) -> Iterator[None]:
        context, known = self.execution_context, self._known
        assert known is not None
        if known.errors is None:
            known.errors = self._judged(known)
        # A list of its own: what runs afterwards may add to it.
        context.pre_execution_errors = list(known.errors) or self._unfit(known)
        yield

    async def on_execute(self) -> AsyncIterator[None]:
        context = self.execution_context
        if context.operation_type is OperationType.SUBSCRIPTION:
            yield
            return
        most = context.context.services.options.request_timeout
        try:
            async with asyncio.timeout(most + self._wait):
                yield
        except TimeoutError:
            writes = context.operation_type is OperationType.MUTATION
            raise RequestTimeout(_LATE.format(most + self._wait) + (_WRITTEN if writes else "")) from None

    def _judged(self, known: Known) -> list[GraphQLError]:
        """What is wrong with it, whoever sends it."""
        found = too_much(known.document)
        if found is not None:
            return [refusal(found)]
        schema = self.execution_context.schema._schema
        if _endless_number(known.document):
            return [GraphQLError("A number has too many digits.")]
        errors = validate_document(schema, known.document, self.execution_context.validation_rules)[:MOST]
        if not errors:
            known.plans = plans(schema, known.document)
        return errors

    def _unfit(self, known: Known) -> list[GraphQLError]:
        """Why it cannot be run here and with these variables."""
        context = self.execution_context
        operations = [d for d in known.document.definitions if isinstance(d, OperationDefinitionNode)]
        if len(operations) > 1 and context._provided_operation_name is None:  # its public form guesses
            return [_unrunnable("The document has several operations: operationName is expected.")]
        if context.operation_type is OperationType.SUBSCRIPTION and not context.context.streams:
            return [_unrunnable("A subscription needs a WebSocket, or SSE: send Accept: text/event-stream.")]
        plan = known.plans[context._provided_operation_name]
        self._wait = plan.wait
        cost, most = plan.cost(context.variables), context.context.services.options.max_cost
        if cost <= most:
            return []
        shown = f"{cost:,}" if cost <= SHOWN_MOST else f"more than {SHOWN_MOST:,}"
        return [
            refusal(
                f"The operation costs {shown}; at most {most:,} is taken. A field costs 1, and what is selected inside of "
                "a list as often as its limit says: ask for fewer fields, or a smaller limit."
            )
        ]


def _endless_number(document: DocumentNode) -> bool:
    """Python refuses to turn it into a number, which graphql-core does not expect."""
    token = document.loc.start_token if document.loc else None
    while token is not None:
        if token.kind is TokenKind.INT and len(token.value or "") > DIGITS:
            return True
        token = token.next
    return False


def refusal(message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": "QUERY_TOO_COMPLEX"})


def _unrunnable(message: str) -> GraphQLError:
    """Strawberry would run the first of several operations otherwise, and a subscription as if it were a query."""
    return GraphQLError(message, extensions={"code": "BAD_REQUEST"})


def extensions(*, introspection: bool) -> list[Factory]:
    """For each request new instances; what was found of documents is kept for the schema that these are made for."""
    kept: Recent[str, Known] = Recent(CACHED)
    rules: list[type[ASTValidationRule]] = [] if introspection else [NoSchemaIntrospectionCustomRule]
    return [
        Faults,
        lambda: MaxTokensLimiter(max_token_count=TOKENS),
        lambda: AddValidationRules(rules),
        lambda: Documents(kept),
    ]


_begun: Final[set[asyncio.Future[Any]]] = set()
"""Mutations under way. A task that nothing refers to may be collected before it ends."""


def carry_out(schema: GraphQLSchema) -> None:
    """Lets every mutation of the schema end once it has begun: the limit of time, or a client that gives up, ends the
    waiting for it and keeps the next ones of the document from beginning, but cuts no transaction."""
    mutations = schema.mutation_type.fields if schema.mutation_type else {}
    for name, mutation in mutations.items():
        assert mutation.resolve is not None
        mutation.resolve = _carried_out(name, mutation.resolve)


def _carried_out(name: str, resolve: Callable[..., Any]) -> Callable[..., Any]:
    async def ending(work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        _begun.add(task)
        task.add_done_callback(_begun.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda task: _late(name, task))
            raise

    def carried_out(*args: Any, **given: Any) -> Any:
        result = resolve(*args, **given)
        return ending(result) if isawaitable(result) else result

    return carried_out


def _late(name: str, task: asyncio.Future[Any]) -> None:
    """How it ended, for the log: the caller was told that it is not known."""
    error = None if task.cancelled() else task.exception()
    log.warning("mutation.late", mutation=name, error=None if error is None else type(error).__name__)
