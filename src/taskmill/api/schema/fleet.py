"""Workers and queues in GraphQL."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

import strawberry

from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import PEOPLE, allow, open_to
from taskmill.api.schema.task import checked_limit, checked_queue, position
from taskmill.api.users import Role
from taskmill.model.ids import id_text
from taskmill.model.state import Status
from taskmill.tasks import fleet
from taskmill.tasks.fleet import QueueRow, WorkerRow


@open_to(Role.ADMIN)
@strawberry.type(description="A worker that lives: one that was not seen for a while is listed no longer.")
class Worker:
    id: strawberry.ID = strawberry.field(description="Of this start of it.")
    name: str
    host: str
    queues: list[str]
    types: list[str] = strawberry.field(
        description="What it has handlers for; an empty text: for tasks without a type."
    )
    slots: int = strawberry.field(description="Tasks that it runs at a time.")
    running: int = strawberry.field(description="Tasks that it holds now.")
    version: str
    started_at: datetime
    last_seen: datetime

    @classmethod
    def of(cls, row: WorkerRow) -> Self:
        return cls(
            id=strawberry.ID(id_text(row.boot_id)),
            name=row.name,
            host=row.host,
            queues=list(row.queues),
            types=list(row.types),
            slots=row.slots,
            running=row.running,
            version=row.version,
            started_at=row.started_at,
            last_seen=row.last_seen,
        )


@open_to(*PEOPLE)
@strawberry.type(
    description="How many tasks of a queue are in each state: of the caller's, of all for an ADMIN."
)
class Queue:
    name: str
    pending: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    oldest_waiting_at: datetime | None = strawberry.field(
        description="Since when the longest waiting QUEUED task waits; null when none does, or when 500 others of its "
        "priority wait longer, in any queue."
    )
    workers: int = strawberry.field(description="Live workers that serve it.")

    @classmethod
    def of(cls, row: QueueRow) -> Self:
        numbers = {status.name.lower(): row.numbers[status] for status in Status}
        return cls(name=row.name, oldest_waiting_at=row.oldest, workers=row.workers, **numbers)


@strawberry.type
class FleetQueries:
    @strawberry.field(description="The live workers, at most 100 a page.", metadata=allow(Role.ADMIN))
    async def workers(
        self,
        info: Info,
        limit: int = 100,
        after: Annotated[
            strawberry.ID | None, strawberry.argument(description="The last worker of the page before.")
        ] = None,
    ) -> list[Worker]:
        most, start, mill = checked_limit(limit), position(after), info.context.services.mill
        ttl = mill.options.worker_ttl
        rows = await mill.db.read(lambda c: fleet.live_workers(c, ttl, limit=most, after=start))
        return [Worker.of(row) for row in rows]

    @strawberry.field(
        description="The queues that hold tasks of the caller (of anybody for an ADMIN) or that a live worker serves, by "
        "name, at most 100 a page.",
        metadata=allow(*PEOPLE),
    )
    async def queues(
        self,
        info: Info,
        limit: int = 100,
        after: Annotated[
            str | None, strawberry.argument(description="The name of the last queue of the page before.")
        ] = None,
    ) -> list[Queue]:
        owner, mill = info.context.viewer().owner, info.context.services.mill
        most, start, ttl = checked_limit(limit), checked_queue(after), mill.options.worker_ttl
        rows = await mill.db.snapshot(lambda c: fleet.queues(c, ttl, owner, limit=most, after=start))
        return [Queue.of(row) for row in rows]
