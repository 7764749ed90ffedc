"""The circuit breaker: one probe, jittered, that nothing stops but success."""

from __future__ import annotations

import pytest

from taskmill.errors import IndexUnavailable
from taskmill.index.breaker import Breaker
from tests.support import wait_until


class Probe:
    """Fails in the given ways, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)


async def test_it_opens_and_closes_by_itself() -> None:
    """After a failure calls are refused, with its reason, until the probe succeeds."""
    breaker = Breaker("x", Probe(IndexUnavailable("still away")))
    breaker.check()
    breaker.trip("gone")
    with pytest.raises(IndexUnavailable, match="gone"):
        breaker.check()
    await wait_until(lambda: not breaker.open)
    breaker.check()


async def test_a_broken_probe_tries_again() -> None:
    """An error nobody thought of does not leave the index switched off for good."""
    probe = Probe(ZeroDivisionError("surprise"))
    breaker = Breaker("x", probe)
    breaker.trip("gone")
    await wait_until(lambda: not breaker.open)
    assert probe.calls == 2


async def test_many_failures_start_one_probe() -> None:
    """A hundred callers that fail at once do not become a hundred probes."""
    probe = Probe()
    breaker = Breaker("x", probe)
    for _ in range(100):
        breaker.trip("gone")
    await wait_until(lambda: not breaker.open)
    assert probe.calls == 1


async def test_closing_ends_the_probe() -> None:
    """Nothing runs on after aclose, and a second one is fine."""
    probe = Probe()
    breaker = Breaker("x", probe)
    breaker.trip("gone")
    await breaker.aclose()
    await breaker.aclose()
    assert (breaker.open, probe.calls) == (False, 0)
