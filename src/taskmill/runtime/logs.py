"""Structured logs: to standard output, readable on a terminal, one JSON object a line otherwise.

    log = logs.get_logger(__name__)
    log.info("claim", tasks=5, queue="default")

The event is a short phrase, everything that varies is a field. What users typed may be in any field, so control
characters are escaped, long values are cut, and passwords and tokens are left out, by the field's name and by the
look of the value. The loggers of the libraries (standard `logging`) come out in the same form.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
from collections.abc import Mapping, MutableMapping
from typing import IO, Any, Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

VALUE_LIMIT: Final = 4 * 1024
"""Characters of one field."""
TRACEBACK_LIMIT: Final = 16 * 1024
ITEMS_LIMIT: Final = 50
"""Items of a list or mapping that are shown."""
DEPTH_LIMIT: Final = 4

STALL: Final = 0.1
"""Seconds that a line may wait for a reader who does not read."""

REDACTED: Final = "[redacted]"

Format = Literal["auto", "console", "json"]

# Libraries that tell little at INFO and much at DEBUG.
QUIET: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "alembic",
    "asyncio",
    "sqlalchemy",
    "httpx2",
    "PIL",
)

get_logger = structlog.get_logger
"""A logger; it may be made at import time, before `configure`."""


def configure(
    format: Format = "auto", level: str = "INFO", *, stream: IO[str] | None = None, colors: bool | None = None
) -> None:
    """Sets up logging for the process. Calling it again replaces what was set.

    `auto`: console on a terminal, JSON otherwise. `colors`: None means on a terminal.
    """
    out = stream if stream is not None else sys.stdout
    terminal = _is_terminal(out)
    console = format == "console" or (format == "auto" and terminal)
    sink = Sink(out)
    shared = _shared(console)
    renderer = _console(terminal if colors is None else colors) if console else _json
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    handler = _Handler(sink)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.add_log_level, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in QUIET:
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(max(logging.WARNING, root.level) if root.level > logging.DEBUG else logging.DEBUG)
    # It repeats the notes that the server makes of our own statements; what matters comes as an exception.
    logging.getLogger("asyncmy").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # a log line that cannot be written is not an error of the program
    logging.captureWarnings(capture=True)


class Sink:
    """Writes lines to a stream from any thread, and never waits long for its reader.

    A terminal that is stopped (Ctrl-S), or a pipe that nobody empties, must not stop leases from being renewed: after
    a moment lines are dropped, and how many is told when the reader goes on. A reader that has gone for good is
    replaced by nowhere.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._number = _file_number(stream)
        self._dropped = 0
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a locale that cannot say everything

    def msg(self, message: str) -> None:
        with self._lock:
            if self._stream is None:
                return
            try:
                if self._number is None:
                    self._stream.write(message + "\n")
                    self._stream.flush()
                else:
                    self._write(self._stream, self._number, message)
            except (OSError, ValueError):
                self._abandon(self._number)

    debug = info = warning = warn = error = critical = fatal = exception = log = msg

    def _write(self, stream: IO[str], number: int, message: str) -> None:
        # A dropped line leaves the reader stalled until proven otherwise: then the next one does not wait.
        if not _writable(number, 0 if self._dropped else STALL):
            self._dropped += 1
            return
        stream.flush()  # what was printed comes first
        if self._dropped:
            message = f"{self._dropped} lines were dropped: nobody read them\n{message}"
            self._dropped = 0
        data = (message + "\n").encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace")
        while data:
            if not _writable(number, STALL):
                self._dropped += 1  # a torn line, which its reader's silence has earned
                return
            data = data[os.write(number, data[: select.PIPE_BUF]) :]

    def _abandon(self, number: int | None) -> None:
        """The reader closed its end. What is left in the buffer would fail again when the interpreter ends."""
        self._stream = None
        if number is None:
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _file_number(stream: IO[str] | None) -> int | None:
    """Of the file behind the stream, where one can ask whether it takes more."""
    if stream is None or not hasattr(select, "poll"):
        return None
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None  # closed, or in memory


def _writable(number: int, timeout: float) -> bool:
    """Whether PIPE_BUF bytes can be written at once, now or within `timeout` seconds. True when it would fail at once."""
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return bool(poll.poll(timeout * 1000))


class _Handler(logging.Handler):
    """Standard `logging` into the sink."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.msg(self.format(record))
        except Exception:  # noqa: BLE001 (a library's record with wrong arguments: its own text is better than none)
            self._sink.msg(f"{record.levelname} {record.name}: {escape(str(record.msg))[:VALUE_LIMIT]}")


def _is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


# -- processors ------------------------------------------------------------------------------------------


def to_logging() -> None:
    """For a program that is not ours: what we log goes to standard `logging`, as `taskmill…`, and not to its output.

    What the program itself has set up for structlog, before or after, holds instead.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                _clean,
                _sentence,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=False,
        )


def _sentence(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    head, trace = event.pop("event", ""), event.pop("exception", None)
    words = " ".join([str(head), *(f"{name}={value}" for name, value in event.items())])
    return f"{words}\n{trace}" if trace else words


def _shared(console: bool) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _clean_for_console if console else _clean,
    ]


def _console(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors, force_colors=colors, sort_keys=False, pad_event_to=24, pad_level=True
    )


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    # ASCII only: nothing in a line can steer a terminal that shows it, and no encoding can break it.
    head = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return json.dumps({**head, **event}, default=str, ensure_ascii=True, separators=(",", ":"))


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return _cleaned(event, console=False)


def _clean_for_console(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return _cleaned(event, console=True)


# Set by structlog and by logging, not by a caller.
_OWN: Final = frozenset({"timestamp", "level", "_record", "_from_structlog"})


def _cleaned(event: MutableMapping[str, Any], *, console: bool) -> MutableMapping[str, Any]:
    for key in list(event):
        if key in _OWN:
            continue
        value = event[key]
        if key in ("exception", "stack"):
            text = redact_text(_cut_middle(str(value), TRACEBACK_LIMIT))
            event[key] = _escape_lines(text) if console else text
            continue
        value = REDACTED if _is_secret(key, value) else _plain(value, DEPTH_LIMIT)
        if console and isinstance(value, str):
            value = escape(value)
        event[key] = value
    return event


def _plain(value: Any, depth: int) -> Any:
    """The value as JSON can hold it: bounded, without secrets."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 256 else _cut(hex(value))
    if isinstance(value, str):
        return _cut(redact_text(value))
    if isinstance(value, bytes):
        return _cut(value.hex())
    if isinstance(value, Mapping) and depth > 0:
        return {
            _cut(str(key)): REDACTED if _is_secret(str(key), item) else _plain(item, depth - 1)
            for key, item in list(value.items())[:ITEMS_LIMIT]
        }
    if isinstance(value, list | tuple | set | frozenset) and depth > 0:
        return [_plain(item, depth - 1) for item in list(value)[:ITEMS_LIMIT]]
    try:
        return _cut(redact_text(str(value)))
    except Exception:  # noqa: BLE001 (an object that cannot even say what it is)
        return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    if len(text) <= VALUE_LIMIT:
        return text
    return f"{text[:VALUE_LIMIT]}… ({len(text)} characters)"


def _cut_middle(text: str, limit: int) -> str:
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}\n…\n{text[-half:]}"


# -- secrets ---------------------------------------------------------------------------------------------

_SECRET_WORDS: Final = frozenset(
    ("password", "passwd", "pwd", "passphrase", "secret", "token", "authorization", "cookie", "jwt")
    + ("apikey", "credential", "credentials")
)
_WORD: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_URL_PASSWORD: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s/:@?#]{0,256}):[^\s/]{1,1024}@")
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_JWT: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*")
_PAIR: Final = re.compile(
    r"""(?i)\b([a-z_]*(?:password|passwd|secret|token|api_?key))(["']?\s*[=:]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,;&)}\]"']+)"""
)


def _is_secret(key: str, value: Any) -> bool:
    """By the words of the key: `jwt_secret`, `accessToken`, `x-api-key`. A number or None tells nothing."""
    if value is None or isinstance(value, bool | int | float):
        return False
    words = [word.lower() for word in _WORD.findall(key)]
    return not _SECRET_WORDS.isdisjoint(words) or "apikey" in "".join(words)


def redact_text(text: str) -> str:
    """The text without the passwords of URLs, bearer tokens, JWTs and `password=…` pairs in it."""
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1:***@", text)
    if "eyJ" in text:
        text = _JWT.sub(REDACTED, text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    if "=" in text or ":" in text:
        text = _PAIR.sub(rf"\1\2{REDACTED}", text)
    return text


# -- control characters ----------------------------------------------------------------------------------

# C0, DEL, C1, line and paragraph separators, and the marks that turn the direction of text.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    r"""Control characters as Python writes them: a line break as \n, an escape as \x1b."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _escape_lines(text: str) -> str:
    return "\n".join(escape(line) for line in text.split("\n"))
