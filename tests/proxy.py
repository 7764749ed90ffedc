"""TCP proxies in front of a MySQL or MariaDB server: `Proxy` cuts the connection around a COMMIT, `Cable` in silence.

It reads packets (3 bytes of length, one of sequence), so that it knows a COMMIT from a payload that holds the word, and
cuts between two packets.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

When = Literal["before", "after", "during"]
COM_QUERY = 3


async def _packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(int.from_bytes(head[:3], "little"))


def _is_commit(packet: bytes) -> bool:
    """A COMMIT alone, or behind the last write of its transaction (sql/hot.py). Values travel as hexadecimal there."""
    return (
        len(packet) > 4 and packet[4] == COM_QUERY and packet[5:].strip().upper().split(b";")[-1] == b"COMMIT"
    )


class Proxy:
    """`cut(when)` arms it for the next COMMIT.

    before: the server never sees the COMMIT, and loses the connection. after: the server has committed and answered,
    the client never hears it. during: the client is cut as soon as the COMMIT is sent, the server may still be at it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self._cuts: list[tuple[When, Callable[[], Awaitable[object]] | None]] = []
        self.commits = 0
        """COMMITs that came."""
        self.happened = 0
        """Cuts that were made."""
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self, when: When, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        """Cut at the next COMMIT (after those armed before). `meanwhile` runs before the client learns of it."""
        self._cuts.append((when, meanwhile))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, out = await asyncio.open_connection(*self._server)
        except OSError:
            writer.close()
            return
        answers = asyncio.create_task(self._answers(upstream, writer))
        self._tasks.add(answers)
        try:
            while True:
                packet = await _packet(reader)
                if not _is_commit(packet):
                    out.write(packet)
                    await out.drain()
                    continue
                self.commits += 1
                if not self._cuts:
                    out.write(packet)
                    await out.drain()
                    continue
                when, meanwhile = self._cuts.pop(0)
                self.happened += 1
                answers.cancel()
                with suppress(asyncio.CancelledError):
                    await answers
                if when != "before":
                    out.write(packet)
                    await out.drain()
                if when == "after":
                    await _packet(upstream)
                if when == "before":
                    out.transport.abort()
                if meanwhile is not None:
                    await meanwhile()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            answers.cancel()
            self._tasks.discard(answers)
            for side in (writer, out):
                side.close()

    async def _answers(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await upstream.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, Proxy]]:
    """A proxy in front of the server of `url`, and the URL that leads through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 3306)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(proxy.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    where = parts.netloc.rpartition("@")
    try:
        yield urlunsplit(parts._replace(netloc=f"{where[0]}@127.0.0.1:{port}")), proxy
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)


class Cable:
    """A way to a server that can be cut in silence: connections stay open, nothing arrives, nobody is told.

    What the client closes meanwhile is closed towards the server too, as its keepalive would find out in time: else the
    locks of an open transaction stayed. In a thread of its own, so that it goes on while a test blocks its loop.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = parts.hostname or "127.0.0.1", parts.port or 3306
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._whole.set()
        self._mended = False
        self.sent = bytearray()
        """What clients have sent through it since it was mended."""
        self._connections: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._listener = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        port = self._listener.sockets[0].getsockname()[1]
        where = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{where}@127.0.0.1:{port}"))

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._mended = True
        self._loop.call_soon_threadsafe(self._whole.set)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        out: asyncio.StreamWriter | None = None
        try:
            await self._whole.wait()
            upstream, out = await asyncio.open_connection(*self._server)
            ways = [
                asyncio.create_task(self._pump(*way))
                for way in ((reader, out, True), (upstream, writer, False))
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except (OSError, asyncio.CancelledError):
            return  # the test is over, or one of the two ends is gone
        finally:
            self._connections.discard(task)
            for side in (writer, out):
                if side is not None:
                    side.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, up: bool) -> None:
        """Until the source has ended. What comes while the cable is cut waits here."""
        held = bytearray()
        with suppress(ConnectionError):
            while True:
                with suppress(TimeoutError):
                    data = await asyncio.wait_for(source.read(65536), 0.05 if held else None)
                    if not data:
                        return
                    held += data
                if held and self._whole.is_set():
                    if up and self._mended:
                        self.sent += held
                    target.write(bytes(held))
                    held.clear()
                    await target.drain()
