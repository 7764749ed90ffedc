"""What the API counts of itself: operations by name and outcome, their time, and errors by code.

Labels are names of the schema and codes of ours, whatever a client sends: an operation that asks for one root field
has that field's name, any other, and what never became an operation, is `other`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from graphql import FieldNode, GraphQLSchema, OperationDefinitionNode, OperationType, get_operation_ast
from strawberry.types.execution import ExecutionContext

from taskmill.errors import RequestError, TaskmillError, Unavailable
from taskmill.runtime.probes import Probes

OTHER: Final = "other"
OURS: Final = frozenset({"INTERNAL", "UNAVAILABLE", "TIMEOUT"})
"""Codes that say that we failed, not the caller."""

OUTCOMES: Final = ("ok", "refused", "failed")

REFUSED: Final = "taskmill.refused"
"""Where a scope holds (status, code) of an answer that is no GraphQL result."""


def _codes(cls: type[TaskmillError]) -> Iterator[str]:
    yield cls.code
    for child in cls.__subclasses__():
        yield from _codes(child)


CODES: Final = frozenset(
    {"INTERNAL", "GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", Unavailable.code, *_codes(RequestError)}
)


def begin(probes: Probes, schema: GraphQLSchema) -> None:
    """Every operation with every outcome, and every code, starts at 0: a rate would not see the first ones otherwise."""
    roots = (schema.query_type, schema.mutation_type, schema.subscription_type)
    for operation in (OTHER, *(name for root in roots if root is not None for name in root.fields)):
        for outcome in OUTCOMES:
            probes.api_requests.labels(operation, outcome)
    for code in CODES:
        probes.api_errors.labels(code)


def operation_label(schema: GraphQLSchema, operation: OperationDefinitionNode | None) -> str:
    """The one root field of the schema that it asks for, or `other`."""
    if operation is None:
        return OTHER
    found = OTHER
    for selection in operation.selection_set.selections:
        if not isinstance(selection, FieldNode) or found not in (OTHER, selection.name.value):
            return OTHER
        found = selection.name.value
    root = schema.get_root_type(operation.operation)
    return found if root is not None and found in root.fields else OTHER


def count_operation(
    probes: Probes, context: ExecutionContext, codes: Collection[str], seconds: float, *, failed: bool
) -> None:
    """An operation that has ended, with the codes of its errors, and whether one of them is our fault. How long a
    subscription was open says nothing."""
    document = context.graphql_document
    operation = None if document is None else get_operation_ast(document, context._provided_operation_name)
    label = operation_label(context.schema._schema, operation)
    outcome = "ok" if not codes else "failed" if failed else "refused"
    probes.api_requests.labels(label, outcome).inc()
    for code in codes:
        count_error(probes, code)
    if operation is None or operation.operation is not OperationType.SUBSCRIPTION:
        probes.api_request_seconds.labels(label).observe(seconds)


def count_error(probes: Probes, code: str) -> None:
    probes.api_errors.labels(code if code in CODES else "INTERNAL").inc()


def count_refused(probes: Probes, status: int, code: str) -> None:
    """A request that was refused before it became an operation."""
    probes.api_requests.labels(OTHER, "failed" if status >= 500 else "refused").inc()
    count_error(probes, code)
