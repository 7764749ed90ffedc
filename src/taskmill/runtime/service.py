"""Long-lived parts of a process, all with one contract: `run` until stopped; the death of one stops all.

await run_services([store, api, scheduler, worker], signals=True)
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Protocol

import structlog

from taskmill.errors import ConfigError, StartError, TaskmillError

log = structlog.get_logger(__name__)

GRACE = 60.0
"""Seconds that a service may take to stop; then it is cancelled."""


class Service(Protocol):
    """`run` returns after `stop`; returning by itself, or raising, is its death.

    `stop` returns at once, may come before `run`, and may come again: the second time says to skip what can be skipped.
    """

    @property
    def name(self) -> str: ...
    async def run(self) -> None: ...
    def stop(self) -> None: ...


class Group:
    """Services that live and die together. It is a Service itself."""

    def __init__(self, services: Sequence[Service], *, name: str = "services", grace: float = GRACE) -> None:
        self.name = name
        self._services = tuple(services)
        self._grace = grace
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Stops them in reverse order, each when the one after it has ended. Again: tells all that are left to hurry."""
        if self._stop.is_set():
            for service in self._services:
                service.stop()
        self._stop.set()

    async def run(self) -> None:
        """Until `stop`, or the death of one: then the others stop, and its error is raised (StartError without one)."""
        tasks = [asyncio.create_task(service.run(), name=service.name) for service in self._services]
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((stop, *tasks), return_when=asyncio.FIRST_COMPLETED)
            first = None if self._stop.is_set() else next((task for task in tasks if task.done()), None)
            death = None if first is None else _death(first)
            self._stop.set()
            errors = await self._end(tasks, told=death)
        finally:
            stop.cancel()
            await _cancel(tasks)
        if death is not None:
            raise death
        if errors:
            raise errors[0]

    async def _end(
        self, tasks: list[asyncio.Task[None]], *, told: BaseException | None
    ) -> list[BaseException]:
        """Stops what still runs, last first; the errors of all. That of the death is told already."""
        errors = []
        for service, task in zip(reversed(self._services), reversed(tasks), strict=True):
            if not task.done():
                service.stop()
                await asyncio.wait((task,), timeout=self._grace)
            if not task.done():
                log.error("a service did not stop in time", service=service.name, seconds=self._grace)
                await _cancel([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                if error is not told:
                    log.error(
                        "a service failed",
                        service=service.name,
                        error=str(error),
                        exc_info=_unexpected(error),
                    )
                errors.append(error)
        return errors


async def run_services(services: Sequence[Service], *, signals: bool = True, grace: float = GRACE) -> int:
    """Runs them until SIGTERM or SIGINT, or until one dies (its error is raised). A second signal is the second `stop`.

    The number of the first signal, 0 when there was none.

    Call it in the main thread when `signals` is set.
    """
    group = Group(services, grace=grace)
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT) if signals else ()
    got: list[int] = []

    def received(number: int) -> None:
        got.append(number)
        if len(got) == 1:
            log.info("stopping: what is running may finish; a second signal does not wait for it")
        group.stop()

    for number in numbers:
        loop.add_signal_handler(number, received, number)
    try:
        await group.run()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    if got:
        log.info("stopped")
    return got[0] if got else 0


def _death(task: asyncio.Task[None]) -> BaseException:
    if task.cancelled():
        error: BaseException = StartError(f"{task.get_name()} was cancelled")
    else:
        error = task.exception() or StartError(f"{task.get_name()} ended without being asked to")
    if not isinstance(error, ConfigError):  # the user's to put right: the command says it in its one line
        log.error(
            "a service ended, and with it the process",
            service=task.get_name(),
            error=str(error),
            exc_info=_unexpected(error),
        )
    return error


def _unexpected(error: BaseException) -> BaseException | None:
    """For its traceback: what is no error of ours is a bug."""
    return None if isinstance(error, TaskmillError) else error


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
