"""Messages between two processes over a socket pair: length-prefixed msgpack frames.

A frame is 4 bytes of length (big-endian) and one msgpack array of tagged msgspec Structs. What is sent during one turn
of the event loop leaves in one write. It knows no task: who uses it says which messages exist.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

Sent = TypeVar("Sent")
Received = TypeVar("Received")

MAX_FRAME: Final = 8 * 1024 * 1024
"""Bytes of one frame. A batch that is larger is sent in several; a single message that is larger is refused."""
HIGH_WATER: Final = 4 * 1024 * 1024
"""Bytes that wait for the other side, from which on `writable` is False."""
HEAD: Final = 4


class WireError(Exception):
    """The other side does not keep to the protocol, or a message is larger than a frame."""


class Wire(asyncio.Protocol, Generic[Sent, Received]):
    """One end of the pair.

    `on_messages` gets the messages of each frame, in order. `on_close` is called once, after the last message, with
    what went wrong, or None when the other side closed. Exceptions of `on_messages` close the wire.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[list[Received]],
        on_messages: Callable[[list[Received]], None],
        on_close: Callable[[Exception | None], None],
        on_writable: Callable[[], None] | None = None,
        *,
        max_frame: int = MAX_FRAME,
    ) -> None:
        self._decode = decoder.decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._on_messages = on_messages
        self._on_close = on_close
        self._on_writable = on_writable
        self._max_frame = max_frame
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outbox: list[Sent] = []
        self._buffer = bytearray()
        self._error: Exception | None = None
        self.closed = False
        self.writable = True
        """False while the other side does not read as fast as this one writes."""

    def send(self, message: Sent) -> None:
        """Sends it with everything else of this turn of the loop. On a closed wire it goes nowhere."""
        if not self._outbox and not self.closed:
            self._loop.call_soon(self.flush)
        self._outbox.append(message)

    def flush(self) -> None:
        """Hands what was sent so far to the socket, without waiting for the turn to end."""
        batch, self._outbox = self._outbox, []
        if not batch or self.closed or self._transport is None:
            return
        chunks: list[bytes] = []
        try:
            self._pack(batch, chunks)
        except WireError as error:
            self._fail(error)
            return
        self._transport.write(b"".join(chunks))

    def close(self) -> None:
        """Closes after what was sent has been written. `on_close` follows."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()

    def _pack(self, batch: list[Sent], chunks: list[bytes]) -> None:
        body = self._encode(batch)
        if len(body) <= self._max_frame:
            chunks.append(len(body).to_bytes(HEAD, "big"))
            chunks.append(body)
        elif len(batch) == 1:
            raise WireError(f"a message of {len(body):,} bytes does not fit a frame of {self._max_frame:,}")
        else:
            middle = len(batch) // 2
            self._pack(batch[:middle], chunks)
            self._pack(batch[middle:], chunks)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.abort()

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        stream.set_write_buffer_limits(high=HIGH_WATER)
        self.flush()

    def data_received(self, data: bytes) -> None:
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        at, end = 0, len(buffer)
        while end - at >= HEAD:
            size = int.from_bytes(buffer[at : at + HEAD], "big")
            if size > self._max_frame:
                self._fail(WireError(f"a frame of {size:,} bytes, over {self._max_frame:,}"))
                return
            if end - at - HEAD < size:
                break
            if not self._receive(buffer[at + HEAD : at + HEAD + size]):
                return
            at += HEAD + size
        self._buffer = bytearray(buffer[at:]) if at < end else bytearray()

    def _receive(self, body: bytes | bytearray) -> bool:
        try:
            self._on_messages(self._decode(body))
        except msgspec.MsgspecError as error:
            self._fail(WireError(f"a frame that is not understood: {error}"))
        except Exception as error:  # noqa: BLE001 (told to on_close: a wire whose reader failed is not read on)
            self._fail(error)
        return self._error is None

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._on_writable is not None:
            self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._outbox.clear()
            self._on_close(self._error or (None if isinstance(exc, ConnectionError | None) else exc))


async def open_wire(sock: socket.socket, wire: Wire[Any, Any]) -> None:
    """Puts the wire on one end of a `socket.socketpair()`, which it then owns."""
    sock.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: wire, sock=sock)
