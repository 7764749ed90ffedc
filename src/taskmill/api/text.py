"""What clients send, taken apart strictly: JSON without ambiguity, text without control characters."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import msgspec

from taskmill.errors import BadUserInput, PayloadTooLarge
from taskmill.model.task import PAYLOAD_LIMIT

PAYLOAD_DEPTH: Final = 32

# C0, DEL and C1. A line break or a tab can be meant in a text of several lines.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_BREAKS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class JsonError(ValueError):
    """The text is not JSON as RFC 8259 has it, or two readers would understand it differently."""


def load_json(data: bytes | str) -> Any:
    """The value of a JSON text; JsonError says what is wrong with it.

    Refused besides what is no JSON: invalid UTF-8, a byte order mark, lone surrogates, NaN and numbers that a double
    cannot hold, duplicate keys (readers differ in which one counts), integers of thousands of digits, deep nesting.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = _decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:
            _encoder.encode(value)  # fails on a surrogate that has lost its other half
    except JsonError:
        raise
    except UnicodeError:
        raise JsonError("the text is not valid Unicode") from None
    except RecursionError:
        raise JsonError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at character {error.pos}") from None
    except ValueError:  # int() of more digits than Python takes
        raise JsonError("a number has too many digits") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError(f"the key {twice[:100]!r} is there twice")
    return value


def _float(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise JsonError("a number is out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not a JSON value")


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_encoder: Final = msgspec.json.Encoder(order="deterministic")


def canonical(value: object, what: str = "payload") -> str:
    """The one JSON text of an object: keys sorted, no blanks. What is stored and hashed.

    BadUserInput when it is not an object, is deeper than PAYLOAD_DEPTH or holds what JSON has not;
    PayloadTooLarge beyond PAYLOAD_LIMIT bytes.
    """
    if not isinstance(value, dict):
        raise BadUserInput(f'{what}: an object is expected, such as {{videoId: "abc123"}}')
    try:
        encoded = _encoder.encode(value)
    except RecursionError:
        raise _too_deep(what) from None
    except (UnicodeError, TypeError, ValueError):
        raise BadUserInput(f"{what}: it holds what JSON cannot") from None
    if len(encoded) > PAYLOAD_LIMIT:
        raise PayloadTooLarge(f"{what}: {len(encoded)} bytes; at most {PAYLOAD_LIMIT} are taken")
    _check_depth(value, what)  # after its size: a million empty lists would hold the loop for half a second
    return encoded.decode()


def _check_depth(value: object, what: str) -> None:
    """Level by level, so that a deep value cannot exhaust the stack."""
    level: list[object] = [value]
    for _ in range(PAYLOAD_DEPTH):
        level = [item for parent in level for item in _items(parent, what)]
        if not level:
            return
    raise _too_deep(what)


def _too_deep(what: str) -> BadUserInput:
    return BadUserInput(f"{what}: nested deeper than {PAYLOAD_DEPTH} levels")


def _items(value: object, what: str) -> list[object]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    inner: list[object] = []
    for item in items:
        if isinstance(item, dict | list):
            inner.append(item)
        elif isinstance(item, float) and item - item != 0:
            raise BadUserInput(f"{what}: NaN and Infinity are not JSON values")
    return inner


def line(name: str, value: str, most: int) -> str:
    """A text of one line, trimmed: 1 to `most` characters, no control characters."""
    value = value.strip()
    if not value:
        raise BadUserInput(f"{name}: it may not be empty")
    if len(value) > most:
        raise BadUserInput(f"{name}: {len(value)} characters; at most {most} are taken")
    if _CONTROL.search(value):
        raise BadUserInput(f"{name}: control characters are not taken")
    return value


def prose(name: str, value: str, most: int) -> str:
    """A text that may have several lines: at most `most` characters."""
    if len(value) > most:
        raise BadUserInput(f"{name}: {len(value)} characters; at most {most} are taken")
    if _CONTROL_BUT_BREAKS.search(value):
        raise BadUserInput(f"{name}: control characters are not taken")
    return value
