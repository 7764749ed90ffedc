"""How often one may ask: windows, waits after failures, and what HTTP and WebSocket say of them."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import limits.aio.storage.memory
import limits.aio.strategies
import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from taskmill.api import limits as ours
from taskmill.api.limits import Counters, Limiter, Strikes, Window
from taskmill.api.options import ApiOptions, LimitOptions
from taskmill.errors import RateLimited, Unauthenticated
from taskmill.index.connect import IndexOptions
from taskmill.tasks import read
from tests.api.kit import PASSWORD, Api, counted, running
from tests.api.test_errors import told
from tests.index.kit import Cluster
from tests.support import RedisServer, server_binary, wait_until

AGE = 10**9
"""Seconds of a window that no test sees the end of."""
QUERY = {"query": "{ __typename }"}
ME = {"query": "{ me { id } }"}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of all that counts in this process."""
    clock = Clock()
    time = SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now)
    for module in (ours, limits.aio.storage.memory, limits.aio.strategies):
        monkeypatch.setattr(module, "time", time)
    return clock


@pytest.fixture(autouse=True)
def unhurried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that outlast a slow machine, for tests without a clock of their own."""
    monkeypatch.setattr(ours, "REDIS_TIMEOUT", 5.0)
    if "clock" not in request.fixturenames:
        monkeypatch.setattr(ours, "FIRST_WAIT", 600)


@asynccontextmanager
async def counting(url: str | None = None, prefix: str = "tm") -> AsyncIterator[Counters]:
    counters = Counters(IndexOptions(url, prefix=prefix) if url else None)
    try:
        yield counters
    finally:
        await counters.close()


async def passed(attempt: Callable[[], Awaitable[None]], times: int) -> int:
    """How many of so many attempts were let through."""
    through = 0
    for _ in range(times):
        try:
            await attempt()
            through += 1
        except RateLimited:
            pass
    return through


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    binary = server_binary()
    if binary is None:
        pytest.skip("no Valkey or Redis server binary")
    nodes = Cluster(binary)
    try:
        yield nodes.start()
    finally:
        nodes.close()


# ---- windows ------------------------------------------------------------------------------------------------------


class TestWindow:
    async def test_so_many_and_no_more(self) -> None:
        """Each key has its own `amount`; what is over says when to come again."""
        async with counting() as counters:
            window = Window(counters, "t", 5, AGE)
            assert await passed(lambda: window.take("a"), 20) == 5
            assert await passed(lambda: window.take("b"), 5) == 5
            with pytest.raises(RateLimited) as refused:
                await window.take("a")
            assert refused.value.retry_after >= 1
            assert str(refused.value.retry_after) in refused.value.message

    @pytest.mark.parametrize("amount", [1, 7, 60, 1000])
    @pytest.mark.parametrize("pace", [0.0, 0.01, 1.0])
    async def test_when_to_come_again(self, clock: Clock, amount: int, pace: float) -> None:
        """Whoever waits as long as it was told is let in again, and not much earlier."""
        async with counting() as counters:
            window = Window(counters, "t", amount, 60)
            for _ in range(5):
                wait = 0
                while not wait:
                    try:
                        await window.take("a")
                        clock.now += pace if amount * pace < 30 else 0
                    except RateLimited as refused:
                        wait = refused.retry_after
                assert 1 <= wait <= 121
                began = clock.now
                window._shares.clear()
                clock.now = began + max(wait - 2, 0)
                if wait > 2:
                    assert await passed(lambda: window.take("a"), 1) == 0
                clock.now = began + wait
                window._shares.clear()
                assert await passed(lambda: window.take("a"), 1) == 1

    async def test_a_busy_key_asks_seldom(self) -> None:
        """Who calls often gets its calls in shares, and never more of them than the limit has."""
        async with counting() as counters:
            asked = count_asked(counters)
            window = Window(counters, "t", 2000, AGE)
            assert await passed(lambda: window.take("a"), 1500) == 1500
            assert len(asked) < 750
            assert await passed(lambda: window.take("a"), 1500) <= 500

    async def test_a_share_ends(self, clock: Clock) -> None:
        """What a busy caller did not use up of its share is nothing that it saved for later."""
        async with counting() as counters:
            window = Window(counters, "t", 2000, 60)
            assert await passed(lambda: window.take("a"), 100) == 100
            assert window._shares["a"].left > 0
            clock.now += 3600
            assert await passed(lambda: window.take("a"), 3000) <= 2000

    async def test_shares_of_many_at_once(self) -> None:
        """Calls at the same moment take no more than the limit has."""
        async with counting() as counters:
            window = Window(counters, "t", 200, AGE)
            through = await asyncio.gather(*(passed(lambda: window.take("a"), 10) for _ in range(50)))
            assert 0 < sum(through) <= 200

    async def test_refusals_ask_nobody(self) -> None:
        """A flood of calls over the limit costs no question to Redis."""
        async with counting() as counters:
            window = Window(counters, "t", 1, AGE)
            await passed(lambda: window.take("a"), 2)
            asked = count_asked(counters)
            assert await passed(lambda: window.take("a"), 1000) == 0
            assert not asked

    async def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A flood of addresses fills no memory."""
        monkeypatch.setattr(ours, "KEYS_MOST", 100)
        async with counting() as counters:
            window = Window(counters, "t", 10, AGE)
            for number in range(350):
                await window.take(str(number))
            assert len(window._shares) <= 100
            assert len(counters._calls.storage) <= 100


def count_asked(counters: Counters) -> list[object]:
    """A mark for each question from now on."""
    asked: list[object] = []
    ask = counters.ask

    async def counted(work: Any, **given: Any) -> Any:
        asked.append(work)
        return await ask(work, **given)

    counters.ask = counted  # type: ignore[method-assign]  # to count
    return asked


# ---- Redis --------------------------------------------------------------------------------------------------------


class TestRedis:
    @pytest.mark.parametrize("index_engine", ["valkey", "redis"], indirect=True)
    async def test_processes_count_together(self, redis_url: str, redis_prefix: str) -> None:
        """What one process let through is gone for the other."""
        async with counting(redis_url, redis_prefix) as one, counting(redis_url, redis_prefix) as other:
            first, second = Window(one, "t", 5, AGE), Window(other, "t", 5, AGE)
            assert await passed(lambda: first.take("a"), 3) == 3
            assert await passed(lambda: second.take("a"), 5) == 2
            assert await passed(lambda: first.take("a"), 5) == 0
            assert one.shared
            assert other.shared

    @pytest.mark.parametrize("index_engine", ["valkey"], indirect=True)
    async def test_waits_are_shared(self, redis_url: str, redis_prefix: str) -> None:
        """So are failures, their waits, and their end."""
        async with counting(redis_url, redis_prefix) as one, counting(redis_url, redis_prefix) as other:
            first, second = Strikes(one, "t", 2, 600, 600), Strikes(other, "t", 2, 600, 600)
            await first.add("a")
            await second.add("a")
            with pytest.raises(RateLimited) as refused:
                await first.check("a")
            assert 1 <= refused.value.retry_after <= 600
            await second.clear("a")
            await first.check("a")

    async def test_cluster(self, cluster: Cluster) -> None:
        """The keys of one count are on one node of a cluster."""
        async with counting(cluster.url) as counters:
            window, strikes = Window(counters, "t", 3, AGE), Strikes(counters, "t", 1, 600, 600)
            for key in "abcdefgh":
                assert await passed(lambda key=key: window.take(key), 5) == 3  # type: ignore[misc]  # bound at once
                await strikes.add(key)
                with pytest.raises(RateLimited):
                    await strikes.check(key)
                await strikes.clear(key)
            assert counters.shared

    async def test_away_and_back(self, private_redis: RedisServer) -> None:
        """While Redis is away the process counts alone; nobody is let through for that, and nobody waits."""
        async with counting(private_redis.url) as counters:
            window = Window(counters, "t", 3, AGE)
            await window.take("a")
            private_redis.kill()
            assert await passed(lambda: window.take("a"), 10) == 3
            assert not counters.shared
            private_redis.start()
            await wait_until(lambda: counters.shared, what="Redis is used again")
            window._shares.clear()
            assert await passed(lambda: window.take("a"), 10) == 3

    async def test_silent(self, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Redis that hangs holds up one question, and no other."""
        monkeypatch.setattr(ours, "REDIS_TIMEOUT", 0.25)
        async with counting(private_redis.url) as counters:
            await Window(counters, "t", 3, AGE).take("a")
            private_redis.pause()
            try:
                window = Window(counters, "u", 1000, AGE)
                assert await passed(lambda: window.take("a"), 500) == 500
                assert not counters.shared
            finally:
                private_redis.resume()
            await wait_until(lambda: counters.shared, what="Redis is used again")

    async def test_full(self, private_redis: RedisServer) -> None:
        """A Redis that writes no more counts as away."""
        async with counting(private_redis.url) as counters, Redis.from_url(private_redis.url) as client:
            await client.config_set("maxmemory", 1)
            assert await passed(_take(counters), 5) == 3
            assert not counters.shared
            await client.config_set("maxmemory", 0)
            await wait_until(lambda: counters.shared, what="Redis is used again")

    async def test_nobody_there(self) -> None:
        """It begins without Redis, too."""
        async with counting("redis://127.0.0.1:1/0") as counters:
            assert await passed(_take(counters), 5) == 3


def _take(counters: Counters) -> Callable[[], Awaitable[None]]:
    window = Window(counters, "t", 3, AGE)
    return lambda: window.take("a")


# ---- failures -----------------------------------------------------------------------------------------------------


class TestStrikes:
    async def test_each_waits_twice_as_long(self, clock: Clock) -> None:
        """The first failures cost nothing, each further one doubles the wait up to the longest; then it goes on for ever."""
        async with counting() as counters:
            strikes = Strikes(counters, "t", 3, ours.DAY, 60)
            waits = []
            for _ in range(10):
                await strikes.check("a")
                await strikes.add("a")
                try:
                    await strikes.check("a")
                    waits.append(0)
                except RateLimited as refused:
                    waits.append(refused.retry_after)
                    clock.now += refused.retry_after
            assert waits == [0, 0, 4, 8, 16, 32, 60, 60, 60, 60]

    async def test_asking_does_not_prolong(self, clock: Clock) -> None:
        """Who asks while it waits is refused and no worse off."""
        async with counting() as counters:
            strikes = Strikes(counters, "t", 1, ours.DAY, 60)
            await strikes.add("a")
            assert await passed(lambda: strikes.check("a"), 100) == 0
            clock.now += 4
            await strikes.check("a")

    @pytest.mark.parametrize("index_engine", ["valkey"], indirect=True)
    async def test_many_at_once(self, redis_url: str, redis_prefix: str) -> None:
        """Tries at the same moment get no more of them than tries one by one."""
        async with counting(redis_url, redis_prefix) as counters:
            strikes = Strikes(counters, "t", 5, 600, 600)

            async def attempt() -> None:
                await strikes.check("a")
                await strikes.add("a")

            assert sum(await asyncio.gather(*(passed(attempt, 1) for _ in range(30)))) == 5


class TestLogin:
    """The limits of login, without HTTP: `free` failures, then waits."""

    def limiter(self, **given: int) -> Limiter:
        return Limiter(replace(LimitOptions(login=3, login_peer=8, register=2), **given))

    async def fail(self, limiter: Limiter, account: str, peer: str) -> None:
        """RateLimited before the password is looked at; else it was wrong."""
        try:
            async with limiter.login(account, peer):
                raise Unauthenticated("wrong")
        except Unauthenticated:
            pass

    async def succeed(self, limiter: Limiter, account: str, peer: str) -> None:
        async with limiter.login(account, peer):
            pass

    async def test_an_account_from_many_addresses(self, clock: Clock) -> None:
        """Another address makes no new tries."""
        limiter = self.limiter()
        peers = iter(range(1000))
        assert await passed(lambda: self.fail(limiter, "a@example.com", f"192.0.2.{next(peers)}"), 100) == 3

    async def test_an_address_with_many_accounts(self, clock: Clock) -> None:
        """Another account makes no new tries, beyond those of the address."""
        limiter = self.limiter()
        accounts = iter(range(1000))
        assert (
            await passed(lambda: self.fail(limiter, f"{next(accounts)}@example.com", "192.0.2.1"), 100) == 8
        )

    async def test_success_forgets(self, clock: Clock) -> None:
        """Who logs in has all tries again, as often as it likes."""
        limiter = self.limiter()
        for _ in range(5):
            assert await passed(lambda: self.fail(limiter, "a", "192.0.2.1"), 1) == 1
            assert await passed(lambda: self.succeed(limiter, "a", "192.0.2.1"), 10) == 10

    async def test_never_for_good(self, clock: Clock) -> None:
        """However much an account was attacked: who waits as long as it is told is let in."""
        limiter = self.limiter(login_peer=0)
        waits = []
        for _ in range(31):
            try:
                await self.fail(limiter, "a", "192.0.2.66")
            except RateLimited as refused:
                waits.append(refused.retry_after)
                clock.now += refused.retry_after
        assert max(waits) == ours.ACCOUNT_WAIT
        with pytest.raises(RateLimited) as told_to_wait:
            await self.succeed(limiter, "a", "192.0.2.1")
        clock.now += told_to_wait.value.retry_after
        await self.succeed(limiter, "a", "192.0.2.1")

    async def test_where_it_has_logged_in_before(self, clock: Clock) -> None:
        """From there an account does not wait for the failures of others, and its own are few all the same."""
        limiter = self.limiter()
        await self.succeed(limiter, "a", "192.0.2.1")
        assert await passed(lambda: self.fail(limiter, "a", "192.0.2.66"), 10) == 3
        assert await passed(lambda: self.succeed(limiter, "a", "192.0.2.2"), 1) == 0
        assert await passed(lambda: self.succeed(limiter, "a", "192.0.2.1"), 5) == 5
        assert await passed(lambda: self.fail(limiter, "a", "192.0.2.66"), 1) == 0
        assert await passed(lambda: self.fail(limiter, "a", "192.0.2.1"), 10) == 3

    async def test_register(self, clock: Clock) -> None:
        """New users of one address wait, and of another they do not."""
        limiter = self.limiter()
        names = iter(range(1000))
        assert await passed(lambda: limiter.register(f"{next(names)}", "192.0.2.1"), 10) == 2
        assert await passed(lambda: limiter.register(f"{next(names)}", "192.0.2.2"), 1) == 1

    async def test_register_one_address_again_and_again(self, clock: Clock) -> None:
        """So no one can ask at will which addresses have users."""
        limiter = self.limiter(register=0)
        peers = iter(range(1000))
        assert await passed(lambda: limiter.register("a", f"192.0.2.{next(peers)}"), 10) == 3

    async def test_off(self) -> None:
        """0 turns each of them off."""
        limiter = Limiter(LimitOptions())
        assert await passed(lambda: self.fail(limiter, "a", "192.0.2.1"), 100) == 100
        assert await passed(lambda: limiter.register("a", "192.0.2.1"), 100) == 100
        assert await passed(lambda: limiter.call(None, "192.0.2.1"), 100) == 100
        assert not limiter.counters._calls.storage
        assert not limiter.counters._failures.storage


# ---- over HTTP and WebSocket --------------------------------------------------------------------------------------


@asynccontextmanager
async def limited(url: str, *, proxies: tuple[str, ...] = (), **amounts: int) -> AsyncIterator[Api]:
    """An API with these limits and one user, who logged in."""
    trusted = tuple(ipaddress.ip_network(proxy) for proxy in proxies)
    options = ApiOptions(limits=LimitOptions(**amounts), trusted_proxies=trusted)
    async with running(url, options=options) as api:
        await api.register("user")
        yield api


async def refused_at_last(ask: Callable[[], Awaitable[Any]], most: int) -> Any:
    """The first answer that is no longer let through. Two windows may meet in a test: more than `amount` may be."""
    for _ in range(most):
        answer = await ask()
        if answer.status_code == 429:
            return answer
    raise AssertionError(f"{most} calls were let through")


def check_refusal(answer: Any) -> None:
    code, message, _ = told(answer)
    assert (answer.status_code, code) == (429, "RATE_LIMITED")
    wait = int(answer.headers["Retry-After"])
    assert wait >= 1
    assert str(wait) in message
    [error] = answer.json()["errors"]
    assert error["extensions"]["retryAfter"] == wait


async def test_a_user(store_url: str) -> None:
    """A user who asks too much is refused whole, with 429 and when to come again; others are not."""
    async with limited(store_url, user=10) as api:
        other = await api.register("other")
        check_refusal(await refused_at_last(lambda: api.post(ME), 30))
        assert (await api.post(ME, token=other)).status_code == 200
        assert (await api.post(QUERY, token="")).status_code == 200
        assert (await api.http.get("/health")).status_code == 200
        assert 'rate_limited_total{limit="user"} 1.0' in (await api.http.get("/metrics")).text


async def test_refusals_are_counted_from_zero(store_url: str) -> None:
    """A limit has its series before the first refusal, so that a rate sees that one."""
    async with limited(store_url, user=10) as api:
        assert 'rate_limited_total{limit="user"} 0.0' in (await api.http.get("/metrics")).text


async def test_a_key(store_url: str) -> None:
    """An API key has a limit of its own, beside its owner's."""
    create = 'mutation { createApiKey(input: {name: "k", role: USER}) { key } }'
    async with limited(store_url, key=10, user=1000) as api:
        key, other = [(await api.ok(create))["createApiKey"]["key"] for _ in range(2)]
        check_refusal(await refused_at_last(lambda: api.post(ME, token=key), 30))
        assert (await api.post(ME, token=other)).status_code == 200
        assert (await api.post(ME)).status_code == 200


async def test_anonymous(store_url: str) -> None:
    """Who is not signed in counts by its address; a token that is none counts so too, and needs no look afterwards."""
    async with limited(store_url, anonymous=10) as api:
        check_refusal(await refused_at_last(lambda: api.post(QUERY, token=""), 30))
        check_refusal(await refused_at_last(lambda: api.post(QUERY, token="guessed"), 30))
        assert (await api.post(ME)).status_code == 200


async def test_guessed_keys(store_url: str) -> None:
    """An address that has guessed too often asks SQL nothing more; a key that has opened before does so from there too."""
    create = 'mutation { createApiKey(input: {name: "k", role: USER}) { key } }'
    async with limited(store_url, anonymous=10) as api:
        key = (await api.ok(create))["createApiKey"]["key"]
        assert (await api.post(ME, token=key)).status_code == 200
        guesses = (f"tm_aaaaaaaa_{number:043}" for number in range(1000))
        check_refusal(await refused_at_last(lambda: api.post(ME, token=next(guesses)), 30))
        with counted() as statements:
            for _ in range(5):
                check_refusal(await api.post(ME, token=next(guesses)))
        assert not statements
        assert (await api.post(ME, token=key)).status_code == 200


async def test_forged_addresses(store_url: str) -> None:
    """X-Forwarded-For from anybody makes no new address."""
    async with limited(store_url, anonymous=10) as api:
        numbers = iter(range(100))
        check_refusal(
            await refused_at_last(
                lambda: api.post(QUERY, token="", X_Forwarded_For=f"198.51.100.{next(numbers)}"), 30
            )
        )


async def test_addresses_behind_a_proxy(store_url: str) -> None:
    """Behind a proxy of ours each caller has a limit of its own, and what it writes into the header makes none."""
    async with limited(store_url, anonymous=10, proxies=("127.0.0.0/8",)) as api:
        numbers = iter(range(100))
        check_refusal(
            await refused_at_last(
                lambda: api.post(QUERY, token="", X_Forwarded_For=f"192.0.2.{next(numbers)}, 198.51.100.1"),
                30,
            )
        )
        assert (await api.post(QUERY, token="", X_Forwarded_For="198.51.100.2")).status_code == 200


def login(email: str, password: str) -> dict[str, Any]:
    document = "mutation($i: LoginInput!) { login(input: $i) { accessToken } }"
    return {"query": document, "variables": {"i": {"email": email, "password": password}}}


@pytest.mark.parametrize("email", ["user@example.com", "nobody@example.com"])
async def test_the_sixth_failed_login(store_url: str, email: str) -> None:
    """Row 66: five wrong passwords are answered, the sixth is not, from whatever address it says to come; whether the
    account exists makes no difference, and the right password does not help."""
    async with limited(store_url, login=5) as api:
        for number in range(5):
            answer = await api.post(login(email, "wrong"), token="", X_Forwarded_For=f"192.0.2.{number}")
            assert (answer.status_code, told(answer)[0]) == (200, "UNAUTHENTICATED")
        check_refusal(await api.post(login(email, "wrong"), token="", X_Forwarded_For="192.0.2.9"))
        check_refusal(await api.post(login(email, PASSWORD), token=""))
        assert (await api.post(ME)).status_code == 200


SPELLINGS = {
    "capitals": "ÜSÉR@Example.COM",
    "blanks": "  üsér@example.com ",
    "decomposed": "u\u0308se\u0301r@example.com",
    "half decomposed": "u\u0308sér@example.com",
    "blanks inside, which SQL may not see": "üsér@example.com" + " " * 300 + "x",
}


@pytest.mark.parametrize("name", SPELLINGS)
async def test_spellings_of_an_account(store_url: str, name: str) -> None:
    """An account has one limit, however its address is spelled: what opens it counts for it."""
    async with limited(store_url, login=2) as api:
        await api.accounts.register("üsér@example.com", PASSWORD, "Jane")
        for _ in range(2):
            await api.post(login("üsér@example.com", "wrong"), token="")
        answer = await api.post(login(SPELLINGS[name], PASSWORD), token="")
        assert told(answer)[0] in ("RATE_LIMITED", "UNAUTHENTICATED")
        assert name.startswith("blanks inside") or answer.status_code == 429


async def test_logins_of_one_address(store_url: str) -> None:
    """An address that has failed with many accounts waits for all of them."""
    async with limited(store_url, login_peer=3) as api:
        for number in range(3):
            assert (await api.post(login(f"{number}@example.com", "wrong"), token="")).status_code == 200
        check_refusal(await api.post(login("user@example.com", PASSWORD), token=""))


async def test_registrations(store_url: str) -> None:
    """New users from one address become slower."""
    document = "mutation($i: RegisterInput!) { register(input: $i) { accessToken } }"
    async with limited(store_url, register=3) as api:  # the first was the kit's

        async def register(name: str) -> Any:
            user = {"email": f"{name}@example.com", "password": PASSWORD, "name": name}
            return await api.post({"query": document, "variables": {"i": user}}, token="")

        assert [(await register(name)).status_code for name in "ab"] == [200, 200]
        check_refusal(await register("c"))


async def test_part_of_an_answer(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When only a field was refused, the rest is answered with 200, and the header says when to come again."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RateLimited("Too many calls. Try again in 7 s.", 7)

    async with limited(store_url, user=1000) as api:
        monkeypatch.setattr(read, "task", refuse)
        answer = await api.post(
            {"query": '{ me { id } task(id: "01990000-0000-7000-8000-000000000000") { id } }'}
        )
        assert (answer.status_code, answer.headers["Retry-After"]) == (200, "7")
        assert answer.json()["data"]["me"]["id"]
        assert answer.json()["errors"][0]["extensions"]["code"] == "RATE_LIMITED"


async def test_operations_of_a_socket(store_url: str) -> None:
    """Each operation of a WebSocket counts; one too many is an error that says when, and the socket stays."""
    async with limited(store_url, user=5) as api, api.socket() as socket:
        for number in range(20):
            await socket.subscribe("{ me { id } }", id=str(number))
            message = await socket.receive()
            if message["type"] == "error":
                break
            assert message["type"] == "next", message
            assert (await socket.receive())["type"] == "complete"
        [error] = message["payload"]
        assert error["extensions"]["code"] == "RATE_LIMITED"
        assert error["extensions"]["retryAfter"] >= 1
        await socket.send({"type": "ping"})
        assert (await socket.receive())["type"] == "pong"


async def test_sockets(store_url: str) -> None:
    """Opening a WebSocket counts too: one too many is refused with 429."""
    async with limited(store_url, anonymous=5) as api:

        async def open_many() -> None:
            for _ in range(20):
                async with api.bare_socket():
                    pass

        with pytest.raises(InvalidStatus) as refused:
            await open_many()
        response = refused.value.response
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) >= 1
