"""Ctrl-C ends a command, once. A second one, wherever it hit the way out, would cut that short: the cursor stays hidden, a
loop is closed while it runs, a thread is waited for that was never told to end. So it is not heard."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

T = TypeVar("T")


def hear_once() -> None:
    """From here on the first Ctrl-C is a KeyboardInterrupt, and the last one heard. Not where it is ignored, as of a job
    in the background. In the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _first)


def _first(_number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


class Runner:
    """asyncio's: Ctrl-C cancels what runs, which ends in its own order, and comes out as KeyboardInterrupt."""

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if signal.getsignal(signal.SIGINT) is not _first:
            return self._runner.run(work)
        heard = False

        async def main() -> T:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None

            def cancel(_number: int, _frame: FrameType | None) -> None:
                nonlocal heard
                heard = True
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                loop.call_soon_threadsafe(task.cancel)

            signal.signal(signal.SIGINT, cancel)
            return await work

        try:
            result = self._runner.run(main())
        except asyncio.CancelledError:
            if not heard:
                raise
            raise KeyboardInterrupt from None
        finally:
            if not heard:
                signal.signal(signal.SIGINT, _first)
        if heard:  # it was done by then, and what comes after it is not wanted
            raise KeyboardInterrupt
        return result
