"""The scripts against a model of dicts: after every step the server holds exactly what the model says."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from taskmill.index.connect import IndexOptions
from taskmill.index.index import EPOCH, Entry, Index, Next, Reserved
from tests.index.kit import ANN, BOB, EVE, Clock, raw, task

FAIRS = (ANN, BOB, EVE)
HOLD = 10.0

tasks = st.integers(0, 11)
bands = st.integers(0, 3)
entries = st.lists(st.tuples(tasks, bands, st.integers(0, 5)), max_size=6)
picks = st.lists(st.integers(0, 40), max_size=4)


@dataclass(frozen=True)
class Held:
    token: bytes
    score: int
    expiry: int


def score_of(band: int, at: int) -> int:
    return band * 2**51 + at


def fair_of(one: bytes) -> bytes:
    return FAIRS[int.from_bytes(one, "big") % 3]


class Machine(RuleBasedStateMachine):
    """One queue; every reservation ever made may be confirmed, dropped or given back at any time, by anyone."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        prefix = f"tm{secrets.token_hex(6)}"
        options = IndexOptions(url, prefix=prefix, hold=HOLD, clock=self.clock)
        self.index = self.runner.run(self._make(options))
        self.generation: bytes | None = None
        self.fill = self.paused = False
        self.ready: dict[bytes, int] = {}
        self.held: dict[bytes, Held] = {}
        self.known: list[Reserved] = []

    async def _make(self, options: IndexOptions) -> Index:
        return Index(options)

    def teardown(self) -> None:
        self.flush()
        self.runner.run(self.index.aclose())
        self.runner.close()

    # -- the model ------------------------------------------------------------------------------------------

    def _forget(self, reserved: Reserved) -> Held | None:
        held = self.held.get(reserved.id)
        return self.held.pop(reserved.id) if held and held.token == reserved.token else None

    def _settle(self, ended: list[Reserved], given: list[Reserved]) -> None:
        for reserved in ended:
            self._forget(reserved)
        for reserved in given:
            held = self._forget(reserved)
            if held:
                self.ready.setdefault(reserved.id, held.score)
        for one in [one for one, held in self.held.items() if held.expiry <= self.clock.now]:
            self.ready.setdefault(one, self.held.pop(one).score)

    def _reserve(self, answer: Next) -> None:
        for reserved in answer.reserved:
            score = self.ready.pop(reserved.id)
            assert reserved.fair == fair_of(reserved.id)
            self.held[reserved.id] = Held(reserved.token, score, self.clock.now + int(HOLD * 1e6))
        self.known += answer.reserved

    def _order(self, answer: Next, n: int) -> None:
        """Strict bands; inside a band and fair key by time (then id); as many as there are."""
        got = [reserved.id for reserved in answer.reserved]
        assert len(set(got)) == len(got) == min(n, len(self.ready))
        chosen = sorted(self.ready[one] >> 51 for one in got)
        assert chosen == sorted(score >> 51 for score in self.ready.values())[: len(got)]
        assert [self.ready[one] >> 51 for one in got] == chosen
        for fair in FAIRS:
            line = sorted((score, one) for one, score in self.ready.items() if fair_of(one) == fair)
            mine = [one for one in got if fair_of(one) == fair]
            assert mine == [one for _, one in line[: len(mine)]]

    # -- the rules ------------------------------------------------------------------------------------------

    @initialize(begin=st.booleans())
    def begin(self, begin: bool) -> None:
        if begin:
            self.reset(b"one")

    @rule(wish=entries, meant=st.sampled_from(["any", "same", "other"]))
    def push(self, wish: list[tuple[int, int, int]], meant: str) -> None:
        given = [Entry(task(k), FAIRS[k % 3], band, EPOCH + at) for k, band, at in wish]
        generation = {"any": None, "same": self.generation, "other": b"other"}[meant]
        pushed = self.runner.run(self.index.push("q", given, generation))
        if not given:
            return
        before = len(self.ready)
        if self.generation is not None and meant != "other":
            self.ready |= {task(k): score_of(band, at) for k, band, at in wish}
        assert pushed.generation == self.generation
        assert pushed.added == len(self.ready) - before

    @rule(n=st.integers(0, 8), ended=picks, dropped=picks, given=picks, wait=st.booleans())
    def next(self, n: int, ended: list[int], dropped: list[int], given: list[int], wait: bool) -> None:
        confirm, drop, back = (
            [self.known[k] for k in p if k < len(self.known)] for p in (ended, dropped, given)
        )
        # The newest is what a worker most often speaks of.
        if self.known and len(ended) == 1:
            confirm = [self.known[-1]]
        answer = self.runner.run(
            self.index.next("q", n=n, worker=b"w", wait=wait, confirm=confirm, drop=drop, give_back=back)
        )
        assert answer.generation == self.generation
        if self.generation is None:
            assert not answer.reserved
            return
        assert (answer.filling, answer.paused) == (self.fill, self.paused)
        self._settle(confirm + drop, back)
        self._order(answer, 0 if self.paused else n)
        self._reserve(answer)
        if self.ready and not self.paused:
            assert answer.more

    @rule(n=st.integers(0, 4), fair=st.sampled_from(FAIRS), place=st.integers(0, 3))
    def take(self, n: int, fair: bytes, place: int) -> None:
        answer = self.runner.run(self.index.take("q", n=n, fair=fair, place=place))
        if self.generation is None:
            assert answer.generation is None
            return
        line = sorted((score, one) for one, score in self.ready.items() if fair_of(one) == fair)
        assert [r.id for r in answer.reserved] == [one for _, one in line[place : place + n]]
        self._reserve(answer)

    @rule(name=st.sampled_from([b"one", b"two"]))
    def reset(self, name: bytes) -> None:
        if self.generation is None:
            self.generation, self.fill = name, True
        assert self.runner.run(self.index.reset("q", name)) == self.generation

    @rule(name=st.sampled_from([b"one", b"two"]))
    def warm(self, name: bytes) -> None:
        assert self.runner.run(self.index.warm("q", name)) == (self.generation == name)
        self.fill = self.fill and self.generation != name

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @rule()
    def pause(self) -> None:
        if self.generation is not None:
            self.paused = not self.paused
            self.runner.run(
                raw(self.index, "HSET" if self.paused else "HDEL", "{}g", "paused", *["1"] * self.paused)
            )

    @rule(really=st.integers(0, 3))
    def flush(self, really: int = 0) -> None:
        """Every key of the queue goes; a quarter of the tries, so that states grow."""
        if really:
            return
        names = ["g", "v", "m", "i", *(f"{kind}{band}" for kind in "at" for band in range(4))]
        names += [f"r{fair.decode()}" for fair in FAIRS]
        self.runner.run(raw(self.index, "DEL", *("{}" + name for name in names)))
        self.generation, self.fill, self.paused = None, False, False
        self.ready, self.held = {}, {}

    # -- what must hold after every step --------------------------------------------------------------------

    @invariant()
    def the_server_holds_what_the_model_says(self) -> None:
        ready, held, active, expiry = self.runner.run(self._dump())
        assert ready == self.ready
        assert {one: value[:16] for one, value in held.items()} == {k: v.token for k, v in self.held.items()}
        assert expiry == {one: value.expiry for one, value in self.held.items()}
        for one, score in ready.items():
            assert fair_of(one) in active[score >> 51], "ready work that no worker would look at"

    async def _dump(self) -> tuple[dict[bytes, int], dict[bytes, bytes], list[set[bytes]], dict[bytes, int]]:
        ready: dict[bytes, int] = {}
        for fair in FAIRS:
            ready |= scores(await raw(self.index, "ZRANGE", "{}r" + fair.decode(), 0, -1, "WITHSCORES"))
        held = await raw(self.index, "HGETALL", "{}m")
        active = [set(await raw(self.index, "ZRANGE", f"{{}}a{band}", 0, -1)) for band in range(4)]
        return ready, held, active, scores(await raw(self.index, "ZRANGE", "{}v", 0, -1, "WITHSCORES"))


def scores(pairs: list[object]) -> dict[bytes, int]:
    """Members with their scores, as the driver returns them: flat or in pairs."""
    flat = [part for pair in pairs for part in (pair if isinstance(pair, tuple | list) else (pair,))]
    return {flat[k]: int(float(flat[k + 1])) for k in range(0, len(flat), 2)}


@pytest.mark.parametrize("index_engine", ["valkey", "redis"], indirect=True)
def test_the_scripts_agree_with_the_model(redis_url: str) -> None:
    """Random pushes, turns, takes, resets, flushes and waits, with stale settlements among them."""
    run_state_machine_as_test(
        lambda: Machine(redis_url),  # type: ignore[arg-type]  # a factory will do
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
