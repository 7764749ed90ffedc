"""What a document may cost: bounds that are checked before anything runs, and the caches of parsed documents.

The payload of a task is best sent as a variable: variables are not part of the document, so its limits do not count
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    SelectionSetNode,
    ValidationContext,
    ValidationRule,
)
from strawberry.extensions import (
    AddValidationRules,
    MaxTokensLimiter,
    ParserCache,
    SchemaExtension,
    ValidationCache,
)
from strawberry.types.graphql import OperationType

from taskmill.api.schema.faults import Faults

TOKENS: Final = 1000
DEPTH: Final = 10
ALIASES: Final = 15
CACHED: Final = 128
CACHED_SIZE: Final = 2048
"""Characters of a document that is kept parsed. It takes about 170 times its size, and anyone may send new ones: the
two bounds keep the cache under 50 MB."""

Factory = Callable[[], SchemaExtension]


class BoundedRule(ValidationRule):
    """Refuses documents that are nested too deeply or have too many aliases, fragments included.

    Each fragment is measured once, however often it is spread: a document cannot make the measuring itself expensive.
    """

    def __init__(self, context: ValidationContext) -> None:
        super().__init__(context)
        measure = _Measure(
            {d.name.value: d for d in context.document.definitions if isinstance(d, FragmentDefinitionNode)}
        )
        depth = aliases = 0
        for definition in context.document.definitions:
            if isinstance(definition, OperationDefinitionNode):
                levels, names = measure.of(definition.selection_set)
                depth, aliases = max(depth, levels), aliases + names
        if depth > DEPTH:
            self._refuse(f"The document is nested {depth} levels deep; at most {DEPTH} are taken.")
        if aliases > ALIASES:
            self._refuse(f"The document has {aliases} aliases; at most {ALIASES} are taken.")

    def _refuse(self, message: str) -> None:
        self.report_error(GraphQLError(message, extensions={"code": "QUERY_TOO_COMPLEX"}))


class _Measure:
    """Depth and number of aliases of selections."""

    def __init__(self, fragments: dict[str, FragmentDefinitionNode]) -> None:
        self._fragments = fragments
        self._known: dict[str, tuple[int, int]] = {}

    def of(self, selections: SelectionSetNode | None) -> tuple[int, int]:
        depth = aliases = 0
        for selection in selections.selections if selections is not None else ():
            if isinstance(selection, FragmentSpreadNode):
                levels, names = self._fragment(selection.name.value)
            elif isinstance(selection, FieldNode):
                if selection.name.value.startswith("__"):
                    continue  # introspection is deep by nature and bounded by the schema
                levels, names = self.of(selection.selection_set)
                levels, names = levels + 1, names + (selection.alias is not None)
            else:
                assert isinstance(selection, InlineFragmentNode)
                levels, names = self.of(selection.selection_set)
            depth, aliases = max(depth, levels), aliases + names
        return depth, aliases

    def _fragment(self, name: str) -> tuple[int, int]:
        if name not in self._known:
            self._known[name] = (0, 0)  # a circle is another rule's finding
            fragment = self._fragments.get(name)
            self._known[name] = self.of(fragment.selection_set if fragment is not None else None)
        return self._known[name]


class DocumentCache(ParserCache):
    """Keeps short documents parsed: 1.3 ms a request otherwise."""

    def on_parse(self) -> Iterator[None]:
        if not _is_long(self):
            context = self.execution_context
            # What cannot be parsed is left to Strawberry, which reports it where it reports all errors.
            with suppress(GraphQLError):
                context.graphql_document = self.cached_parse_document(context.query, **context.parse_options)
        yield


class VerdictCache(ValidationCache):
    """Keeps what validation found for short documents."""

    def on_validate(self) -> Iterator[None]:
        if _is_long(self):
            yield
        else:
            yield from super().on_validate()


class Runnable(SchemaExtension):
    """Refuses what Strawberry would run otherwise: the first of several operations, when the caller chose none, and
    a subscription as if it were a query, where nothing can be streamed."""

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        document = context.graphql_document
        operations = (
            [d for d in document.definitions if isinstance(d, OperationDefinitionNode)] if document else []
        )
        if len(operations) > 1 and context._provided_operation_name is None:  # its public form guesses
            self._refuse("The document has several operations: operationName is expected.")
        elif context.operation_type is OperationType.SUBSCRIPTION and not context.context.streams:
            self._refuse("A subscription needs a WebSocket, or SSE: send Accept: text/event-stream.")
        yield

    def _refuse(self, message: str) -> None:
        error = GraphQLError(message, extensions={"code": "BAD_REQUEST"})
        self.execution_context.pre_execution_errors = [error]


def _is_long(extension: SchemaExtension) -> bool:
    return len(extension.execution_context.query or "") > CACHED_SIZE


def extensions(*, introspection: bool) -> list[Factory]:
    """For each request new instances; the rules are classes made once, for the cache of verdicts is keyed by them."""
    rules: list[Any] = [BoundedRule]
    if not introspection:
        rules.append(NoSchemaIntrospectionCustomRule)
    return [
        Faults,
        lambda: MaxTokensLimiter(max_token_count=TOKENS),
        lambda: AddValidationRules(rules),
        lambda: DocumentCache(maxsize=CACHED),
        lambda: VerdictCache(maxsize=CACHED),
        Runnable,
    ]
