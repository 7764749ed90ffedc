"""Health for people and monitors: each part is asked, each answer is bounded in time.

up        it answers
degraded  it works without this part: tasks are dispatched from SQL alone
down      503

/live and /ready are for orchestrators, and ask nobody. An api that is up is ready: it answers UNAVAILABLE while SQL is
away, which says more than a Service without endpoints does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from starlette.requests import Request
from starlette.responses import Response

from taskmill.errors import TaskmillError
from taskmill.index.policy import Evicting
from taskmill.model.clock import boottime
from taskmill.tasks.mill import Mill

UP: Final = "up"
DEGRADED: Final = "degraded"
DOWN: Final = "down"

FRESH: Final = 1.0
"""Seconds that an answer holds: anybody may ask, as often as it likes."""

Report = dict[str, Any]

log = structlog.get_logger(__name__)


class Health:
    """The checks, as endpoints."""

    def __init__(self, mill: Mill, *, timeout: float = 2.0) -> None:
        self._mill = mill
        self._timeout = timeout
        self._asked: dict[str, tuple[float, asyncio.Task[Report]]] = {}

    async def live(self, request: Request) -> Response:
        """/live"""
        return Response("live\n", media_type="text/plain")

    async def ready(self, request: Request) -> Response:
        """/ready"""
        return Response("ready\n", media_type="text/plain")

    async def overall(self, request: Request) -> Response:
        """/health: both parts; as bad as the database, degraded without the index."""
        database, queue = await asyncio.gather(self.database(), self.queue())
        status = database["status"]
        if status == UP and queue["status"] != UP:
            status = DEGRADED
        return _response({"status": status, "details": {"database": database, "queue": queue}})

    async def of_database(self, request: Request) -> Response:
        """/health/database"""
        return _response(await self.database())

    async def of_queue(self, request: Request) -> Response:
        """/health/queue: without an index it is degraded, without the database down."""
        queue, database = await asyncio.gather(self.queue(), self.database())
        if database["status"] == DOWN:
            queue |= {"status": DOWN, "details": {"reason": "the database does not answer"}}
        return _response(queue)

    async def database(self) -> Report:
        return await self._fresh("database", self._database)

    async def queue(self) -> Report:
        return await self._fresh("queue", self._queue)

    async def _fresh(self, name: str, ask: Callable[[], Awaitable[Report]]) -> Report:
        """What the part answered, or will: it is asked once in FRESH seconds, and once at a time."""
        until, asked = self._asked.get(name, (0.0, None))
        if asked is None or (asked.done() and until <= boottime()):
            asked = asyncio.ensure_future(ask())
            self._asked[name] = (boottime() + FRESH, asked)
        return dict(await asyncio.shield(asked))

    async def _database(self) -> Report:
        db = self._mill.db

        async def check() -> Report:
            await db.read(lambda c: c.execute(_ONE).scalar_one(), timeout=self._timeout)
            pools = db.pools().values()
            in_use, size = sum(p.in_use for p in pools), sum(p.limit for p in pools)
            return {"kind": db.kind, "version": db.version, "in_use": in_use, "size": size}

        return await self._checked("database", check, DOWN)

    async def _queue(self) -> Report:
        index = self._mill.index
        if index is None:
            reason = "no index: tasks are dispatched from the database alone"
            return {"status": DEGRADED, "latencyMs": None, "details": {"reason": reason}}

        async def check() -> Report:
            found = await index.health()
            return {key: found[key] for key in ("server", "version", "warnings") if found.get(key)}

        return await self._checked("queue", check, DEGRADED)

    async def _checked(self, name: str, check: Callable[[], Awaitable[Report]], otherwise: str) -> Report:
        began = boottime()
        try:
            async with asyncio.timeout(self._timeout):
                details = await check()
        except Evicting as error:
            return {"status": otherwise, "latencyMs": _since(began), "details": {"reason": error.message}}
        except (TaskmillError, exc.SQLAlchemyError, OSError, TimeoutError) as error:
            # The reason may name hosts: it goes to the log.
            log.warning("health", part=name, status=otherwise, error=f"{type(error).__name__}: {error}"[:300])
            return {"status": otherwise, "latencyMs": _since(began), "details": {"reason": "no answer"}}
        return {"status": UP, "latencyMs": _since(began), "details": details}


_ONE: Final = sa.select(sa.literal(1))


def _since(began: float) -> float:
    return round((boottime() - began) * 1000, 3)


def _response(report: Report) -> Response:
    return Response(
        msgspec.json.encode(report), 503 if report["status"] == DOWN else 200, media_type="application/json"
    )
