"""Backoff: bounded, jittered, and no number too large."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from taskmill.model.backoff import LOOPS, OUTAGES, Backoff, loop_delay

bounds = st.tuples(st.floats(0.001, 60), st.floats(0.001, 1e5))


@given(bounds, st.integers(-5, 10_000), st.randoms(use_true_random=False))
def test_a_delay_is_between_zero_and_the_cap(pair: tuple[float, float], n: int, rng: Random) -> None:
    """Also at the 10,000th try: 2**n is never built."""
    base, cap = pair
    assert 0 <= Backoff(base, cap).delay(n, rng) <= cap


@given(bounds, st.integers(1, 10_000))
def test_the_ceiling_never_shrinks(pair: tuple[float, float], n: int) -> None:
    """More failures never mean a shorter window."""
    backoff = Backoff(*pair)
    assert backoff.ceiling(n) <= backoff.ceiling(n + 1)


def test_the_window_doubles_up_to_the_cap() -> None:
    """The n-th ceiling is base * 2 ** (n - 1), then the cap."""
    assert [Backoff(1.0, 10.0).ceiling(n) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_jitter_is_full() -> None:
    """A mass failure spreads over the whole window: every tenth of it gets its part."""
    rng = Random(1)
    tenths = {int(Backoff(1.0, 100.0).delay(30, rng) / 10) for _ in range(1000)}
    assert tenths >= set(range(10))


@given(st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_a_loop_waits_between_100_ms_and_64_s(n: int, rng: Random) -> None:
    """A service loop that fails never spins, and never sleeps for good; in an outage it looks again within 5 s."""
    assert 0.1 <= loop_delay(n, rng) <= LOOPS.cap
    assert 0.1 <= loop_delay(n, rng, OUTAGES) <= OUTAGES.cap == 5.0
