"""A runner process: spawned, watched, signalled. It knows no runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Final

import structlog

from taskmill.runner import messages
from taskmill.runtime.wire import Wire, open_wire
from taskmill.worker.options import WorkerOptions

LAST_WORDS: Final = 0.2
"""Seconds in which what a dead runner had written is still read, when a process it left behind holds the line open."""

log = structlog.get_logger(__name__)


class Child:
    """One `python -m taskmill.runner`, leader of a process group of its own, with one inherited socket.

    `on_gone(status)` is called once, after the last message, when the process is reaped and its group is killed.
    """

    def __init__(
        self, on_messages: Callable[[list[messages.Up]], None], on_gone: Callable[[str], None], grace: float
    ) -> None:
        self._on_gone = on_gone
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self._wire: Wire[messages.Down, messages.Up] = Wire(messages.UP, on_messages, self._line_closed)
        self._process: subprocess.Popen[bytes] | None = None
        self._status: str | None = None
        self._opening: asyncio.Task[None] | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def start(self, options: WorkerOptions, slots: int) -> None:
        """Spawns it. OSError when the system refuses."""
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [
                    # -u: what a handler prints is seen at once, and not lost with its process.
                    *(sys.executable, "-u", "-m", "taskmill.runner", "--fd", str(theirs.fileno())),
                    *("--parent", str(os.getpid()), "--slots", str(slots)),
                    *("--log-format", options.log_format, "--log-level", options.log_level),
                    *("--", options.app),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._opening = self._loop.create_task(open_wire(ours, self._wire))
        self._watch(self._process)

    def send(self, message: messages.Down) -> None:
        self._wire.send(message)

    def terminate(self) -> None:
        """Asks it and all that its handlers started to end; kills what is left after the grace."""
        self._wire.send(messages.Stop(self._grace / 2))
        self._wire.flush()
        self._signal(signal.SIGTERM)
        self._loop.call_later(self._grace, self.kill)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        # Until it is reaped, neither its id nor its group's can be another one's.
        if self._process is not None and self._status is None:
            try:
                os.killpg(self._process.pid, number)
            except (ProcessLookupError, PermissionError):
                self._process.send_signal(number)

    # -- its end -----------------------------------------------------------------------------------------

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # not on this system, kernel or sandbox
            thread = threading.Thread(target=self._wait, args=(process,), daemon=True)
            thread.start()
        else:
            self._loop.add_reader(self._pidfd, self._exited)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._loop.call_soon_threadsafe(self._exited)

    def _exited(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        assert self._process is not None
        self._signal(signal.SIGKILL)  # what its handlers left running
        self._status = status_text(self._process.wait())
        if self._wire.closed:
            self._on_gone(self._status)
        else:
            self._loop.call_later(LAST_WORDS, self._wire.abort)

    def _line_closed(self, error: Exception | None) -> None:
        if error is not None:
            log.error("a runner's line broke", pid=self.pid, exc_info=error)
            self.kill()
        if self._status is not None:
            self._on_gone(self._status)
        else:
            self._loop.call_later(self._grace, self.kill)


def status_text(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
