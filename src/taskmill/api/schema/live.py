"""Live updates in GraphQL: `taskUpdated`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Final

import strawberry

from taskmill.api.feed import Dropped, Ended, Updates
from taskmill.api.schema.context import Context, Info
from taskmill.api.schema.roles import PEOPLE, allow
from taskmill.api.schema.task import Task
from taskmill.api.schema.task_write import ABSENT
from taskmill.errors import NotFound, RateLimited, Unauthenticated, Unavailable
from taskmill.model.ids import parse_id
from taskmill.tasks.read import TaskView

TRY_AGAIN: Final = 1013
"""WebSocket close code: try again later."""
GOING_AWAY: Final = 1012
"""WebSocket close code: the service restarts."""
FORBIDDEN: Final = 4403
"""WebSocket close code: the login does not hold, or no longer."""
WATCH: Final = 2.0
"""Seconds between two looks whether the login of a connection still holds."""
CONNECTIONS: Final = 1000
"""WebSockets and streams of one user that are open at once, in one process."""
CROWDED: Final = f"At most {CONNECTIONS} live connections of a user are taken."

_open: Final[Counter[bytes]] = Counter()
"""How many each user has."""


def enter(user: bytes) -> bool:
    """Counts one more connection of the user, until `leave`; False: there are too many."""
    if _open[user] >= CONNECTIONS:
        return False
    _open[user] += 1
    return True


def leave(user: bytes) -> None:
    _open[user] -= 1
    if not _open[user]:
        del _open[user]


@strawberry.type
class Subscription:
    @strawberry.subscription(
        description="Each change of the caller's tasks (all for an ADMIN), or of one task, whose state comes first. "
        "The last state of every task arrives, in order per task; states in between may be skipped.",
        metadata=allow(*PEOPLE),
    )
    async def task_updated(
        self,
        info: Info,
        task_id: Annotated[strawberry.ID | None, strawberry.argument(description="Only this task.")] = None,
    ) -> AsyncGenerator[Task, None]:
        context = info.context
        viewer = await context.viewer_now()
        only = None if task_id is None else parse_id(task_id)
        if task_id is not None and only is None:
            raise NotFound(ABSENT)
        async with (
            _counted(context, viewer.id),
            context.services.feed.subscribe(viewer.owner, only) as updates,
        ):
            try:
                while True:
                    row = await _next(context, updates)
                    viewer = await context.viewer_now()
                    if viewer.owner in (None, row.user_id):
                        yield Task.of(row, context)
            except (Dropped, Ended, Unauthenticated) as end:
                # Over SSE the last event tells it, over WebSocket the close code: raised, both are counted alike.
                if context.socket is not None:
                    await context.socket.close(_close_code(end), end.message)
                raise


def _close_code(end: Dropped | Ended | Unauthenticated) -> int:
    match end:
        case Dropped():
            return TRY_AGAIN
        case Ended():
            return GOING_AWAY
        case Unauthenticated():
            return FORBIDDEN


@asynccontextmanager
async def _counted(context: Context, user: bytes) -> AsyncIterator[None]:
    """A stream is a connection of its own; a WebSocket was counted when it began."""
    if context.socket is not None:
        yield
        return
    if not enter(user):
        raise RateLimited(CROWDED, 60)
    try:
        yield
    finally:
        leave(user)


async def _next(context: Context, updates: Updates) -> TaskView:
    """The next update; Unauthenticated once the login has ended, though nothing changes. A socket watches by itself."""
    while True:
        try:
            async with asyncio.timeout(WATCH if context.socket is None else None):
                return await anext(updates)
        except TimeoutError:
            with suppress(Unavailable):  # whether it holds cannot be told now: the next look may tell
                await context.viewer_now()
