"""What a command reads of what its caller gave: texts of options, files, standard input. Never more than a limit.

Whatever is wrong is a ConfigError that names the option.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

from taskmill.errors import ConfigError
from taskmill.runtime.logs import escape

PAYLOAD_MOST: Final = 1 << 20
"""Bytes of a payload as it is written: spaces and escapes included, more than 256 KiB of JSON can need."""
PATIENCE: Final = 10.0
"""Seconds until somebody must have opened the other end of a FIFO."""
GLANCE: Final = 0.2
"""Seconds after which a wait for input looks whether there was a Ctrl-C."""


class Interruptible(io.FileIO):
    """A terminal or a pipe. A Ctrl-C that comes between the interpreter's last look at its signals and a blocking read is
    not noticed before that read returns: with nobody typing, never. So it waits in short turns, and reads what is there."""

    def readinto(self, into: Any) -> int:
        while True:
            if select.select([self], [], [], GLANCE)[0]:
                count = super().readinto(into)
                # None: another reader was faster, and whoever opened it said not to block.
                if count is not None:
                    return count


def payload(option: str, text: str | None) -> Any:
    """A JSON object: the text itself, `@file`, or `-` for standard input. None when it is not given."""
    if text is None:
        return None
    if text == "-":
        with standard_input(option) as source:
            text = _whole(option, source)
    elif text.startswith("@"):
        with opened(option, text[1:]) as source:
            text = _whole(option, source)
    value = json_value(option, text)
    if not isinstance(value, dict):
        raise ConfigError(f"{option}: expected a JSON object, such as '{{\"n\": 1}}'")
    return value


def json_value(what: str, text: str) -> Any:
    """As JSON has it: without NaN and Infinity."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{what}: expected JSON; {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{what}: expected JSON of a moderate depth, with numbers that it has") from None


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _whole(option: str, source: BinaryIO) -> str:
    data = source.read(PAYLOAD_MOST + 1)
    if len(data) > PAYLOAD_MOST:
        raise ConfigError(f"{option}: expected at most {PAYLOAD_MOST:,} bytes")
    return decoded(option, data)


def decoded(what: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: expected text in UTF-8") from None


@contextmanager
def standard_input(option: str) -> Iterator[BinaryIO]:
    if sys.stdin is None:
        raise ConfigError(f"{option}: expected standard input, which is closed")
    try:
        number = sys.stdin.fileno()
    except io.UnsupportedOperation:  # the caller put an object of its own there
        yield sys.stdin.buffer
        return
    try:
        yield io.BufferedReader(Interruptible(number, closefd=False))
    except OSError as error:
        raise ConfigError(f"{option}: standard input: {_reason(error)}") from None


@contextmanager
def opened(option: str, path: str) -> Iterator[BinaryIO]:
    """A file, a device or a pipe, for reading. ConfigError as well for what goes wrong while it is read."""
    shown = escape(path[:200])
    try:
        with _open(path, f"{option}: {shown}") as source:
            yield source
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option}: {shown}: {_reason(error)}") from None


def _open(path: str, what: str) -> BinaryIO:
    if Path(path).is_char_device():
        return io.BufferedReader(Interruptible(path))
    if not Path(path).is_fifo():
        return Path(path).open("rb")
    # To open a FIFO that nobody writes to would wait for ever.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not select.select([number], [], [], PATIENCE)[0]:
        os.close(number)
        raise ConfigError(f"{what}: a FIFO to which nobody wrote within {PATIENCE:g} s")
    os.set_blocking(number, True)
    return io.BufferedReader(Interruptible(number))


def _reason(error: Exception) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()


# -- texts of options ------------------------------------------------------------------------------------


def number(option: str, text: str | None, default: int, low: int, high: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise ConfigError(f"{option}: expected a whole number from {low} to {high}, got {_shown(text)}")
    return int(text)


def one_of(option: str, text: str | None, names: Iterable[str]) -> Any:
    """One of the names, in any case; with - for _."""
    if text is None:
        return None
    known = list(names)
    name = text.upper().replace("-", "_")
    if name not in known:
        raise ConfigError(f"{option}: expected one of {', '.join(known)}, got {_shown(text)}")
    return name


def moment(option: str, text: str | None) -> datetime | None:
    """`2026-12-24T09:00:00Z`: a time with its zone; or `30s`, `15m`, `12h`, `1d`: from now."""
    if text is None:
        return None
    if text[-1:] in tuple("smhd") and text[:1].isdigit() and text[:-1].isalnum():
        return datetime.now(UTC) + duration(option, text)
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ConfigError(
        f"{option}: expected a time with a zone such as 2026-12-24T09:00:00Z, or 30s, 15m, 12h, 1d from now; "
        f"got {_shown(text)}"
    )


def duration(option: str, text: str) -> timedelta:
    from taskmill.runtime.forms import parse_duration

    try:
        return parse_duration(text)
    except ValueError:
        raise ConfigError(f"{option}: expected 30s, 15m, 12h or 1d, got {_shown(text)}") from None


def seconds(option: str, text: str | None, default: float) -> float:
    """`90`, or `30s`, `15m`, `12h`, `1d`."""
    if text is None:
        return default
    if text.isascii() and text.isdigit():
        return float(number(option, text, 0, 1, 999_999_999))
    return duration(option, text).total_seconds()


def names(text: str | None) -> list[str] | None:
    """Separated by commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _shown(text: str) -> str:
    return repr(text[:40])
