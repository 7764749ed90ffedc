"""The life of a runner process: load the app, say hello, run jobs, stop when told or when the supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from taskmill.errors import ConfigError, StartError
from taskmill.runner import messages
from taskmill.runner.core import Core
from taskmill.runner.executor import message_of
from taskmill.runner.load import load_app
from taskmill.runtime.logs import get_logger
from taskmill.runtime.wire import Wire, open_wire

log = get_logger(__name__)

REFUSED = 3
"""Exit status when the app cannot be used. The reason went over the wire."""


def serve(fd: int, app: str, slots: int) -> NoReturn:
    """Runs until told to stop; ends the process."""
    with socket.socket(fileno=fd) as sock:
        os.set_inheritable(fd, False)  # programs that a handler starts must not hold the line open
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            process = Process(app, slots)
            status = runner.run(process.run(sock))
            if process.threads_left:
                end(status)  # a normal end would wait for threads that nobody can stop
    sys.exit(status)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # here: it is not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


def end(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Process:
    def __init__(self, app: str, slots: int) -> None:
        self._app = app
        self._slots = slots
        self._grace = 0.0
        self._core: Core | None = None
        self._stop: asyncio.Event | None = None
        self._wire: Wire[Any, Any] | None = None

    @property
    def threads_left(self) -> bool:
        return self._core is not None and self._core.threads_left

    async def run(self, sock: socket.socket) -> int:
        self._stop = asyncio.Event()
        closed = asyncio.Event()
        wire: Wire[messages.Up, messages.Down] = Wire(
            messages.DOWN, self._receive, lambda _: self._gone(closed), self._resume
        )
        self._wire = wire
        await open_wire(sock, wire)
        refusal = await self._start(wire)
        if refusal is None:
            await self._stop.wait()
            assert self._core is not None
            for problem in await self._core.stop(self._grace):
                log.error("a shutdown hook failed", error=problem)
        else:
            self._stop.set()
            wire.send(refusal)
        wire.close()
        await closed.wait()
        return 0 if refusal is None else REFUSED

    async def _start(self, wire: Wire[messages.Up, messages.Down]) -> messages.Refused | None:
        try:
            app = load_app(self._app)
        except ConfigError as error:
            return messages.Refused(error.code, error.message)
        self._core = Core(app, self._slots, wire.send, lambda: wire.writable)
        try:
            wire.send(await self._core.start())
        except ConfigError as error:
            return messages.Refused(error.code, f"app {self._app!r}: {error.message}")
        except (Exception, SystemExit) as error:
            log.exception("a startup hook failed")
            return messages.Refused(StartError.code, f"a startup hook failed: {message_of(error)}")
        return None

    def _receive(self, batch: list[messages.Down]) -> None:
        if self._core is not None:
            self._core.receive(batch)
        last = batch[-1]
        if self._stop is not None and isinstance(last, messages.Stop):
            self._grace = last.grace
            self._stop.set()

    def _resume(self) -> None:
        if self._core is not None:
            self._core.resume()

    def _gone(self, closed: asyncio.Event) -> None:
        """The line is closed. Not by us: the supervisor died, and with it every lease; handlers must not go on."""
        if self._stop is None or not self._stop.is_set():
            if os.getpgrp() == os.getpid():
                os.killpg(0, signal.SIGKILL)
            end(1)
        closed.set()
