"""uvicorn's WebSocket, bounded where a client could have it hold more and more.

A ping is answered by the protocol itself, below the application and whether or not the client reads; a message may
come in as many fragments as its sender likes, empty ones included.
"""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

POLICY: Final = 1008
PINGS: Final = 100
"""That come at once."""
PINGS_A_SECOND: Final = 10
FRAGMENTS: Final = 4096
"""Of one message."""


class Frames(WebSocketsSansIOProtocol):
    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self._pings = float(PINGS)
        self._pinged = self.loop.time()

    def handle_ping(self) -> None:
        if self.close_sent:
            return
        now = self.loop.time()
        self._pings = min(float(PINGS), self._pings + (now - self._pinged) * PINGS_A_SECOND) - 1
        self._pinged = now
        if self._pings < 0:
            self._refuse("Too many pings at once.")
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        if len(self.frames) >= FRAGMENTS:
            self._refuse("A message came in too many fragments.")
        else:
            super().handle_cont(event)

    def _refuse(self, reason: str) -> None:
        # What the protocol has answered already goes out with it: at most what one read brought in.
        self.conn.fail(POLICY, reason)
        self.frames = []
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.writable.is_set():
            self.transport.close()
        else:
            self.transport.abort()  # its client does not read: it would stay open until that changes
