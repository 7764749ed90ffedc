"""The index on every engine: embedded Valkey, Redis 7, and a cluster of three nodes that the session starts."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index
from tests.index.kit import Clock, Cluster
from tests.support import RedisServer, server_binary

ENGINES = ("valkey", "redis", "cluster")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    binary = server_binary()
    if binary is None:
        pytest.skip("no Valkey or Redis server binary")
    nodes = Cluster(binary)
    try:
        yield nodes.start()
    finally:
        nodes.close()


@pytest.fixture(params=ENGINES)
def index_engine(request: pytest.FixtureRequest) -> str:
    if request.param == "redis" and not os.environ.get("TEST_REDIS_URL"):
        pytest.skip("TEST_REDIS_URL is not set")
    return str(request.param)


@pytest.fixture
def redis_url(index_engine: str, request: pytest.FixtureRequest) -> str:
    if index_engine == "cluster":
        nodes: Cluster = request.getfixturevalue("cluster")
        return nodes.url
    if index_engine == "valkey":
        server: RedisServer = request.getfixturevalue("valkey_server")
        return server.url
    return os.environ["TEST_REDIS_URL"]


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    prefix = f"tm{secrets.token_hex(6)}"
    yield prefix
    nodes = redis_url.removeprefix("redis+cluster://").split(",")
    for url in [f"redis://{node}" for node in nodes] if len(nodes) > 1 else [redis_url]:
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(match=f"*{prefix}*", count=1000):
                client.unlink(key)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def options(redis_url: str, redis_prefix: str, clock: Clock) -> IndexOptions:
    return IndexOptions(redis_url, prefix=redis_prefix, clock=clock)


@pytest.fixture
async def empty(options: IndexOptions) -> AsyncIterator[Index]:
    """An index without any generation."""
    index = Index(options)
    yield index
    await index.aclose()


@pytest.fixture
async def index(empty: Index) -> Index:
    """An index whose queue "q" has the generation b"one" and is warm."""
    await empty.reset("q", b"one")
    await empty.warm("q", b"one")
    return empty
