"""Bells: hints between processes that something is there to do. A lost one costs a poll, never work.

Channels: "worker:<hex boot id>" (work for a waiting worker; the data is the queue, from push.lua; also cancel
signals), "journal" (something changed), "due" (something becomes due sooner).
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from taskmill.errors import IndexUnavailable
from taskmill.index.breaker import Breaker
from taskmill.index.connect import LOST, Client, IndexOptions, bare_connection, connect, disconnect, words
from taskmill.runtime import logs

log = logs.get_logger(__name__)

# A ring may not hold up its caller: whoever it was for polls anyway.
_RING_TIMEOUT = 1.0
_RINGS = 4  # at a time
_SILENCE = 5.0


class Subscription:
    """What was rung on one channel. Bounded: a listener that does not look loses the oldest hints."""

    def __init__(self, most: int = 256) -> None:
        self._waiting: deque[bytes] = deque(maxlen=most)
        self._some = asyncio.Event()

    async def wait(self, timeout: float) -> bytes | None:
        """The data of the next ring, or None after `timeout` seconds. b"" says no more than: look."""
        if not self._waiting:
            self._some.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._some.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft()

    def put(self, data: bytes) -> None:
        """Delivers; equal hints that nobody has looked at yet are one."""
        if data not in self._waiting:
            self._waiting.append(data)
        self._some.set()


class Bell(Protocol):
    """The port. `ring` never raises and never waits long; `listen` hears what is rung after it was entered."""

    async def ring(self, channel: str, data: bytes = b"") -> None: ...

    def listen(self, channel: str) -> AbstractAsyncContextManager[Subscription]: ...

    async def aclose(self) -> None: ...


class _Listeners:
    def __init__(self) -> None:
        self.by_channel: defaultdict[str, set[Subscription]] = defaultdict(set)

    def deliver(self, channel: str, data: bytes) -> None:
        for subscription in self.by_channel.get(channel, ()):
            subscription.put(data)

    def remove(self, channel: str, subscription: Subscription) -> bool:
        """Whether it was the last of its channel."""
        self.by_channel[channel].discard(subscription)
        if not self.by_channel[channel]:
            del self.by_channel[channel]
            return True
        return False


class LocalBell:
    """A bell inside one process, for `taskmill up` on SQL alone."""

    def __init__(self) -> None:
        self._listeners = _Listeners()

    async def ring(self, channel: str, data: bytes = b"") -> None:
        self._listeners.deliver(channel, data)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Subscription]:
        subscription = Subscription()
        self._listeners.by_channel[channel].add(subscription)
        try:
            yield subscription
        finally:
            self._listeners.remove(channel, subscription)

    async def aclose(self) -> None:
        """Nothing to close."""


class RedisBell:
    """A bell over publish/subscribe: one connection for all channels of the process, opened by the first `listen`.

    It reconnects by itself, with backoff and jitter; after that every listener hears b"" once, since rings may have
    been missed. In a cluster any node delivers what was published at any other.
    """

    def __init__(
        self, options: IndexOptions, client: Client | None = None, rng: random.Random | None = None
    ) -> None:
        self._options = options
        self._client = connect(options) if client is None else client
        self._owned = client is None
        self._rng = rng or random.Random()
        self._listeners = _Listeners()
        self._slots = asyncio.Semaphore(_RINGS)
        self._breaker = Breaker("bell", self._probe, self._rng)
        self._connection: AbstractConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._confirmed: dict[str, asyncio.Event] = {}
        self._away = asyncio.Event()
        """The last try to connect has failed."""

    async def ring(self, channel: str, data: bytes = b"") -> None:
        """Publishes. A failure is logged once per outage; while it lasts rings are dropped at once."""
        if self._breaker.open:
            return
        try:
            async with asyncio.timeout(_RING_TIMEOUT), self._slots:
                await self._client.execute_command("PUBLISH", self._name(channel), data)
        except LOST as error:
            self._breaker.trip(words(error))

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Subscription]:
        """Enters once the server has confirmed the channel; without one at once, or after a second when it is silent,
        and hears later."""
        subscription = Subscription()
        fresh = channel not in self._listeners.by_channel
        self._listeners.by_channel[channel].add(subscription)
        confirmed = self._confirmed.setdefault(channel, asyncio.Event())
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read_forever())
        try:
            if fresh:
                await self._send("SUBSCRIBE", channel)
            await _either(confirmed, self._away, _RING_TIMEOUT)
            if not confirmed.is_set():
                log.debug("bell.unconfirmed", channel=channel)  # that the bell is lost was told
            yield subscription
        finally:
            if self._listeners.remove(channel, subscription):
                self._confirmed.pop(channel, None)
                await self._send("UNSUBSCRIBE", channel)

    async def aclose(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        await self._breaker.aclose()
        if self._owned:
            await disconnect(self._client)

    def _name(self, channel: str) -> str:
        return f"{self._options.prefix}/{channel}"

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(_RING_TIMEOUT):
                await self._client.execute_command("PUBLISH", self._name("probe"), b"")
        except LOST as error:
            raise IndexUnavailable(f"the index does not answer: {words(error)}") from error

    async def _send(self, command: str, channel: str) -> None:
        """To the reader's connection; when it breaks, the reader subscribes all channels again."""
        connection = self._connection
        if connection is None:
            return
        try:
            async with asyncio.timeout(self._options.timeout):
                await connection.send_command(command, self._name(channel))
        except LOST as error:
            log.info("bell.send_failed", command=command, error=str(error))
            await connection.disconnect(nowait=True)

    async def _read_forever(self) -> None:
        delay, again = 0.1, False
        while True:
            connection: AbstractConnection | None = None
            try:
                if again:
                    await asyncio.sleep(delay * self._rng.uniform(0.5, 1.0))
                connection = await self._open()
                self._connection = connection
                self._away.clear()
                if again:
                    log.info("bell.back")
                    for channel in list(self._listeners.by_channel):
                        self._listeners.deliver(channel, b"")
                delay = 0.1
                await self._read(connection)
            except LOST as error:
                self._away.set()
                if delay <= 0.1:  # an outage is told once
                    log.warning("bell.lost", error=words(error))
                delay = min(delay * 2, 5.0)
            except Exception:
                # A reader that ended would leave every listener to its polls for good.
                delay = min(delay * 2, 5.0)
                log.exception("bell.broken")
            finally:
                self._connection, again = None, True
                for confirmed in self._confirmed.values():
                    confirmed.clear()
                if connection is not None:
                    await connection.disconnect(nowait=True)

    async def _open(self) -> AbstractConnection:
        """A connection that listens to every channel in use, and to one more, so that PING is understood."""
        async with asyncio.timeout(self._options.timeout):
            connection = await bare_connection(self._client)
        try:
            async with asyncio.timeout(self._options.timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                # One command and no await in between: a channel added later is sent by its own `listen`.
                channels = [self._name(channel) for channel in ("bell", *self._listeners.by_channel)]
                self._connection = connection
                await connection.send_command("SUBSCRIBE", *channels)
        except BaseException:
            self._connection = None
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _read(self, connection: AbstractConnection) -> None:
        start = len(self._options.prefix) + 1
        while True:
            message = await self._one(connection)
            if message is None:
                # Silence: the server may be gone without a word. It must answer a PING.
                await connection.send_command("PING", check_health=False)
                message = await self._one(connection)
                if message is None:
                    raise TimeoutError(f"no answer to a PING in {_SILENCE:g} s")
            kind = message[0] if isinstance(message, list) else b""
            if kind == b"message":
                self._listeners.deliver(message[1].decode()[start:], message[2])
            elif kind == b"subscribe":
                confirmed = self._confirmed.get(message[1].decode()[start:])
                if confirmed is not None:
                    confirmed.set()

    async def _one(self, connection: AbstractConnection) -> Any:
        """The next message, or None after a while of silence."""
        return await connection.read_response(timeout=_SILENCE, disconnect_on_error=False)


async def _either(one: asyncio.Event, other: asyncio.Event, timeout: float) -> None:
    """Until one of them is set, or for `timeout` seconds."""
    waits = [asyncio.ensure_future(one.wait()), asyncio.ensure_future(other.wait())]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
