"""What the tests of the index share: a clock, a cluster, short ways to write and read tasks."""

from __future__ import annotations

from typing import Any

import redis

from taskmill.index.index import BANDS, EPOCH, Entry, Index, Next
from tests.support import RedisServer, free_port, wait_until_sync

ANN, BOB, EVE = (name.ljust(16, b".") for name in (b"ann", b"bob", b"eve"))
CRITICAL, HIGH, NORMAL, LOW = range(4)


class Clock:
    """µs since the Unix epoch; it moves when a test says so."""

    def __init__(self) -> None:
        self.now = EPOCH + 10**15 + 1_234_567

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * 1e6)


class Cluster:
    """Three primaries on loopback, no replicas, the slots in three parts."""

    def __init__(self, binary: str) -> None:
        self.servers = []
        for _ in range(3):
            port = free_port()
            wish = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            self.servers.append(RedisServer(binary, port=port, arguments=wish))

    def start(self) -> Cluster:
        bounds = (0, 5461, 10923, 16384)
        for k, server in enumerate(self.servers):
            server.start()
            self.ask(server, "CLUSTER", "ADDSLOTSRANGE", bounds[k], bounds[k + 1] - 1)
        first = self.servers[0]
        for other in self.servers[1:]:
            self.ask(first, "CLUSTER", "MEET", "127.0.0.1", other.port, other.arguments[-1])
        wait_until_sync(lambda: all(self._whole(server) for server in self.servers), 20, every=0.05)
        return self

    def _whole(self, server: RedisServer) -> bool:
        info = self.ask(server, "CLUSTER", "INFO")
        return "cluster_state:ok" in info and "cluster_known_nodes:3" in info

    @staticmethod
    def ask(server: RedisServer, *command: Any) -> Any:
        with redis.Redis(port=server.port, decode_responses=True) as client:
            return client.execute_command(*command)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def close(self) -> None:
        for server in self.servers:
            server.close()


def task(number: int) -> bytes:
    """The id of a test's task."""
    return number.to_bytes(16, "big")


def entry(number: int, *, fair: bytes = ANN, band: int = NORMAL, at: int | None = None) -> Entry:
    """A task that stands in its line by its number, unless told otherwise."""
    return Entry(task(number), fair, band, EPOCH + (number if at is None else at))


def ids(answer: Next) -> list[int]:
    """The numbers of the tasks that were proposed, in order."""
    return [int.from_bytes(reserved.id, "big") for reserved in answer.reserved]


async def raw(index: Index, *command: Any) -> Any:
    """A command past the index; "{}" in it stands for the queue's prefix."""
    prefix = f"{{{index._options.prefix}/q}}:"
    words = [word.replace("{}", prefix) if isinstance(word, str) else word for word in command]
    return await index._client.execute_command(*words)


async def keys(index: Index, queue: str = "q") -> set[str]:
    """The queue's keys, without their prefix; but that of the probe, which comes and goes."""
    found: set[str] = set()
    start = f"{{{index._options.prefix}/{queue}}}:"
    async for key in index._client.scan_iter(match=f"*{index._options.prefix}/{queue}*", count=1000):
        found.add(key.decode("latin-1").removeprefix(start))
    return found - {"probe"}


async def sizes(index: Index, queue: str = "q") -> list[int]:
    """Ready tasks of each band."""
    start = f"{{{index._options.prefix}/{queue}}}:"
    found = []
    for band in range(BANDS):
        low, high = band * 2**51, (band + 1) * 2**51 - 1
        fairs = await index._client.execute_command("ZRANGE", f"{start}a{band}", 0, -1)
        names = [f"{start}r".encode() + fair for fair in fairs]
        counts = [await index._client.execute_command("ZCOUNT", name, low, high) for name in names]
        found.append(sum(counts))
    return found


def available(index: Index) -> bool:
    """False from a failure until the probe in the background succeeded."""
    return index.up
