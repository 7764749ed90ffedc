"""Serving the application: uvicorn as a service of ours, on a socket that was bound before anything else started."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from taskmill.api.frames import Frames
from taskmill.api.protocol import Protocol
from taskmill.errors import StartError

WS_MESSAGE_MOST: Final = 512 * 1024
"""Bytes of one WebSocket message: an operation with the largest payload."""
STOP_TIMEOUT: Final = 10
KEEP_ALIVE: Final = 15


def bind(host: str, port: int) -> socket.socket:
    """The listening socket; StartError when the port is taken. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By this protocol asyncio knows that Nagle's algorithm can be turned off: an answer of two writes waits 40 ms else.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening keeps a second process out: a port that is only bound can be bound again.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hint = "see TASKMILL_HOST and PORT"
        if error.errno == errno.EADDRINUSE:
            hint = f"PORT={port + 1 if port < 65535 else 3001} taskmill up"
        raise StartError(
            f"port {port} of {host} cannot be used ({error.strerror or error}): {hint}"
        ) from None
    listener.setblocking(False)
    return listener


class ApiServer:
    """A service: `run` until `stop`, which lets running requests end for STOP_TIMEOUT seconds."""

    name = "api"

    def __init__(self, app: ASGIApp, listener: socket.socket, *, head_timeout: float) -> None:
        self._listener = listener
        # uvicorn makes one of it for each connection, whatever it is.
        protocol: Any = partial(Protocol, head_timeout=head_timeout)
        self._server = _Server(
            uvicorn.Config(
                app,
                ws=Frames,
                ws_max_size=WS_MESSAGE_MOST,
                # Its windows cost more memory than a connection itself, and events are small.
                ws_per_message_deflate=False,
                http=protocol,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=STOP_TIMEOUT,
                proxy_headers=False,
            )
        )

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    async def run(self) -> None:
        await self._server.serve(sockets=[self._listener])

    async def started(self) -> None:
        """Returns once it serves."""
        await self._server.ready.wait()

    def stop(self) -> None:
        """Again: without waiting for the requests that run."""
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Signals are the process's, not uvicorn's: they stop everything in order."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def capture_signals(self):  # type: ignore[no-untyped-def]  # a context manager, whatever its exact type
        from contextlib import nullcontext

        return nullcontext()
