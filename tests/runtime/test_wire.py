"""Messages over a socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest

from taskmill.runtime.wire import Wire, WireError, open_wire
from tests.support import wait_until


class Note(msgspec.Struct, array_like=True, tag=1):
    text: str


class Number(msgspec.Struct, array_like=True, tag=2):
    value: int


Either = Note | Number


@dataclass
class End:
    """One end, and what it heard: frame by frame."""

    frames: list[list[Either]] = field(default_factory=list)
    closed: list[Exception | None] = field(default_factory=list)
    resumed: int = 0
    fail: Exception | None = None

    def __post_init__(self) -> None:
        self.wire: Wire[Either, Either] = Wire(
            msgspec.msgpack.Decoder(list[Either]),
            self.hear,
            self.closed.append,
            self.resume,
            max_frame=100_000,
        )

    def hear(self, batch: list[Either]) -> None:
        if self.fail is not None:
            raise self.fail
        self.frames.append(batch)

    def resume(self) -> None:
        self.resumed += 1

    @property
    def heard(self) -> list[Either]:
        return [message for frame in self.frames for message in frame]


@pytest.fixture
async def pair() -> AsyncIterator[tuple[End, End]]:
    one, two = socket.socketpair()
    left, right = End(), End()
    await open_wire(one, left.wire)
    await open_wire(two, right.wire)
    yield left, right
    left.wire.abort()
    right.wire.abort()
    await wait_until(lambda: left.closed and right.closed)


async def test_messages_arrive_in_order_with_their_types(pair: tuple[End, End]) -> None:
    """Both ways."""
    left, right = pair
    for n in range(10):
        left.wire.send(Note(str(n)))
        right.wire.send(Number(n))
    await wait_until(lambda: len(left.heard) == len(right.heard) == 10)
    assert right.heard == [Note(str(n)) for n in range(10)]
    assert left.heard == [Number(n) for n in range(10)]


async def test_what_is_sent_in_one_turn_is_one_frame(pair: tuple[End, End]) -> None:
    """A turn of the loop, one write."""
    left, right = pair
    left.wire.send(Note("a"))
    left.wire.send(Note("b"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    left.wire.send(Note("c"))
    await wait_until(lambda: len(right.heard) == 3)
    assert [len(frame) for frame in right.frames] == [2, 1]


async def test_a_large_batch_is_sent_in_several_frames(pair: tuple[End, End]) -> None:
    """None of them over the bound, nothing lost, the order kept."""
    left, right = pair
    texts = [str(n) * 10_000 for n in range(10)] * 10
    for text in texts:
        left.wire.send(Note(text))
    await wait_until(lambda: len(right.heard) == 100)
    assert right.heard == [Note(text) for text in texts]
    assert len(right.frames) > 1


async def test_a_message_over_the_bound_closes_the_wire(pair: tuple[End, End]) -> None:
    """The sender is told; the other side sees the end."""
    left, right = pair
    left.wire.send(Note("x" * 100_001))
    await wait_until(lambda: left.closed and right.closed)
    assert isinstance(left.closed[0], WireError)
    assert right.heard == []


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", b"\x00\x00\x00\x04\x91\x92\x09\x01"]
)
async def test_what_is_no_frame_closes_the_wire(garbage: bytes) -> None:
    """A length over the bound, no msgpack, an unknown message."""
    ours, theirs = socket.socketpair()
    end = End()
    await open_wire(ours, end.wire)
    with theirs:
        theirs.sendall(garbage)
        await wait_until(lambda: end.closed)
    assert isinstance(end.closed[0], WireError)


async def test_frames_may_arrive_byte_by_byte() -> None:
    """However the socket cuts them."""
    ours, theirs = socket.socketpair()
    end = End()
    await open_wire(ours, end.wire)
    body = msgspec.msgpack.encode([Note("whole"), Number(7)])
    with theirs:
        for byte in (len(body).to_bytes(4, "big") + body) * 2:
            theirs.send(bytes([byte]))
            await asyncio.sleep(0)
        await wait_until(lambda: len(end.heard) == 4)
        end.wire.abort()
    assert end.frames == [[Note("whole"), Number(7)]] * 2


async def test_a_reader_that_fails_closes_the_wire(pair: tuple[End, End]) -> None:
    """Its error is told to on_close, once."""
    left, right = pair
    right.fail = RuntimeError("a bug")
    left.wire.send(Note("a"))
    left.wire.flush()
    left.wire.send(Note("b"))
    await wait_until(lambda: right.closed)
    await wait_until(lambda: left.closed)
    assert right.closed == [right.fail]


async def test_close_writes_what_was_sent(pair: tuple[End, End]) -> None:
    """Then the other side sees an end without an error."""
    left, right = pair
    left.wire.send(Note("last"))
    left.wire.close()
    await wait_until(lambda: right.closed)
    assert right.heard == [Note("last")]
    assert right.closed == [None]
    left.wire.send(Note("nowhere"))


async def test_writable_tells_that_the_other_side_does_not_read() -> None:
    """And on_writable that it does again."""
    ours, theirs = socket.socketpair()
    end = End()
    await open_wire(ours, end.wire)
    with theirs:
        for _ in range(100):
            end.wire.send(Note("x" * 90_000))
        await wait_until(lambda: not end.wire.writable)
        theirs.setblocking(False)

        def drain() -> bool:
            try:
                while theirs.recv(1_000_000):
                    pass
            except BlockingIOError:
                pass
            return end.wire.writable

        await wait_until(drain)
        assert end.resumed == 1
        end.wire.abort()
        await wait_until(lambda: end.closed)
