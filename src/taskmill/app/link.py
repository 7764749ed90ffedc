"""The way out of this process: one port for each event loop, and one loop in a thread for programs that have none.

A port is closed when its loop ends as `asyncio.run` ends one, or by `close`. After a fork the child makes its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from taskmill.app.context import current_run
from taskmill.errors import ConfigError
from taskmill.model.port import Port, connect, connector

T = TypeVar("T")
Key = tuple[asyncio.AbstractEventLoop, object]

KEPT: Final = 8
"""Ports of a loop: one, and those of connectors that were set meanwhile."""
LAST_WORDS: Final = 5.0
"""Seconds that a program that ends gives its thread to send what waits."""


class _Links:
    """Of this process. A connector that was changed (a test kit) gets a port of its own."""

    def __init__(self) -> None:
        self.ports: dict[Key, tuple[Port, AsyncGenerator[None, None]]] = {}
        self.opening: dict[Key, asyncio.Task[Port]] = {}
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.stop: Callable[[], object] | None = None
        self.thread: threading.Thread | None = None


_links = _Links()
_forgotten: Final[list[_Links]] = []
"""Of the parent, after a fork: to collect them would close connections that are still the parent's."""


async def port() -> Port:
    """The port of the running loop, made at need. ConfigError says what has to be set."""
    loop = asyncio.get_running_loop()
    key: Key = (loop, connector())
    held = _links.ports.get(key)
    if held is not None:
        return held[0]
    opening = _links.opening.get(key)
    if opening is None:
        opening = _links.opening[key] = loop.create_task(_open(key), name="taskmill:port")
        opening.add_done_callback(lambda done: _opened(key, done))
    return await asyncio.shield(opening)  # who is cancelled does not take it from the others


async def _open(key: Key) -> Port:
    for other in [k for k in list(_links.ports) if k[0].is_closed()]:  # other threads have loops too
        _links.ports.pop(other, None)
    others = [k for k in list(_links.ports) if k[0] is key[0]]
    if len(others) >= KEPT:
        await _links.ports[others[0]][1].aclose()
    in_run = current_run() is not None
    # By the settings it loads them and all that they name, which takes a while: not on a loop that serves others.
    made = _connected(in_run) if key[1] is not None else await asyncio.to_thread(_connected, in_run)
    keeper = _keep(key, made)
    _links.ports[key] = (made, keeper)
    await anext(keeper)
    return made


def _opened(key: Key, done: asyncio.Task[Port]) -> None:
    _links.opening.pop(key, None)
    if not done.cancelled():
        done.exception()  # who still waits has it


def now() -> datetime:
    """The present, in UTC (aware). A test kit's connector has a clock of its own, `.now()`."""
    clock: Callable[[], datetime] | None = getattr(connector(), "now", None)
    return datetime.now(UTC) if clock is None else clock()


def _connected(in_run: bool) -> Port:
    try:
        return connect()
    except ConfigError as error:
        if not in_run:
            raise
        # `submit` needs no port here, so this one wants to look at a task.
        raise ConfigError(
            f"a handler submits through its worker, but to wait for a task, look at it or cancel it: {error.message}"
        ) from None


async def close() -> None:
    """Closes the ports of the running loop. The next submit makes a new one."""
    loop = asyncio.get_running_loop()
    for key in [k for k in list(_links.ports) if k[0] is loop]:
        await _links.ports[key][1].aclose()


async def _keep(key: Key, made: Port) -> AsyncGenerator[None, None]:
    # The loop knows its generators that are not done, and ends them before it is closed: nobody has to call `close`.
    try:
        yield
    finally:
        _links.ports.pop(key, None)
        await made.close()


def refuse_on_loop(instead: str) -> None:
    """RuntimeError where an event loop runs: who would block it, is told what to write."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"this would block the event loop: use `await {instead}`")


def blocking(work: Callable[[], Coroutine[Any, Any, T]], instead: str) -> T:
    """Runs `work` on the loop of this process's own thread, and waits. RuntimeError inside a running loop."""
    refuse_on_loop(instead)
    future = asyncio.run_coroutine_threadsafe(work(), _background())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C while it waits
        raise


def _background() -> asyncio.AbstractEventLoop:
    with _links.lock:
        if _links.loop is None:
            started = threading.Event()
            _links.thread = threading.Thread(
                target=lambda: asyncio.run(_serve(started)), name="taskmill", daemon=True
            )
            _links.thread.start()
            started.wait()
        assert _links.loop is not None
        return _links.loop


async def _serve(started: threading.Event) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    _links.loop = loop
    _links.stop = partial(loop.call_soon_threadsafe, ended.set)
    started.set()
    await ended.wait()


def _at_exit() -> None:
    if _links.stop is not None and _links.thread is not None:
        _links.stop()
        _links.thread.join(LAST_WORDS)


def _after_fork() -> None:
    global _links  # noqa: PLW0603 (one a process)
    _forgotten.append(_links)
    _links = _Links()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
