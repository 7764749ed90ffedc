"""What servers do to us: flushed, full, read-only, silent, dead, restarted. Nothing may be left half done."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from structlog.testing import capture_logs

from taskmill.errors import IndexUnavailable
from taskmill.index.connect import IndexOptions
from taskmill.index.index import Index
from taskmill.index.policy import Evicting
from tests.index.kit import ANN, BOB, CRITICAL, LOW, Cluster, available, entry, ids, keys, raw, sizes, task
from tests.support import RedisServer, valkey_binary, wait_until


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of this test alone."""
    binary = valkey_binary() if request.param == "valkey" else shutil.which("redis-server")
    if binary is None:
        pytest.skip(f"no {request.param} server binary")
    own = RedisServer(binary)
    try:
        yield own.start()
    finally:
        own.close()


@pytest.fixture
async def own(server: RedisServer) -> AsyncIterator[Index]:
    """A warm index on the server of this test; a call takes at most half a second."""
    index = Index(IndexOptions(server.url, timeout=0.5))
    await index.reset("q", b"one")
    await index.warm("q", b"one")
    yield index
    await index.aclose()


def ask(server: RedisServer, *command: str) -> object:
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


async def test_a_flushed_server_has_no_generation(own: Index, server: RedisServer) -> None:
    """After FLUSHALL nothing is pushed until a scheduler resets, and late settlements do no harm."""
    await own.push("q", [entry(1), entry(2)])
    held = await own.next("q", n=1)
    ask(server, "FLUSHALL")
    assert (await own.push("q", [entry(3)])).generation is None
    answer = await own.next("q", n=5, worker=b"w", wait=True, confirm=held.reserved)
    assert (answer.generation, ids(answer)) == (None, [])
    assert await keys(own) == set()
    await own.reset("q", b"two")
    assert (await own.next("q", n=5)).filling


async def test_flushed_scripts_are_loaded_again(own: Index, server: RedisServer) -> None:
    """SCRIPT FLUSH costs one more round trip, for single calls and for pipelines."""
    await own.push("q", [entry(1), entry(2)])
    ask(server, "SCRIPT", "FLUSH")
    assert ids((await own.next_many({"q": 1}))["q"]) == [1]
    ask(server, "SCRIPT", "FLUSH")
    assert ids(await own.next("q", n=1)) == [2]


async def test_a_full_server_takes_a_push_whole_or_not_at_all(own: Index, server: RedisServer) -> None:
    """Out of memory: the push fails and has changed nothing."""
    await own.push("q", [entry(1)])
    before = await keys(own)
    ask(server, "CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(IndexUnavailable, match="maxmemory"):
        await own.push("q", [entry(2, fair=BOB, band=CRITICAL), entry(3), entry(1, band=LOW)])
    assert await keys(own) == before
    ask(server, "CONFIG", "SET", "maxmemory", "0")
    assert await sizes(own) == [0, 0, 1, 0]


async def test_a_full_server_begins_no_generation(own: Index, server: RedisServer) -> None:
    """Out of memory: reset fails and leaves nothing."""
    ask(server, "CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(IndexUnavailable):
        await own.reset("other", b"two")
    assert await keys(own, "other") == set()


async def test_a_full_server_can_be_drained(own: Index, server: RedisServer) -> None:
    """Out of memory workers still take and confirm: that is what makes room again. Pushes failing do not stop them."""
    await own.push("q", [entry(1), entry(2)])
    ask(server, "CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(IndexUnavailable):
        await own.push("q", [entry(3)])
    assert available(own)
    held = await own.next("q", n=1)
    assert ids(held) == [1]
    assert ids(await own.next("q", n=1, confirm=held.reserved)) == [2]
    assert await raw(own, "HKEYS", "{}m") == [task(2)]
    assert (await own.next("q", n=1, worker=b"w", wait=True)).generation == b"one", (
        "an idle poll is no outage"
    )


async def test_a_replica_is_not_an_index(own: Index, server: RedisServer) -> None:
    """A server that turned read-only is unavailable until it is a primary again; then it is found by itself."""
    await own.push("q", [entry(1)])
    ask(server, "REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(IndexUnavailable, match=r"READONLY|read only"):
        await own.next("q", n=1)
    assert not available(own)
    ask(server, "REPLICAOF", "NO", "ONE")
    await wait_until(lambda: available(own))
    assert ids(await own.next("q", n=1)) == [1]


async def test_a_silent_server_costs_one_timeout(own: Index, server: RedisServer) -> None:
    """The first call waits for its timeout, all others fail at once; the index comes back by itself."""
    server.pause()
    with pytest.raises(IndexUnavailable, match="Timeout"):
        await own.next("q", n=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(50):
        with pytest.raises(IndexUnavailable, match="not available"):
            await own.next("q", n=1)
    assert loop.time() - began < 0.5, "fifty calls waited for a server that is known to be gone"
    server.resume()
    await wait_until(lambda: available(own))
    assert (await own.next("q", n=1)).generation == b"one"


async def test_a_dead_server_comes_back_empty(own: Index, server: RedisServer) -> None:
    """A restart without data is seen: no generation, and another run id for verify's cursor."""
    before = await own.run_id("q")
    await own.push("q", [entry(1)])
    server.kill()
    with pytest.raises(IndexUnavailable):
        await own.push("q", [entry(2)])
    with pytest.raises(IndexUnavailable):
        await own.run_id("q")
    server.start()
    await wait_until(lambda: available(own))
    assert (await own.next("q", n=1)).generation is None
    assert await own.run_id("q") != before


async def test_a_restart_between_two_calls_is_one_failure_at_most(own: Index, server: RedisServer) -> None:
    """Idle connections to the old server are not used again."""
    await asyncio.gather(*(own.next("q", n=1) for _ in range(8)))
    server.stop()
    server.start()

    async def answered() -> bool:
        try:
            return (await own.next("q", n=1)).generation is None
        except IndexUnavailable:
            return False

    await wait_until(answered)
    for _ in range(8):
        assert (await own.next("q", n=1)).generation is None


async def test_a_server_that_was_never_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An index whose server is missing at the start is unavailable, not a crash."""
    index = Index(IndexOptions("unix:///nonexistent/tm.sock"))
    for _ in range(2):
        with pytest.raises(IndexUnavailable) as caught:
            await index.push("q", [entry(1)])
        assert caught.value.code == "UNAVAILABLE"
    with pytest.raises(IndexUnavailable):
        await index.health()
    with pytest.raises(IndexUnavailable):
        await index.next_many({"q": 1})
    with pytest.raises(IndexUnavailable):
        await index.fair_keys("q")
    await index.aclose()


@pytest.mark.parametrize(
    "error", [AttributeError("'NoneType' object has no attribute 'writelines'"), TypeError()]
)
async def test_a_connection_that_was_closed_meanwhile(
    index: Index, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The driver's own trouble with it is an outage like any other, and not a bug of ours."""

    async def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(index._client, "execute_command", broken)
    with pytest.raises(IndexUnavailable):
        await index.push("q", [entry(1)])


async def test_a_cancelled_call_mixes_up_no_replies(index: Index) -> None:
    """A caller that gives up in the middle does not leave its reply for the next one."""
    await index.push("q", [entry(k, fair=(ANN, BOB)[k % 2]) for k in range(500)])
    for k in range(60):
        call = asyncio.create_task(index.take("q", n=1, fair=ANN))
        await asyncio.sleep(0.0002 * (k % 6))
        call.cancel()
        await asyncio.wait([call])
        assert await index.warm("q", b"one") is True
        assert sorted(await index.fair_keys("q")) == [ANN, BOB]


async def test_concurrent_calls_share_a_bounded_pool(own: Index) -> None:
    """Two hundred calls at a time wait for a connection rather than opening two hundred."""
    await asyncio.gather(*(own.push("q", [entry(k)]) for k in range(200)))
    clients = await own._client.execute_command("CLIENT", "LIST")
    text = clients if isinstance(clients, str) else str(clients)
    assert text.count("addr") <= 2 * 20
    assert (await sizes(own))[2] == 200


async def test_health_runs_a_script(own: Index, server: RedisServer) -> None:
    """Health says what is there, and warns of a server that may evict our keys."""
    health = await own.health()
    assert health["maxmemory_policy"] == "noeviction"
    assert health["warnings"] == []
    assert int(health["version"].split(".")[0]) >= 7
    ask(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert "noeviction" in (await own.health())["warnings"][0]


async def test_an_evicting_server_is_refused(own: Index, server: RedisServer) -> None:
    """In production: at the start, when it comes to be one later, and until it is none any more."""
    strict = Index(IndexOptions(server.url, timeout=2.0, refuse_evicting=True))
    await strict.inspect()
    ask(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(Evicting, match="allkeys-lru"):
        await strict.health()
    strict._look_at = 0.0  # half a minute later
    await strict.next("q", n=1)
    await wait_until(lambda: not available(strict))
    with pytest.raises(IndexUnavailable, match="allkeys-lru"):
        await strict.next("q", n=1)
    ask(server, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    await wait_until(lambda: available(strict))
    assert (await strict.next("q", n=1)).generation == b"one"
    await strict.aclose()


async def test_an_evicting_server_that_comes_later_is_refused(server: RedisServer) -> None:
    """It was away when the process started, which went on without it; then it is not taken as it is."""
    server.kill()
    strict = Index(IndexOptions(server.url, timeout=2.0, refuse_evicting=True))
    with pytest.raises(IndexUnavailable) as caught:
        await strict.inspect()
    assert not isinstance(caught.value, Evicting)
    server.arguments = ("--maxmemory-policy", "volatile-lru")
    server.start()
    await wait_until(lambda: "volatile-lru" in strict._breaker("")._reason)
    with pytest.raises(IndexUnavailable):
        await strict.push("q", [entry(1)])
    await strict.aclose()


async def test_an_evicting_server_is_warned_about(own: Index, server: RedisServer) -> None:
    """In development: once, and it is used."""
    ask(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    with capture_logs() as lines:
        await own.inspect()
        await own.inspect()
    assert [line["log_level"] for line in lines if line["event"] == "index.evicting"] == ["warning"]
    assert (await own.next("q", n=1)).generation == b"one"


async def test_two_prefixes_share_a_server(own: Index, server: RedisServer) -> None:
    """Two installations on one server do not see each other."""
    other = Index(IndexOptions(server.url, prefix="other"))
    await other.reset("q", b"two")
    await own.push("q", [entry(1)])
    assert ids(await other.next("q", n=1)) == []
    await other.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no POSIX")
async def test_one_dead_node_of_a_cluster_stops_only_its_queues(
    cluster: Cluster, redis_prefix_of: str
) -> None:
    """A cluster of which one node is silent goes on with the queues of the other nodes."""
    index = Index(IndexOptions(cluster.url, prefix=redis_prefix_of, timeout=1.0))
    queues = [f"q{k}" for k in range(24)]
    runs = {queue: await index.run_id(queue) for queue in queues}
    assert len(set(runs.values())) == 3, "queues spread over all nodes, each with a run id of its own"
    for queue in queues:
        await index.reset(queue, b"one")
    dead = next(queue for queue in queues if runs[queue] == runs["q0"])
    alive = [queue for queue in queues if runs[queue] != runs[dead]]
    victim = next(s for s in cluster.servers if Cluster.ask(s, "INFO", "server")["run_id"] == runs[dead])
    victim.pause()
    try:
        with pytest.raises(IndexUnavailable):
            await index.next(dead, n=1)
        assert not available(index)
        for queue in queues:
            if queue in alive:
                assert (await index.next(queue, n=1)).generation == b"one"
            else:  # known to be away with the first of them: nobody waits for it again
                with pytest.raises(IndexUnavailable, match="not available"):
                    await index.next(queue, n=1)
        assert len(index._breakers) <= 4
    finally:
        victim.resume()
    await wait_until(lambda: available(index), 20)
    assert (await index.next(dead, n=1)).generation == b"one"
    await index.aclose()


@pytest.fixture
def redis_prefix_of() -> str:
    return f"tm{os.urandom(6).hex()}"
