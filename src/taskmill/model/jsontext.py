"""JSON text of a Python value: what a handler returns, and what it submits."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from taskmill.model.task import PAYLOAD_LIMIT


def plain(value: object, *, back: bool = False) -> Any:
    """The value made of what JSON has: dataclasses, Structs and pydantic models as objects, times as ISO 8601, sets as
    lists, Enums by their value. TypeError for anything else. `back`: it will be read as its type again, so what a
    pydantic model only computes is left out."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_model_back if back else _model)


def _model(value: Any, *, back: bool = False) -> Any:
    if hasattr(value, "__pydantic_validator__"):
        return value.model_dump(mode="json", by_alias=True, round_trip=back)
    if type(value).__module__ == "pydantic.networks":  # HttpUrl and its like, in a model or on their own
        return str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _model_back(value: Any) -> Any:
    return _model(value, back=True)


def _default(value: object) -> Any:
    # A set has no order, bytes are no text: in a result nothing says that they are meant.
    if isinstance(value, set | frozenset | bytes | bytearray | memoryview):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return plain(value)


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default
)


def json_text(value: object, *, limit: int = PAYLOAD_LIMIT) -> str:
    """The value as JSON text of at most `limit` UTF-8 bytes.

    ValueError, with a sentence for the author of the handler, for anything else: a type that JSON does not have, NaN,
    a circle, a nesting too deep, half a surrogate pair, or too many bytes.
    """
    if value is None:
        return "null"
    try:
        text = _ENCODER.encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except TypeError as error:
        raise ValueError(_first_line(error)) from None
    except ValueError as error:
        raise ValueError(_first_line(error)) from None
    if size > limit:
        raise ValueError(f"it has {size:,} bytes as JSON, at most {limit:,} are kept")
    return text


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
