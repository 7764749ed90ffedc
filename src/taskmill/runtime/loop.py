"""The shell of a service loop: a timeout on each turn, backoff with jitter after a failure, an outage told once.

The work is `run_once`, which is called and tested apart from this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import structlog

from taskmill.errors import TaskmillError, Unavailable
from taskmill.model.backoff import LOOPS, OUTAGES, Backoff, loop_delay

log = structlog.get_logger(__name__)


async def wait_for_event(event: asyncio.Event, timeout: float) -> bool:
    """Waits for the event, at most `timeout` seconds; whether it is set."""
    try:
        await asyncio.wait_for(event.wait(), timeout)
    except TimeoutError:
        return event.is_set()
    return True


async def loop(
    name: str,
    run_once: Callable[[], Awaitable[float]],
    stop: asyncio.Event,
    *,
    timeout: float,
    wake: asyncio.Event | None = None,
    failed: Callable[[str], None] | None = None,
    rng: Random | None = None,
) -> None:
    """Calls `run_once` until `stop`; it returns the seconds until its next turn.

    A turn that takes longer than `timeout` seconds is cancelled. Any Exception is a failure: the next turn comes after
    a backoff of 0.1 to 64 s (5 s in an outage), and so is something in a turn that was cancelled by somebody else: it
    would end the loop without a word. `failed(name)` counts it; the log tells each outage once, and its end. `wake`,
    cleared here, starts the next turn early, but not after a failure. Cancelling the loop and other BaseExceptions come
    through.
    """
    chance = rng or Random()
    failures, said = 0, ""
    while not stop.is_set():
        if wake is not None:
            wake.clear()
        try:
            # Not wait_for: on Python 3.11 it swallows a cancel that comes together with the result.
            async with asyncio.timeout(timeout):
                delay = await run_once()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            failures += 1
            if failed is not None:
                failed(name)
            text = _text(error, timeout)
            if text != said:
                said = text
                log.warning(
                    "a loop fails, and tries again", loop=name, error=text, exc_info=_unexpected(error)
                )
            await wait_for_event(stop, loop_delay(failures, chance, backoff_of(error)))
            continue
        if failures:
            log.info("a loop works again", loop=name, failures=failures)
            failures, said = 0, ""
        if delay > 0:
            await _sleep(delay, stop, wake)
        else:
            await asyncio.sleep(0)


def backoff_of(error: BaseException) -> Backoff:
    """How a loop waits after it: not long for the end of an outage, longer and longer for what may be a bug."""
    return OUTAGES if isinstance(error, Unavailable | TimeoutError | OSError) else LOOPS


async def _sleep(delay: float, stop: asyncio.Event, wake: asyncio.Event | None) -> None:
    if wake is None:
        await wait_for_event(stop, delay)
        return
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(wake.wait())]
    try:
        await asyncio.wait(waits, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _cancelled() -> bool:
    """Whether it is the loop itself that is cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _text(error: BaseException, timeout: float) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"it took longer than {timeout:g} s"
    return f"{type(error).__name__}: {error}"


def _unexpected(error: BaseException) -> BaseException | None:
    """For its traceback: what no outage explains."""
    return None if isinstance(error, TaskmillError | TimeoutError | OSError) else error
