"""An app whose handlers do what none should (tests/e2e/test_abuse.py)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from taskmill import Context, Taskmill

app = Taskmill()


def circle() -> Any:
    values: list[Any] = []
    values.append(values)
    return values


def deep() -> Any:
    value: Any = 0
    for _ in range(100_000):
        value = [value]
    return value


RETURNED: dict[str, Callable[[], Any]] = {
    "set": lambda: {1, 2},
    "bytes": lambda: b"x",
    "NaN": lambda: math.nan,
    "infinity": lambda: [math.inf],
    "circle": circle,
    "deep": deep,
    "large": lambda: "x" * 10_000_000,
    "object": object,
    "surrogate": lambda: "\ud800",
    "keys": lambda: {(1, 2): 3},
}


@app.task("RETURNS", max_retries=0)
async def returns(ctx: Context, payload: dict[str, Any]) -> Any:
    return RETURNED[payload["what"]]()


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "BaseException": lambda: BaseException("base"),
    "Mute": Mute,
    "RecursionError": lambda: RecursionError("x" * 10_000_000),
    "ValueError": lambda: ValueError("\x1b[31m\r\n\x00" * 100_000),
}


@app.task("RAISES", max_retries=0)
async def raises(ctx: Context, payload: dict[str, Any]) -> None:
    error = RAISED[payload["what"]]()
    raise error


@app.task("RAISES_IN_A_THREAD", max_retries=0)
def raises_in_a_thread(ctx: Context, payload: dict[str, Any]) -> None:
    error = RAISED[payload["what"]]()
    raise error


@app.task("WELL")
async def well(ctx: Context, payload: dict[str, Any]) -> str:
    return "well"
