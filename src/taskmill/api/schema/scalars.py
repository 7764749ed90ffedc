"""The two scalars of our own: JSON and DateTime."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, NewType

import msgspec
import strawberry
from graphql import (
    BooleanValueNode,
    FloatValueNode,
    GraphQLError,
    IntValueNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    StringValueNode,
    ValueNode,
    VariableNode,
)
from strawberry.types.scalar import ScalarDefinition

from taskmill.model.clock import EPOCH, iso, to_utc

Json = NewType("Json", object)
"""In: the value. Out: JSON text, which goes into the response as it is."""

_INT_DIGITS: Final = 4000
"""Python refuses to turn longer texts into numbers."""


def _refused(message: str) -> GraphQLError:
    return GraphQLError(message, extensions={"code": "BAD_USER_INPUT"})


def _json_out(text: str) -> msgspec.Raw:
    # Never parsed again: numbers beyond 2^53 and the order of keys stay as they were accepted.
    return msgspec.Raw(text.encode())


def _json_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> Any:
    match node:
        case ObjectValueNode():
            value = {field.name.value: _json_literal(field.value, variables) for field in node.fields}
            if len(value) != len(node.fields):
                raise _refused("JSON: a key is there twice.")
            return value
        case ListValueNode():
            return [_json_literal(item, variables) for item in node.values]
        case StringValueNode() | BooleanValueNode():
            return node.value
        case IntValueNode():
            if len(node.value) > _INT_DIGITS:
                raise _refused("JSON: a number has too many digits.")
            return int(node.value)
        case FloatValueNode():
            number = float(node.value)
            if number - number != 0:
                raise _refused("JSON: a number is out of range.")
            return number
        case NullValueNode():
            return None
        case VariableNode():
            # Without values the document alone is validated; a variable that was not given is null.
            return (variables or {}).get(node.name.value)
    raise _refused("JSON: a string is put in double quotes.")


JSON = strawberry.scalar(
    name="JSON",
    description="Any JSON value: an inline literal or a variable. Objects keep numbers of any size.",
    serialize=_json_out,
    parse_value=lambda value: value,
    parse_literal=_json_literal,
)

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)?")
_EXAMPLE: Final = "an ISO 8601 time with its zone is expected, such as 2026-12-10T09:00:00Z"


def parse_time(value: object) -> datetime:
    """Naive UTC. Refused: a time without a zone (whose would it be?), before 1970, beyond 9999, a leap second."""
    if not isinstance(value, str) or len(value) > 40:
        raise _refused(f"DateTime: {_EXAMPLE}.")
    found = _TIME.fullmatch(value)
    if found is None:
        raise _refused(f"DateTime: {_EXAMPLE}.")
    if found[3] is None:
        raise _refused(f"DateTime: the zone is missing; {_EXAMPLE}.")
    try:
        at = to_utc(datetime.fromisoformat(value.upper().replace(",", ".")))
    except (ValueError, OverflowError):
        raise _refused("DateTime: there is no such time between the years 1970 and 9999.") from None
    if at < EPOCH:
        raise _refused("DateTime: times before 1970 are not taken.")
    return at


DATETIME = strawberry.scalar(
    name="DateTime",
    description="ISO 8601, in UTC when it comes out: 2026-12-10T09:00:00.000Z. A zone is needed going in.",
    serialize=iso,
    parse_value=parse_time,
)

SCALARS: Final[dict[object, ScalarDefinition]] = {Json: JSON, datetime: DATETIME}
