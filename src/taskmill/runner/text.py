"""Text of users, made safe to keep and to show: bounded, without control characters."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from taskmill.model.task import LOG_FIELDS_LIMIT, LOG_MESSAGE_LIMIT

# Everything below a space but tab and newline, DEL, the C1 range (it holds CSI), and the characters that turn the
# direction of text: a log line must not move the cursor of who reads it. Half a surrogate pair is no text at all.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_GAP: Final = "\n[…]\n"


def clean(text: str) -> str:
    """Unsafe characters as escapes: ESC becomes the four characters \\x1b."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escape, text)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters: the first quarter and the end, where the reason usually is."""
    if len(text) <= limit:
        return text
    head = limit // 4
    return text[:head] + _GAP + text[len(text) - (limit - head - len(_GAP)) :]


def log_message(message: str) -> str:
    return clean(message if len(message) <= LOG_MESSAGE_LIMIT else message[: LOG_MESSAGE_LIMIT - 1] + "…")[
        :LOG_MESSAGE_LIMIT
    ]


def log_fields(fields: dict[str, Any]) -> str | None:
    """The fields as JSON text, at most LOG_FIELDS_LIMIT characters; what JSON does not have is shown as text."""
    if not fields:
        return None
    try:
        text = _fields_text(fields)
    except (ValueError, RecursionError):
        text = json.dumps({name: _shown(value)[:200] for name, value in list(fields.items())[:20]})
    if len(text) > LOG_FIELDS_LIMIT:
        text = json.dumps({"cut": text[: LOG_FIELDS_LIMIT // 4]})
    return text


def _fields_text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, default=_shown, skipkeys=True, allow_nan=False, separators=(",", ":"))


def _shown(value: object) -> str:
    try:
        return str(value)[:LOG_FIELDS_LIMIT]
    except Exception as error:  # noqa: BLE001 (`__str__` of the user may fail in any way)
        return f"({type(value).__name__}: {type(error).__name__})"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
