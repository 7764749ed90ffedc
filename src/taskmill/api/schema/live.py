"""Live updates in GraphQL: `taskUpdated`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Final

import strawberry

from taskmill.api.feed import Dropped, Ended
from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import PEOPLE, allow
from taskmill.api.schema.task import Task
from taskmill.api.schema.task_write import ABSENT
from taskmill.errors import NotFound, Unavailable
from taskmill.model.ids import parse_id

TRY_AGAIN: Final = 1013
"""WebSocket close code: try again later."""
GOING_AWAY: Final = 1012
"""WebSocket close code: the service restarts."""


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
        async with context.services.feed.subscribe(viewer.owner, only) as updates:
            try:
                async for row in updates:
                    viewer = await context.viewer_now()
                    if viewer.owner in (None, row.user_id):
                        yield Task.of(row, context)
            except (Dropped, Ended) as end:
                if context.socket is None:
                    raise Unavailable(end.message) from None
                code = TRY_AGAIN if isinstance(end, Dropped) else GOING_AWAY
                await context.socket.close(code, end.message)
