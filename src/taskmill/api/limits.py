"""How often one may ask: a sliding window for each user, API key and anonymous address, and growing waits for logins.

The counts are in Redis, so that all API processes share them; while Redis is away, and where there is none, each
process counts for itself. Redis is given a quarter of a second, once: then nothing waits for it until it is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, TypeVar

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from taskmill.api.auth import Session
from taskmill.api.options import LimitOptions
from taskmill.errors import IndexUnavailable, RateLimited, Unauthenticated
from taskmill.index.breaker import Breaker
from taskmill.index.connect import LOST, Client, IndexOptions, connect, disconnect, words
from taskmill.runtime.probes import Probes

REDIS_TIMEOUT: Final = 0.25
"""Seconds for all that one question asks of Redis."""
KEYS_MOST: Final = 10_000
"""Counts that a process holds; at one more it forgets them all."""
SHARE: Final = 100
"""A process that is asked much takes up to one in so many of a limit's calls at once, and hands them out itself."""
HELD: Final = 1.0
"""Seconds until such calls count as used."""
MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 24 * HOUR
FIRST_WAIT: Final = 4
"""Seconds of the first wait after failures; each further failure doubles it."""
ACCOUNT_WAIT: Final = 900
PEER_WAIT: Final = 60
"""The longest waits. Behind an address there may be many who did nothing."""
REMEMBERED: Final = 30 * DAY
"""How long an address counts as one from which an account logs in."""

T = TypeVar("T")
Storage = MemoryStorage | RedisStorage


class _Redis(RedisStorage):
    """The library's storage over a client of ours, which knows every form of URL."""

    STORAGE_SCHEME = None  # type: ignore[assignment]  # made by us, not by a URL

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        super().__init__("async+redis://", implementation="redispy", key_prefix=prefix)

    def configure_bridge(self) -> None:
        bridge: Any = self.bridge
        bridge.storage = self._client
        bridge.connection_getter = lambda readonly: self._client


class Counters:
    """Where the counts are: in Redis while it answers, else in this process."""

    def __init__(self, index: IndexOptions | None = None, rng: Random | None = None) -> None:
        # Apart, so that a flood of callers does not make forgotten who failed.
        self._calls, self._failures = MemoryStorage(), MemoryStorage()
        self._client: Client | None = None
        self._redis: _Redis | None = None
        self._breaker = Breaker("limits", self._probe, rng)
        if index is not None:
            self._client = connect(replace(index, timeout=REDIS_TIMEOUT))
            self._redis = _Redis(self._client, f"{index.prefix}:limits")

    @property
    def shared(self) -> bool:
        """Whether all processes count together."""
        return self._redis is not None and not self._breaker.open

    async def close(self) -> None:
        await self._breaker.aclose()
        if self._client is not None:
            await disconnect(self._client)

    async def ask(self, work: Callable[[Storage], Awaitable[T]], *, of_failures: bool = False) -> T:
        """What `work` answers about the storage. It is done again, with that of the process, when Redis fails."""
        if self._redis is not None and not self._breaker.open:
            try:
                return await self._of_redis(self._redis, work)
            except IndexUnavailable as error:
                self._breaker.trip(error.message)
        memory = self._failures if of_failures else self._calls
        if len(memory.storage) >= KEYS_MOST:
            await memory.reset()
        return await work(memory)

    async def _of_redis(self, redis: _Redis, work: Callable[[Storage], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(REDIS_TIMEOUT):
                return await work(redis)
        except LOST as error:
            raise IndexUnavailable(words(error)) from error

    async def _probe(self) -> None:
        """Writes: a server that is full, or a replica, answers a PING too."""
        assert self._redis is not None
        await self._of_redis(self._redis, lambda storage: storage.incr("probe", 1))


@dataclass(slots=True)
class _Share:
    """The calls that this process may hand out itself for one key; times by the monotonic clock."""

    left: int = 0
    until: float = 0.0
    size: int = 1
    refused_until: float = 0.0


class Window:
    """At most `amount` calls of one key in any `seconds`, exact to one in SHARE for each process."""

    def __init__(self, counters: Counters, name: str, amount: int, seconds: int = MINUTE) -> None:
        self._counters = counters
        self._name = name
        self._item = RateLimitItemPerSecond(amount, seconds)
        self._most = max(1, amount // SHARE)
        self._shares: dict[str, _Share] = {}

    def check(self, key: str) -> None:
        """RateLimited while a call would be refused, as far as this process remembers. Counts as nothing."""
        share, now = self._shares.get(key), time.monotonic()
        if share is not None and share.refused_until > now:
            raise _too_many(self._name, share.refused_until - now)

    async def take(self, key: str) -> None:
        """One call. RateLimited says when the next may be made."""
        share = self._shares.get(key)
        if share is None:
            if len(self._shares) >= KEYS_MOST:
                self._shares.clear()
            share = self._shares[key] = _Share()
        now = time.monotonic()
        if share.refused_until > now:
            raise _too_many(self._name, share.refused_until - now)
        busy = now < share.until
        if busy and share.left > 0:
            share.left -= 1
            return
        size = min(share.size * 2, self._most) if busy else 1
        share.left = 0
        if size > 1 and not await self._hit(key, size):
            size = 1
        if size == 1 and not await self._hit(key, 1):
            wait = await self._counters.ask(lambda storage: self._wait(storage, key))
            share.refused_until = time.monotonic() + wait
            raise _too_many(self._name, wait)
        share.left += size - 1
        share.size, share.until = size, now + HELD

    async def _hit(self, key: str, cost: int) -> bool:
        return await self._counters.ask(
            lambda storage: SlidingWindowCounterRateLimiter(storage).hit(
                self._item, self._name, key, cost=cost
            )
        )

    async def _wait(self, storage: Storage, key: str) -> float:
        """Seconds until one call fits in: the library tells when the count sinks, which may be too little."""
        amount, length = self._item.amount, self._item.get_expiry()
        before, before_left, count, left = await storage.get_sliding_window(
            self._item.key_for(self._name, key), length
        )
        if count < amount:
            wait = before_left - (amount - count) * length / before if before else 0.0
        else:
            wait = left - amount * length / count  # `left`: of this window and the next, in which it sinks
        return min(max(wait, 0.0) + 0.01, 2.0 * length)  # at that very moment it is not yet below the limit


class Strikes:
    """Failures of one key: `free` of them in `seconds` cost nothing, then each makes the next try wait twice as long,
    from FIRST_WAIT to `longest` seconds. Whoever asks while it waits is refused, and that counts as nothing."""

    def __init__(self, counters: Counters, name: str, free: int, seconds: int, longest: int) -> None:
        self._counters = counters
        self._name = name
        self._free = free
        self._seconds = seconds
        self._longest = longest

    async def check(self, key: str) -> None:
        """RateLimited while it has to wait."""
        await self._ask(lambda storage: self._check(storage, key))

    async def add(self, key: str, *, first: bool = True) -> None:
        """A failure, or a try that counts as one until `clear`. RateLimited: others that came at the same moment were
        before it. Not for failures that happened (`first` False)."""
        await self._ask(lambda storage: self._add(storage, key, first))

    async def clear(self, key: str) -> None:
        """All is forgotten."""

        async def both(storage: Storage) -> None:
            await storage.clear(self._failures(key))
            await storage.clear(self._waiting(key))

        await self._ask(both)

    async def _ask(self, work: Callable[[Storage], Awaitable[None]]) -> None:
        await self._counters.ask(work, of_failures=True)

    async def _check(self, storage: Storage, key: str) -> None:
        if await storage.get(self._waiting(key)):
            raise await self._too_many(storage, key)

    async def _add(self, storage: Storage, key: str, first: bool) -> None:
        failures = await storage.incr(self._failures(key), self._seconds)
        if failures < self._free:
            return
        wait = min(FIRST_WAIT * 2 ** min(failures - self._free, 30), self._longest)
        if await storage.incr(self._waiting(key), wait) > 1 and first:
            raise await self._too_many(storage, key)

    async def _too_many(self, storage: Storage, key: str) -> RateLimited:
        return _too_many(self._name, await storage.get_expiry(self._waiting(key)) - time.time())

    def _failures(self, key: str) -> str:
        return f"{self._name}/failures/{key}"

    def _waiting(self, key: str) -> str:
        return f"{self._name}/waiting/{key}"


class Limiter:
    """All limits of the API. What is 0 in the options is not limited. Close it: it may hold connections."""

    def __init__(
        self,
        options: LimitOptions,
        index: IndexOptions | None = None,
        *,
        probes: Probes | None = None,
        rng: Random | None = None,
    ) -> None:
        counters = self.counters = Counters(index, rng)
        self._probes = probes

        def start(name: str) -> None:
            """Counted from 0: a rate would not see the first refusal."""
            if probes is not None:
                probes.rate_limited.labels(limit=name)

        def window(name: str, amount: int) -> Window | None:
            start(name)
            return Window(counters, name, amount) if amount else None

        def strikes(name: str, free: int, seconds: int, longest: int) -> Strikes | None:
            start(name)
            return Strikes(counters, name, free, seconds, longest) if free else None

        self._users = window("user", options.user)
        self._keys = window("key", options.key)
        self._peers = window("peer", options.anonymous)
        self._accounts = strikes("login", options.login, DAY, ACCOUNT_WAIT)
        self._login_peers = strikes("login-peer", options.login_peer, HOUR, PEER_WAIT)
        self._registered = strikes("register", options.login, DAY, ACCOUNT_WAIT)
        self._register_peers = strikes("register-peer", options.register, HOUR, PEER_WAIT)

    async def close(self) -> None:
        await self.counters.close()

    async def call(self, session: Session | None, peer: str) -> None:
        """One operation of whoever asks. RateLimited."""
        with self._counted():
            if session is None:
                if self._peers is not None:
                    await self._peers.take(peer)
            elif session.key is not None:
                if self._keys is not None:
                    await self._keys.take(session.key.id.hex())
            elif self._users is not None:
                await self._users.take(session.user.id.hex())

    def guess(self, peer: str) -> None:
        """Before a key that may be made up is looked for. RateLimited: the address has used up its calls."""
        with self._counted():
            if self._peers is not None:
                self._peers.check(peer)

    @asynccontextmanager
    async def login(self, account: str, peer: str) -> AsyncIterator[None]:
        """Around the check of a password: RateLimited before it, when this account (as `users.spelled` has it) or address
        has failed too often.

        Unauthenticated out of the block is a failure, no error a success, which ends the account's waiting. From an
        address where it has logged in before, an account does not wait for what others elsewhere did to it.
        """
        account = _digest(account)
        here = f"{account}/{peer}"
        with self._counted():
            watched = await self._before_login(account, here, peer)
        try:
            yield
        except Unauthenticated:
            if self._login_peers is not None:
                await self._login_peers.add(peer, first=False)
            raise
        if self._accounts is not None:
            for key in watched:
                await self._accounts.clear(key)
            await self.counters.ask(lambda s: s.incr(f"known/{here}", REMEMBERED), of_failures=True)

    async def _before_login(self, account: str, here: str, peer: str) -> list[str]:
        """The keys of the account's failures that this try counts for, until it succeeds."""
        if self._login_peers is not None:
            await self._login_peers.check(peer)
        if self._accounts is None:
            return []
        known = await self.counters.ask(lambda s: s.get(f"known/{here}"), of_failures=True)
        watched = [here] if known else [here, account]
        for key in watched:
            await self._accounts.check(key)
        for key in watched:
            await self._accounts.add(key)
        return watched

    async def register(self, account: str, peer: str) -> None:
        """Before a user is made. RateLimited."""
        with self._counted():
            if self._register_peers is not None:
                await self._register_peers.check(peer)
            if self._registered is not None:
                await self._registered.check(_digest(account))
                await self._registered.add(_digest(account))
            if self._register_peers is not None:
                await self._register_peers.add(peer)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except RateLimited as refused:
            if self._probes is not None:
                self._probes.rate_limited.labels(limit=refused.limit).inc()
            raise


def _digest(account: str) -> str:
    """An address as a key that tells it to nobody."""
    return hashlib.sha256(account.encode()).hexdigest()[:32]


def _too_many(limit: str, wait: float) -> RateLimited:
    wait = max(1, math.ceil(wait))
    return RateLimited(f"Too many calls. Try again in {wait} s.", wait, limit)
