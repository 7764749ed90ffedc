"""The command line. How it ends: 0 done (a service: stopped, by SIGTERM or Ctrl-C), 1 failed, 2 a wrong option or setting,
3 a server, a schema or a port stands in the way, 130 Ctrl-C before it was done, 141 the reader of our output went away.
An error is one line on standard error."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from taskmill.errors import ConfigError, StartError, TaskmillError

PIPE_CLOSED = 141
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status."""
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _silence()
    except KeyboardInterrupt:
        return INTERRUPTED
    except TaskmillError as error:
        _say(error.message)
        return 2 if isinstance(error, ConfigError) else 3 if isinstance(error, StartError) else 1
    return status


def _run(arguments: list[str]) -> int:
    from cyclopts import CycloptsError

    from taskmill.cli.commands import app

    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.verbose = False
        hint = f"taskmill {' '.join(error.command_chain or ())}".rstrip()
        _say(f"{' '.join(str(error).split())[:300]} (see: {hint} --help)")
        return 2
    result = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        result = _run_async(result)
    return result if isinstance(result, int) else 0


def _run_async(work: Coroutine[Any, Any, Any]) -> Any:
    """On uvloop where there is one."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        with asyncio.Runner() as runner:
            return runner.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def _say(text: str) -> None:
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
