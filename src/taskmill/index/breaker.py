"""A circuit breaker: after a failure calls fail at once, while one probe in the background finds out when it is over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from taskmill.errors import IndexUnavailable
from taskmill.runtime import logs

log = logs.get_logger(__name__)


class Breaker:
    """Closed: calls go through. Open: they raise IndexUnavailable, and nobody but the probe waits for the server.

    The probe runs after 0.1 s, then less and less often, every 5 s at most, with jitter.
    """

    def __init__(
        self, name: str, probe: Callable[[], Awaitable[object]], rng: random.Random | None = None
    ) -> None:
        self._name = name
        self._probe = probe
        self._rng = rng or random.Random()
        self._reason = ""
        self._task: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        return self._task is not None

    def check(self) -> None:
        """IndexUnavailable while open."""
        if self._task is not None:
            raise IndexUnavailable(f"the index is not available: {self._reason}")

    def trip(self, reason: str) -> None:
        """Opens it, and starts the probe; nothing when it is open already."""
        if self._task is None:
            self._reason = reason
            log.warning("index.lost", server=self._name, reason=reason)
            self._task = asyncio.get_running_loop().create_task(self._recover())

    async def aclose(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _recover(self) -> None:
        began, delay = time.monotonic(), 0.1
        while True:
            await asyncio.sleep(delay * self._rng.uniform(0.5, 1.0))
            try:
                await self._probe()
                break
            except IndexUnavailable as error:
                self._reason = error.message
            except Exception:
                # A probe that ended would leave the breaker open for good.
                log.exception("index.probe_broken", server=self._name)
            delay = min(delay * 2, 5.0)
        self._task = None
        log.info("index.back", server=self._name, seconds=round(time.monotonic() - began, 3))
