"""URL forms, and what a wrong one says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from taskmill.errors import IndexUnavailable
from taskmill.index.connect import IndexOptions, connect, disconnect
from taskmill.index.index import Index
from tests.index.kit import entry, ids
from tests.support import RedisServer, free_port, wait_until, wait_until_sync


def test_a_plain_url() -> None:
    """Host, port, database and a percent-encoded password; timeouts and no retries are ours."""
    client = connect(IndexOptions("redis://me:p%40ss@example.org:7000/3", timeout=2.0))
    assert isinstance(client, Redis)
    made = client.connection_pool.connection_kwargs
    assert (made["host"], made["port"], made["db"]) == ("example.org", 7000, 3)
    assert (made["username"], made["password"]) == ("me", "p@ss")
    assert (made["socket_timeout"], made["socket_connect_timeout"]) == (2.0, 2.0)
    assert made["retry"].get_retries() == 0


def test_tls_checks_certificates() -> None:
    """rediss:// verifies the server unless the URL says otherwise."""
    client = connect(IndexOptions("rediss://example.org"))
    assert isinstance(client, Redis)
    assert client.connection_pool.connection_class is SSLConnection
    made = client.connection_pool.make_connection()
    assert made.ssl_context.check_hostname


def test_a_unix_socket() -> None:
    """A path, percent-encoded where it must be."""
    client = connect(IndexOptions("unix:///tmp/a%20b.sock?db=2"))
    assert isinstance(client, Redis)
    made = client.connection_pool.connection_kwargs
    assert (made["path"], made["db"]) == ("/tmp/a b.sock", 2)


async def test_a_sentinel_url() -> None:
    """Several Sentinels, the service, its database; the password is for the servers."""
    client = connect(IndexOptions("redis+sentinel://:secret@one:1,two/main/4"))
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    hosts = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(host["host"], host["port"]) for host in hosts] == [("one", 1), ("two", 26379)]
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("main", 4)
    assert pool.connection_kwargs["password"] == "secret"
    await disconnect(client)


async def test_a_cluster_url() -> None:
    """Several nodes to start from, IPv6 among them."""
    client = connect(IndexOptions("redis+cluster://10.0.0.1:7001,[::1]:7002"))
    assert isinstance(client, RedisCluster)
    assert set(client.nodes_manager.startup_nodes) == {"10.0.0.1:7001", "::1:7002"}
    await disconnect(client)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://x",
        "mysql://x",
        "redis+sentinel://one:1",
        "redis+sentinel:///main",
        "redis+cluster://",
    ],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    """A URL of no known form is refused before anything is connected."""
    with pytest.raises(ValueError, match="index URL"):
        connect(IndexOptions(url))


def test_an_error_shows_no_password() -> None:
    """What goes to the log has no secret in it."""
    with pytest.raises(ValueError, match="form") as caught:
        connect(IndexOptions("reddis://:hunter2@host"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "a{b}", "}"])
def test_a_prefix_has_no_braces(prefix: str) -> None:
    """Braces decide the cluster slot, and are ours."""
    with pytest.raises(ValueError, match="prefix"):
        IndexOptions("redis://x", prefix=prefix)


@pytest.fixture
def sentinel() -> Iterator[tuple[int, list[RedisServer]]]:
    """A primary, its replica, and one Sentinel that watches them."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server binary (the Sentinel)")
    primary = RedisServer(binary, port=free_port())
    follow = ("--replicaof", f"127.0.0.1 {primary.port}", "--repl-diskless-sync-delay", "0")
    replica = RedisServer(binary, port=free_port(), arguments=follow)
    watcher = RedisServer(binary, port=free_port())
    config = watcher.folder / "sentinel.conf"
    config.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 3000\n"
    )
    watcher.binary, watcher.arguments = binary, ()
    try:
        primary.start()
        replica.start()
        yield _watch(watcher, str(config)), [primary, replica]
    finally:
        for server in (watcher, replica, primary):
            server.close()


def _watch(watcher: RedisServer, config: str) -> int:
    command = [
        watcher.binary,
        config,
        "--sentinel",
        "--port",
        str(watcher.port),
        "--dir",
        str(watcher.folder),
    ]
    watcher._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until_sync(watcher._answers, 10)
    with redis.Redis(port=watcher.port, decode_responses=True) as client:
        wait_until_sync(lambda: client.sentinel_master("main")["num-slaves"] == 1, 15, every=0.1)
    return watcher.port


@pytest.mark.engine
async def test_a_failover_is_followed(sentinel: tuple[int, list[RedisServer]]) -> None:
    """Sentinel: after a failover the index goes on at the new primary, whose run id differs."""
    port, (primary, replica) = sentinel
    index = Index(IndexOptions(f"redis+sentinel://127.0.0.1:{port}/main", timeout=2.0))
    await index.reset("q", b"one")
    await index.push("q", [entry(1)])
    before = await index.run_id()
    with redis.Redis(port=replica.port) as client:
        await wait_until(lambda: client.dbsize() > 0, what="the replica has the index")
    primary.kill()

    async def moved() -> bool:
        try:
            return not await index.warm("q", b"other")
        except IndexUnavailable:
            return False

    await wait_until(moved, 25, every=0.05)
    assert await index.run_id() != before
    assert ids(await index.next("q", n=1)) == [1]
    await index.aclose()
