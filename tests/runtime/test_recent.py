"""A mapping that forgets."""

from __future__ import annotations

from taskmill.runtime.recent import Recent


def test_recent_forgets_the_oldest() -> None:
    """Bounded, by use."""
    recent: Recent[int, int] = Recent(2)
    for n in (1, 2):
        recent.put(n, n)
    assert recent.get(1) == 1
    recent.put(3, 3)
    assert (recent.get(1), recent.get(2), recent.get(3)) == (1, None, 3)
    recent.forget(3)
    assert recent.get(3) is None
