"""Tests of programs that use Taskmill, without a server. Names are loaded when first used.

async with Bench(app) as bench:
    await sign_up("ann@example.com")                      # the code under test; it submits
    bench.assert_submitted(send_welcome, to="ann@example.com")
    await bench.drain()                                   # runs what is due, as a worker would
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskmill.testing.bench import Bench
    from taskmill.testing.inline import FakeContext, run_inline, run_inline_sync
    from taskmill.testing.job import Clock, Job, Line

__all__ = ["Bench", "Clock", "FakeContext", "Job", "Line", "run_inline", "run_inline_sync"]

_HOMES = {
    "Bench": "bench",
    "Clock": "job",
    "FakeContext": "inline",
    "Job": "job",
    "Line": "job",
    "run_inline": "inline",
    "run_inline_sync": "inline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskmill.testing' has no attribute {name!r}")
    return getattr(import_module(f"taskmill.testing.{_HOMES[name]}"), name)
