"""How long to wait before the next try: exponential, with full jitter, bounded.

Formula: uniform(0, min(cap, base * 2 ** (n - 1))) for the n-th try, the "full jitter" of M. Brooker, "Exponential
Backoff and Jitter" (AWS Architecture Blog, 2015). Full jitter spreads a mass failure evenly over the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounds in seconds."""

    base: float
    cap: float

    def ceiling(self, n: int) -> float:
        """The longest wait before try n (1 is the first wait). Never overflows, whatever n."""
        doublings = min(max(n, 1) - 1, 64)
        return min(self.cap, self.base * 2.0**doublings)

    def delay(self, n: int, rng: Random) -> float:
        return rng.uniform(0.0, self.ceiling(n))


LOOPS = Backoff(base=0.2, cap=64.0)
"""For service loops: use `loop_delay`, which never waits less than 100 ms."""
OUTAGES = Backoff(base=0.2, cap=5.0)
"""For a server that is away: to ask is cheap, and when it is back work waits for it."""


def loop_delay(n: int, rng: Random, of: Backoff = LOOPS) -> float:
    """Seconds a service loop waits after its n-th failure in a row: 0.1 to the cap."""
    return 0.1 + of.delay(n, rng) * (of.cap - 0.1) / of.cap
