"""The command line. How it ends is in STATUSES; an error is one line on standard error."""

from __future__ import annotations

import inspect
import io
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from taskmill.cli.interrupt import Runner, hear_once
from taskmill.cli.probe import QUESTIONS, is_question, probe
from taskmill.errors import ConfigError, NotFound, StartError, TaskEnded, TaskmillError

FAILED, WRONG, AWAY, ABSENT, ENDED_BADLY, TOO_LATE = 1, 2, 3, 4, 5, 6
INTERRUPTED = 130
PIPE_CLOSED = 141
STATUSES: Final = {
    0: "done; a service: stopped by SIGTERM or Ctrl-C",
    FAILED: "failed, or the API refused it",
    WRONG: "a wrong option, input or setting: nothing was done",
    AWAY: "the API, a server, a schema or a port stands in the way",
    ABSENT: "what it is about is not there, or is somebody else's",
    ENDED_BADLY: "the task that was waited for has FAILED, or was CANCELLED",
    TOO_LATE: "the task that was waited for has not ended within --timeout",
    INTERRUPTED: "Ctrl-C before it was done",
    PIPE_CLOSED: "the reader of our output went away",
}
"""Exit status → what it says. Scripts rely on them."""


class TooLate(TaskmillError):
    """A task has not ended within the time for which it was waited."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    _fill_gaps()
    _write_anything()
    if arguments is None:
        hear_once()
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _silence()
    except KeyboardInterrupt:
        return INTERRUPTED
    except TaskmillError as error:
        say(error.message)
        return status_of(error)
    return status


def status_of(error: TaskmillError) -> int:
    """The exit status of an error."""
    kinds = (
        (ConfigError, WRONG),
        (StartError, AWAY),
        (NotFound, ABSENT),
        (TaskEnded, ENDED_BADLY),
        (TooLate, TOO_LATE),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), FAILED)


def _run(arguments: list[str]) -> int:
    if is_question(arguments):
        return probe(arguments[1] if arguments[1:] else QUESTIONS[0])
    from cyclopts import CycloptsError

    from taskmill.cli.commands import app

    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.verbose = False
        hint = f"taskmill {' '.join(error.command_chain or ())}".rstrip()
        say(f"{' '.join(str(error).split())[:300]} (see: {hint} --help)")
        return WRONG
    result = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        result = _run_async(result)
    return result if isinstance(result, int) else 0


def _run_async(work: Coroutine[Any, Any, Any]) -> Any:
    with new_runner() as runner:
        return runner.run(work)


def new_runner() -> Runner:
    """On uvloop where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return Runner()
    return Runner(loop_factory=new_event_loop)


def _fill_gaps() -> None:
    """Where a standard stream is closed, the next file or socket would take its number, and what is meant for it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _write_anything() -> None:
    """A title in Greek is no reason to fail on a terminal that has no Greek."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """A line on standard error."""
    if sys.stderr is not None:
        try:
            print(f"taskmill: {text}", file=sys.stderr, flush=True)
        except OSError:
            return  # nobody listens; the exit status says it too


def _silence() -> int:
    """The reader closed its end: what is buffered would fail again, with a traceback, when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return PIPE_CLOSED
