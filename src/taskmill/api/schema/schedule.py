"""Schedules in GraphQL: the types, and what may be asked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Self

import strawberry

from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import PEOPLE, allow, open_to
from taskmill.api.schema.scalars import Json
from taskmill.api.schema.task import Task, checked_limit, position
from taskmill.api.schema.user import User
from taskmill.errors import BadUserInput
from taskmill.model.clock import to_utc
from taskmill.model.cron import Firing, Misfire, Overlap
from taskmill.model.ids import id_text, parse_id
from taskmill.model.state import Priority
from taskmill.tasks import schedules as reading
from taskmill.tasks.schedules import Fired, FireRow, ScheduleRow

PREVIEW_MOST: Final = 50

strawberry.enum(
    Misfire,
    description="What becomes of times that passed while no scheduler ran. SKIP: nothing. ONCE: one task for the latest "
    "of them, unless it is too long ago. ALL: a task for each, for the newest 100.",
)
strawberry.enum(
    Overlap,
    description="What a fire does while a task of an earlier one has not ended. ALLOW: it makes its task all the same. "
    "SKIP: it makes none. QUEUE: it waits for its turn. CANCEL_RUNNING: it cancels that task and makes its own.",
)
strawberry.enum(
    Fired,
    name="FireOutcome",
    description="SUBMITTED, RUN_NOW: a task was made. WAITING: it will be, when the one before has ended. MISSED, "
    "OVERLAPPED: there is none, by the policy. REFUSED: it could not be made.",
)


@open_to(*PEOPLE)
@strawberry.type(description="A time at which a schedule will fire.")
class NextFire:
    at: datetime
    local: str = strawberry.field(description="The same in the schedule's zone, with its offset.")
    note: str | None = strawberry.field(description="What a change of the clocks does to it, in words.")

    @classmethod
    def of(cls, firing: Firing) -> Self:
        return cls(at=firing.at, local=firing.local.isoformat(), note=firing.note)


@open_to(*PEOPLE)
@strawberry.type(description="A time at which a schedule fired.")
class Fire:
    nominal_at: datetime = strawberry.field(description="The time of the schedule.")
    at: datetime = strawberry.field(description="When it was seen to.")
    outcome: Fired
    task_id: strawberry.ID | None

    @classmethod
    def of(cls, row: FireRow) -> Self:
        task_id = None if row.task_id is None else strawberry.ID(id_text(row.task_id))
        return cls(nominal_at=row.nominal_at, at=row.at, outcome=row.outcome, task_id=task_id)


@open_to(*PEOPLE)
@strawberry.type(description="Makes a task again and again, at the times of a cron expression.")
class Schedule:
    row: strawberry.Private[ScheduleRow]
    id: strawberry.ID
    name: str
    cron: str
    timezone: str
    type: str | None
    title: str
    description: str | None
    priority: Priority
    queue: str
    max_retries: int | None = strawberry.field(description="null: as the handler or the installation says.")
    misfire: Misfire
    overlap: Overlap
    enabled: bool = strawberry.field(description="Whether it is not paused.")
    starts_at: datetime | None
    ends_at: datetime | None
    next_fire: datetime | None = strawberry.field(description="null: paused, or it never fires again.")
    last_fire: datetime | None = strawberry.field(
        description="The latest time that was seen to; history tells how."
    )
    waiting: int = strawberry.field(description="Fires that wait for their turn (overlap QUEUE).")
    declared_by: str | None = strawberry.field(
        description="The app that declares it: its next sync undoes changes."
    )
    created_at: datetime
    updated_at: datetime

    @strawberry.field(description="Of its tasks.")
    async def payload(self, info: Info) -> Json | None:
        text = self.row.payload
        if text is None:
            text = await info.context.loaders.schedule_payloads.load(self.row.id)
        return None if text is None else Json(text)

    @strawberry.field
    async def user(self, info: Info) -> User | None:
        row = await info.context.loaders.users.load(self.row.user_id)
        return None if row is None else User.of(row)

    @strawberry.field(description="The task that it made last; null when there is none, or no longer.")
    async def last_task(self, info: Info) -> Task | None:
        if self.row.last_task_id is None:
            return None
        found = await info.context.loaders.tasks.load(self.row.last_task_id)
        return None if found is None else Task.of(found, info.context)

    @strawberry.field(
        description="When it fires next, if nobody changes it (and, when it is paused, as if it were not); at most 50."
    )
    async def next_fires(self, info: Info, n: int = 5) -> list[NextFire]:
        if not 1 <= n <= PREVIEW_MOST:
            raise BadUserInput(f"n: 1 to {PREVIEW_MOST} is expected")
        # It computes for some milliseconds at most, and a page has a hundred schedules.
        return [NextFire.of(firing) for firing in await asyncio.to_thread(_upcoming, self.row, n)]

    @strawberry.field(description="What it fired, newest first; kept for 30 days, by default.")
    async def history(self, info: Info, limit: int = 20) -> list[Fire]:
        found = await info.context.loaders.fires(self.row.id, checked_limit(limit))
        return [Fire.of(row) for row in found]

    @classmethod
    def of(cls, row: ScheduleRow) -> Self:
        same = {name: getattr(row, name) for name in _SAME}
        return cls(
            row=row,
            id=strawberry.ID(id_text(row.id)),
            next_fire=row.next_at,
            last_fire=row.last_at,
            declared_by=row.declared,
            **same,
        )


_SAME: Final = (
    "name",
    "cron",
    "timezone",
    "type",
    "title",
    "description",
    "priority",
    "queue",
    "max_retries",
    "misfire",
    "overlap",
    "enabled",
    "starts_at",
    "ends_at",
    "waiting",
    "created_at",
    "updated_at",
)


def _upcoming(row: ScheduleRow, n: int) -> list[Firing]:
    since = to_utc(datetime.now(UTC))
    if row.starts_at is not None:
        since = max(since, row.starts_at)
    start = since if row.next_at is None else row.next_at  # by the database's clock
    try:
        found = row.rule().upcoming(start - timedelta(microseconds=1), n, since)
    except ValueError:  # its zone is no longer known: it does not fire
        return []
    return [firing for firing in found if row.ends_at is None or firing.at <= row.ends_at]


@strawberry.type
class ScheduleQueries:
    @strawberry.field(
        description="The caller's schedules (all for an ADMIN), newest first, at most 100 a page.",
        metadata=allow(*PEOPLE),
    )
    async def schedules(
        self,
        info: Info,
        limit: int = 20,
        after: Annotated[
            strawberry.ID | None, strawberry.argument(description="The last schedule of the page before.")
        ] = None,
    ) -> list[Schedule]:
        context = info.context
        owner, most, start = context.viewer().owner, checked_limit(limit), position(after)
        rows = await context.services.mill.db.read(lambda c: reading.page(c, owner, limit=most, after=start))
        return [Schedule.of(row) for row in rows]

    @strawberry.field(
        description="A schedule; null when it is absent or another user's.", metadata=allow(*PEOPLE)
    )
    async def schedule(self, info: Info, id: strawberry.ID) -> Schedule | None:
        context = info.context
        owner, schedule_id = context.viewer().owner, parse_id(id)
        if schedule_id is None:
            return None
        row = await context.services.mill.db.read(lambda c: reading.one_schedule(c, schedule_id, owner))
        return None if row is None else Schedule.of(row)
