"""Bells: heard by everyone who listens, never waited for, back after an outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from taskmill.index.connect import IndexOptions
from taskmill.index.wake import Bell, LocalBell, RedisBell, Subscription
from tests.support import RedisServer, wait_until


@pytest.fixture(params=["local", "server"])
async def bell(request: pytest.FixtureRequest) -> AsyncIterator[Bell]:
    """The port, in both of its forms."""
    made: Bell
    if request.param == "local":
        made = LocalBell()
    else:
        server: RedisServer = request.getfixturevalue("valkey_server")
        made = RedisBell(IndexOptions(server.url, prefix="tm-bell"))
    yield made
    await made.aclose()


@pytest.fixture
async def pair(options: IndexOptions) -> AsyncIterator[tuple[RedisBell, RedisBell]]:
    """Two processes on one server."""
    here, there = RedisBell(options), RedisBell(options)
    yield here, there
    await here.aclose()
    await there.aclose()


@pytest.fixture
async def shaky(private_redis: RedisServer) -> AsyncIterator[RedisBell]:
    """A bell on a server of this test alone."""
    made = RedisBell(IndexOptions(private_redis.url, timeout=0.5))
    yield made
    await made.aclose()


async def test_everyone_who_listens_hears(bell: Bell) -> None:
    """Two listeners of a channel both hear one ring."""
    async with bell.listen("due") as one, bell.listen("due") as two:
        await bell.ring("due", b"x")
        assert [await one.wait(5), await two.wait(5)] == [b"x", b"x"]


async def test_channels_are_apart(bell: Bell) -> None:
    """A ring is heard on its own channel only."""
    async with bell.listen("due") as due, bell.listen("journal") as journal:
        await bell.ring("journal")
        assert await journal.wait(5) == b""
        assert await due.wait(0.02) is None


async def test_silence_ends_the_wait(bell: Bell) -> None:
    """Nothing rung: None after the timeout."""
    async with bell.listen("due") as due:
        assert await due.wait(0.01) is None


async def test_who_left_hears_no_more(bell: Bell) -> None:
    """After the end of the block nothing is delivered, and the channel can be listened to again."""
    async with bell.listen("due") as gone:
        pass
    async with bell.listen("due") as due:
        await bell.ring("due", b"x")
        assert await due.wait(5) == b"x"
    assert await gone.wait(0) is None


async def test_a_listener_joins_others_of_its_channel(bell: Bell) -> None:
    """One of two listeners leaves, the other still hears."""
    async with bell.listen("due") as one:
        async with bell.listen("due"):
            pass
        await bell.ring("due", b"x")
        assert await one.wait(5) == b"x"


async def test_equal_hints_are_one() -> None:
    """A storm of the same ring is one look."""
    subscription = Subscription()
    for _ in range(1000):
        subscription.put(b"q")
    subscription.put(b"other")
    assert [await subscription.wait(0) for _ in range(3)] == [b"q", b"other", None]


async def test_a_listener_that_does_not_look_is_bounded() -> None:
    """The oldest hints go first, memory does not grow."""
    subscription = Subscription(most=3)
    for k in range(10):
        subscription.put(b"%d" % k)
    assert [await subscription.wait(0) for _ in range(4)] == [b"7", b"8", b"9", None]


async def test_a_ring_crosses_processes(pair: tuple[RedisBell, RedisBell]) -> None:
    """What one process rings another hears, on every kind of server."""
    here, there = pair
    async with here.listen("worker:01") as worker:
        await there.ring("worker:01", b"cancel")
        assert await worker.wait(5) == b"cancel"


async def test_many_channels_on_one_connection(pair: tuple[RedisBell, RedisBell]) -> None:
    """Channels that come and go at the same time are all confirmed."""
    here, there = pair

    async def one(k: int) -> bytes | None:
        async with here.listen(f"worker:{k}") as worker:
            await there.ring(f"worker:{k}", b"%d" % k)
            return await worker.wait(5)

    assert await asyncio.gather(*(one(k) for k in range(40))) == [b"%d" % k for k in range(40)]


async def test_prefixes_are_apart(options: IndexOptions) -> None:
    """Two installations on one server do not wake each other."""
    ours, theirs = RedisBell(options), RedisBell(IndexOptions(options.url, prefix=options.prefix + "x"))
    async with ours.listen("due") as due:
        await theirs.ring("due", b"x")
        await ours.ring("due", b"y")
        assert await due.wait(5) == b"y"
    await ours.aclose()
    await theirs.aclose()


async def test_a_bell_comes_back(shaky: RedisBell, private_redis: RedisServer) -> None:
    """After a restart of the server listeners look once, and hear again."""
    async with shaky.listen("due") as due:
        private_redis.kill()
        await wait_until(lambda: not shaky._connection)
        await shaky.ring("due")
        private_redis.start()
        assert await due.wait(10) == b""
        await wait_until(lambda: not shaky._breaker.open)
        await shaky.ring("due", b"x")
        assert await due.wait(5) == b"x"


async def test_listening_begins_without_a_server(shaky: RedisBell, private_redis: RedisServer) -> None:
    """A process starts while its server is away, and hears once it is there."""
    private_redis.kill()
    async with shaky.listen("due") as due:
        private_redis.start()
        assert await due.wait(10) == b""
        await shaky.ring("due", b"x")
        assert await due.wait(5) == b"x"


async def test_listening_does_not_wait_for_a_server_that_is_gone(
    shaky: RedisBell, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of many queues starts at once all the same: a refused connection needs no waiting."""
    monkeypatch.setattr("taskmill.index.wake._RING_TIMEOUT", 60.0)
    private_redis.kill()
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        for n in range(10):
            await stack.enter_async_context(shaky.listen(f"queue:{n}"))


async def test_rings_do_not_wait_for_a_silent_server(shaky: RedisBell, private_redis: RedisServer) -> None:
    """A server that hangs costs the first ring its second, and the others nothing."""
    private_redis.pause()
    await shaky.ring("due")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(100):
        await shaky.ring("due")
    assert loop.time() - began < 0.5, "rings waited for a server that is known to hang"
    private_redis.resume()
    await wait_until(lambda: not shaky._breaker.open)


async def test_a_silent_connection_is_noticed(
    shaky: RedisBell, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is there but says nothing must answer a PING, else the bell connects again."""
    monkeypatch.setattr("taskmill.index.wake._SILENCE", 0.1)
    async with shaky.listen("due") as due:
        assert await due.wait(0.5) is None, "a healthy silence is no outage"
        assert shaky._connection
        private_redis.pause()
        await wait_until(lambda: not shaky._connection)
        private_redis.resume()
        assert await due.wait(10) == b""
