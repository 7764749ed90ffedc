"""Logs: one form for everything, nothing secret, nothing that steers a terminal, no crash."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from taskmill.runtime import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is a thing of the process: what a test sets up goes with it."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers, logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def one(**fields: Any) -> dict[str, Any]:
    """The JSON line of an event with these fields."""
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logs.get_logger().info("event", **fields)
    (line,) = lines(stream)
    return line


def test_json_when_nobody_watches() -> None:
    """`auto` on something that is no terminal is one JSON object a line, with time and level."""
    stream = io.StringIO()
    logs.configure("auto", stream=stream)
    logs.get_logger("x").info("claim", tasks=5)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "info", "event": "claim", "tasks": 5}


def test_readable_on_a_terminal() -> None:
    """`auto` on a terminal is a line to read, in colours."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.configure("auto", stream=stream)
    logs.get_logger().info("claim", tasks=5)
    assert "\x1b[" in stream.getvalue()
    assert "claim" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_libraries_speak_the_same_form() -> None:
    """Standard logging, warnings and tracebacks come out as JSON lines too; libraries only from WARNING on."""
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logging.getLogger("uvicorn.error").info("not this")
    logging.getLogger("uvicorn.error").warning("bad %s", "request")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("asyncio").exception("died")
    first, second, third = lines(stream)
    assert (first["event"], first["level"], first["logger"]) == ("bad request", "warning", "uvicorn.error")
    assert "old" in second["event"]
    assert "ValueError: why" in third["exception"]


def test_a_wrong_record_of_a_library_is_still_told() -> None:
    """Arguments that do not fit the text lose the arguments, not the line."""
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    logging.getLogger("library").warning("%s and %s", "one")  # noqa: PLE1206 (that is the point)
    assert "library: %s and %s" in stream.getvalue()


SECRETS = [
    {"password": "hunter2"},
    {"jwt_secret": "hunter2"},
    {"accessToken": "hunter2"},
    {"X-Api-Key": "hunter2"},
    {"Authorization": "Basic hunter2"},
    {"headers": {"authorization": "hunter2"}},
    {"items": [{"smtp_password": "hunter2"}]},
    {"url": "mysql://user:hunter2@host/db"},
    {"url": "redis://:hunter2@host/0"},
    {"url": "mysql://user:p@ss/hunter2@host/db".replace("/hunter2", "hunter2")},
    {"text": "sent Bearer hunter2hunter2 to it"},
    {"text": "token eyJhbGciOi.eyJzdWIi.hunter2"},
    {"text": "connect(password='hunter2')"},
    {"text": '{"secret": "hunter2"}'},
    {"error": ValueError("DSN mysql://u:hunter2@h/d")},
]


@pytest.mark.parametrize("fields", SECRETS, ids=str)
@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_left_out(form: Any, fields: dict[str, Any]) -> None:
    """By the field's name or by the look of the value, at any depth, in both forms."""
    stream = io.StringIO()
    logs.configure(form, stream=stream)
    logs.get_logger().info("event", **fields)
    assert "event" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_secrets_are_left_out_of_tracebacks() -> None:
    """An exception's text is redacted like any other."""
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    try:
        raise RuntimeError("cannot reach mysql://u:" + "hunter2" + "@h/d")
    except RuntimeError:
        logs.get_logger().exception("died")
    assert "RuntimeError: cannot reach mysql://u:***@h/d" in stream.getvalue()


@pytest.mark.parametrize(
    "fields",
    [{"token_version": 3}, {"password": None}, {"url": "http://host:80/a@b"}, {"author": "me"}],
    ids=str,
)
def test_what_is_no_secret_stays(fields: dict[str, Any]) -> None:
    """Numbers, None, ports and similar words are left alone."""
    assert one(**fields).items() >= fields.items()


@pytest.mark.parametrize("form", ["json", "console"])
def test_control_characters_are_escaped(form: Any) -> None:
    """Nothing that a user typed can start a line of its own or steer the terminal."""
    stream = io.StringIO()
    logs.configure(form, stream=stream, colors=False)
    logs.get_logger().info("a\nb", title="\x1b]0;x\x07\x9b31m\r\n\u202e", nested={"k": ["\x1b[2J"]})
    assert stream.getvalue().count("\n") == 1
    assert not set(stream.getvalue()) & set("\x1b\x07\x9b\r\u202e")


def test_long_values_are_cut() -> None:
    """A field is at most 4 KB, and lists are cut too."""
    line = one(text="x" * 100_000, many=list(range(10_000)), raw=b"\x00" * 100_000)
    assert len(line["text"]) < logs.VALUE_LIMIT + 50
    assert len(line["raw"]) < logs.VALUE_LIMIT + 50
    assert len(line["many"]) == logs.ITEMS_LIMIT


def test_anything_can_be_a_field() -> None:
    """Objects, even those that cannot say what they are, circular ones and huge numbers make a line."""

    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    circular: list[Any] = []
    circular.append(circular)
    line = one(a=Mute(), b=circular, c=10**1000, d={1: {2}}, e="\ud800", f=float("nan"))
    assert line["a"] == "<Mute>"


def test_context_is_bound_to_every_line() -> None:
    """What was bound for a request is in each of its lines."""
    with structlog.contextvars.bound_contextvars(request="r1"):
        assert one()["request"] == "r1"


def test_level_filters() -> None:
    """Below the level nothing is written."""
    stream = io.StringIO()
    logs.configure("json", "WARNING", stream=stream)
    logs.get_logger().info("not this")
    logging.getLogger("library").info("nor this")
    assert stream.getvalue() == ""


PROGRAM = """
import sys, time
from taskmill.runtime import logs
logs.configure("auto")
for n in range(2000):
    logs.get_logger().info("line", n=n, text="\\u20ac" * 50)
print("printed", flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize("how", ["reader gone", "closed"])
def test_a_closed_standard_output_does_not_end_the_process(how: str) -> None:
    """With the reader gone, or no standard output at all, the program goes on to its own end, silently."""
    read, write = os.pipe()
    os.close(read)
    if how == "closed":
        command = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", PROGRAM]
    else:
        command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (7, b"")


STALLED = """
import sys, time
from taskmill.runtime import logs
logs.configure("json")
began = time.monotonic()
for n in range(3000):
    logs.get_logger().info("line", n=n, text="x" * (100 if n % 100 else 5000))
print(time.monotonic() - began, file=sys.stderr, flush=True)
sys.stdin.readline()
logs.get_logger().info("last")
"""


def test_a_reader_that_stalls_does_not_stall_the_process() -> None:
    """Nobody reads: lines are dropped after a moment, not waited for; how many is told when the reader goes on."""
    with subprocess.Popen(
        [sys.executable, "-c", STALLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        assert float(process.stderr.readline()) < 5
        read = os.read(process.stdout.fileno(), 1 << 20)
        process.stdin.write(b"go on\n")
        process.stdin.close()
        read += process.stdout.read()
        assert process.wait(10) == 0
    written = sum(line.startswith(b"{") and line.endswith(b"}") for line in read.splitlines())
    assert written < 3000
    assert b"lines were dropped" in read
    assert json.loads(read.splitlines()[-1])["event"] == "last"


def test_a_poor_locale_does_not_break_a_line() -> None:
    """What the encoding cannot say is written as an escape."""
    program = (
        "from taskmill.runtime import logs; logs.configure('console'); logs.get_logger().info('\\u20ac')"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True)
    assert rb"\u20ac" in done.stdout
