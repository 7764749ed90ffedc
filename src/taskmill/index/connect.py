"""One client for every kind of server: single node, Sentinel, Cluster, Unix socket.

URL forms (a password may be percent-encoded; `?name=value` goes to the driver, e.g. `ssl_ca_certs`):

    redis://[user:pass@]host[:port][/db]         rediss:// is the same over TLS, certificates checked
    unix://[user:pass@]/path/of/socket[?db=0]
    redis+sentinel://[user:pass@]host[:port][,host[:port]…]/service[/db]      rediss+sentinel://
    redis+cluster://[user:pass@]host[:port][,host[:port]…]                    rediss+cluster://
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

Client = Redis | RedisCluster
LOST = (RedisError, RedisClusterException, OSError, EOFError, TimeoutError, AttributeError, TypeError)
"""What a call raises whose server cannot answer. The last two: redis-py 8.1 writes to a connection that was closed
meanwhile, as those of a cluster are when a node dies, and trips over its own None (redis-py issue 4287)."""

_KINDS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_FORMS = (
    "redis://host:port/db, rediss://, unix:///path, redis+sentinel://host,host/service, redis+cluster://host"
)


@dataclass(frozen=True)
class IndexOptions:
    """How to reach the index. Times are in seconds.

    `prefix` keeps two installations on one server apart: it begins every key and channel. `timeout` bounds one call
    with everything in it; the claim's deadline plus `timeout` must stay below `hold`, the expiry of a reservation.
    `patience` is how long a waiting worker is rung before it counts as gone: longer than its poll. `clock` gives µs
    since the Unix epoch instead of the server's own clock: for tests. `refuse_evicting`: a server whose maxmemory-policy
    may evict our keys counts as away; else it is only warned about.
    """

    url: str
    prefix: str = "taskmill"
    timeout: float = 5.0
    hold: float = 10.0
    patience: float = 5.0
    connections: int = 16
    clock: Callable[[], int] | None = None
    refuse_evicting: bool = False

    def __post_init__(self) -> None:
        if not self.prefix or set(self.prefix) & set("{}"):
            raise ValueError(f"index prefix {self.prefix!r}: give a name without braces")
        if not 0 < self.timeout < self.hold:
            raise ValueError(
                f"index timeout {self.timeout:g} s must be above 0 and below hold {self.hold:g} s"
            )


def connect(options: IndexOptions) -> Client:
    """A client that is not connected yet: the first call connects. ValueError when the URL has no known form.

    The driver retries nothing. Every script may be repeated safely, but a repeated `next` whose first reply was lost
    holds a second set of reservations until they run out, so the caller decides.
    """
    kind = _kind(options.url)
    if kind not in _KINDS:
        raise ValueError(f"index URL of an unknown form: expected {_FORMS}")
    if kind.endswith("+sentinel"):
        return _sentinel(options)
    if kind.endswith("+cluster"):
        return _cluster(options)
    pool = ConnectionPool(**_common(options) | dict(parse_url(options.url)) | {"retry": _never()})
    return Redis.from_pool(pool)


async def disconnect(client: Client) -> None:
    """Closes every connection of a client that `connect` made."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        await pool.aclose()
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


async def bare_connection(client: Client) -> AbstractConnection:
    """A connection outside the pool, not connected yet: for subscriptions, which keep theirs for good."""
    if isinstance(client, RedisCluster):
        await client.initialize()
        node = client.get_random_node()
        return node.connection_class(**node.connection_kwargs | {"retry": _never()})
    return client.connection_pool.make_connection()  # type: ignore[no-any-return, no-untyped-call]


def words(error: BaseException) -> str:
    """An error of the driver in one line, for logs and reasons."""
    text = str(error).split("\n", 1)[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _common(options: IndexOptions) -> dict[str, Any]:
    # RESP2: everything here speaks it, and it saves the HELLO and the maintenance handshake of RESP3.
    # Index and bell bound their calls at a time; the pool has room for both, and for probes.
    return {
        "protocol": 2,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.timeout,
        "max_connections": options.connections + 8,
    }


@dataclass(frozen=True)
class _Place:
    hosts: list[tuple[str, int]]
    path: list[str]
    settings: dict[str, Any]


def _place(url: str, port: int) -> _Place:
    """Host list, path and driver settings of a URL with several hosts. urlsplit knows one: newer Pythons refuse an IPv6
    address behind another host."""
    rest = url.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    parts = urlsplit(f"//hosts{rest.removeprefix(authority)}")
    login, _, hosts = authority.rpartition("@")
    settings: dict[str, Any] = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if login:
        user, _, password = login.partition(":")
        settings |= {"username": unquote(user) or None, "password": unquote(password) or None}
    if _kind(url).startswith("rediss"):
        settings["ssl"] = True
    places = [_host(text, port) for text in hosts.split(",") if text]
    if not places:
        raise ValueError("index URL names no host")
    return _Place(places, [unquote(part) for part in parts.path.split("/") if part], settings)


def _kind(url: str) -> str:
    return url.partition("://")[0].lower()


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or port


def _sentinel(options: IndexOptions) -> Redis:
    place = _place(options.url, 26379)
    if not place.path:
        raise ValueError(
            "index URL of a Sentinel names no service: redis+sentinel://host:port,host:port/service"
        )
    service, *rest = place.path
    settings = _common(options) | place.settings
    tls = {key: value for key, value in place.settings.items() if key.startswith("ssl")}
    timeouts = {key: settings[key] for key in ("socket_timeout", "socket_connect_timeout", "protocol")}
    own = timeouts | tls | {"retry": _never()}
    manager = Sentinel(place.hosts, sentinel_kwargs=own, **settings)  # type: ignore[no-untyped-call]
    client = manager.master_for(service, db=int(rest[0]) if rest else 0, retry=_never())
    assert isinstance(client, Redis)
    return client


def _cluster(options: IndexOptions) -> RedisCluster:
    place = _place(options.url, 6379)
    nodes = [ClusterNode(host, port) for host, port in place.hosts]
    return RedisCluster(startup_nodes=nodes, retry=_never(), **_common(options) | place.settings)
