"""`python -m taskmill.runner`: started by a supervisor, which holds the other end of the socket."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ends this process with its supervisor, even while a handler holds the interpreter. Linux only.

    Elsewhere the end of the socket tells, as soon as the event loop comes to it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="taskmill.runner", description="Runs handlers for a taskmill worker."
    )
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--log-format", default="auto")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("app")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    # Ctrl-C and a service manager signal the whole group; only the supervisor decides when a run ends.
    # Handlers, not SIG_IGN: programs that a handler starts would inherit that.
    signal.signal(signal.SIGINT, _leave_to_supervisor)
    signal.signal(signal.SIGTERM, _leave_to_supervisor)

    from taskmill.runner.process import serve  # here: after the process is tied to its parent
    from taskmill.runtime import logs

    logs.configure(arguments.log_format, arguments.log_level.upper())
    serve(arguments.fd, arguments.app, arguments.slots)


def _leave_to_supervisor(number: int, frame: object) -> None:
    return


if __name__ == "__main__":
    main()
