"""Keeps the embedded Valkey running for as long as the process does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from taskmill.errors import StartError
from taskmill.index.embedded import EmbeddedValkey
from taskmill.model.backoff import loop_delay
from taskmill.model.clock import boottime

log = structlog.get_logger(__name__)

STABLE: Final = 60.0
"""Seconds after which the embedded Valkey counts as healthy: its death starts the backoff anew."""


class EmbeddedIndex:
    """The embedded Valkey as a service: started again when it dies, as often as that takes: meanwhile SQL alone goes on.
    What it held is refilled from SQL."""

    name = "valkey"

    def __init__(self, valkey: EmbeddedValkey, folder: Path, rng: Random) -> None:
        self._valkey = valkey
        self._folder = folder
        self._rng = rng
        self._stop = asyncio.Event()
        self.url = ""

    async def start(self) -> None:
        self.url = await self._valkey.start(self._folder)

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        deaths, began = 0, boottime()
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                died = asyncio.create_task(self._valkey.died())
                await asyncio.wait((stopped, died), return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    died.cancel()
                    return
                deaths = 1 if boottime() - began > STABLE else deaths + 1
                log.warning(
                    "the embedded Valkey ended, and is started again", status=died.result(), deaths=deaths
                )
                began = await self._restart(stopped, deaths)
        finally:
            stopped.cancel()

    async def _restart(self, stopped: asyncio.Task[Any], tries: int) -> float:
        """Until it answers, or we are stopped; when that was, by `boottime()`."""
        while True:
            await asyncio.wait((stopped,), timeout=loop_delay(tries, self._rng))
            if self._stop.is_set():
                return boottime()
            try:
                await self.start()
            except (StartError, OSError) as error:
                tries += 1
                log.warning("the embedded Valkey does not start", error=str(error), tries=tries)
            else:
                return boottime()

    async def close(self) -> None:
        await self._valkey.stop()
