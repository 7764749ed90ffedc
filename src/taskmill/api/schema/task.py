"""Tasks in GraphQL: the types, and what may be asked."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Self

import strawberry

from taskmill.api.schema.context import Context, Info
from taskmill.api.schema.roles import PEOPLE, allow, open_to
from taskmill.api.schema.scalars import Json
from taskmill.api.schema.user import User
from taskmill.errors import BadUserInput
from taskmill.model.ids import id_text, parse_id
from taskmill.model.state import Priority, Status
from taskmill.model.task import QUEUE_NAME, TYPE_NAME
from taskmill.tasks import read
from taskmill.tasks.read import Filters, LogRow, RunRow, TaskView
from taskmill.tasks.row import TaskRow

PAGE_MOST: Final = 100
QUEUE: Final = re.compile(QUEUE_NAME)
TYPE: Final = re.compile(TYPE_NAME)

strawberry.enum(Status, name="TaskStatus", description="Where a task is.")
strawberry.enum(Priority, name="TaskPriority", description="CRITICAL goes first, LOW last.")


@open_to(*PEOPLE)
@strawberry.type(description="A line that a run logged.")
class TaskLog:
    id: strawberry.ID = strawberry.field(description="Where to go on: `after`.")
    message: str
    level: str
    fields: Json | None = strawberry.field(
        description="What the run logged with it.",
        metadata={"cost": 1},  # 8 KiB at most
    )
    created_at: datetime

    @classmethod
    def of(cls, row: LogRow) -> Self:
        return cls(
            id=strawberry.ID(id_text(row.id)),
            message=row.message,
            level=row.level,
            fields=None if row.fields is None else Json(row.fields),
            created_at=row.created_at,
        )


@open_to(*PEOPLE)
@strawberry.type(description="One run of a task.")
class TaskRun:
    key: strawberry.Private[tuple[bytes, int]]
    attempt: int
    outcome: str | None = strawberry.field(description="How it ended; null while it goes on.")
    error: str | None = strawberry.field(metadata={"cost": 2})
    error_type: str | None = strawberry.field(
        description="A code of Taskmill's, or the class of the exception that was raised."
    )
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None = strawberry.field(description="The worker's name, where it is still known.")

    @strawberry.field(
        description="Where the handler raised, from its own frame on; at most 16 KiB.", metadata={"cost": 2}
    )
    async def traceback(self, info: Info) -> str | None:
        return await info.context.loaders.tracebacks.load(self.key)

    @classmethod
    def of(cls, row: RunRow) -> Self:
        return cls(
            key=(row.task_id, row.fence),
            attempt=row.attempt,
            outcome=row.outcome,
            error=row.error,
            error_type=row.error_type,
            started_at=row.started_at,
            ended_at=row.ended_at,
            worker=row.worker,
        )


@open_to(*PEOPLE)
@strawberry.type
class Task:
    row: strawberry.Private[TaskView | TaskRow]
    id: strawberry.ID
    title: str
    type: str | None
    queue: str
    status: Status
    priority: Priority
    attempts: int
    max_retries: int = strawberry.field(description="It runs at most once more than this.")
    progress: float | None = strawberry.field(description="0 to 1, as the handler tells.")
    scheduled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = strawberry.field(description="Of the latest run.")
    completed_at: datetime | None
    cancel_requested_at: datetime | None

    @strawberry.field(metadata={"cost": 2})
    async def description(self, info: Info) -> str | None:
        return (await _texts(self.row, info)).description

    @strawberry.field(description="What the handler returned.")
    async def result(self, info: Info) -> Json | None:
        text = (await _texts(self.row, info)).result
        return None if text is None else Json(text)

    @strawberry.field(description="Why the last run that failed did so.", metadata={"cost": 2})
    async def error(self, info: Info) -> str | None:
        return (await _texts(self.row, info)).error

    @strawberry.field
    async def payload(self, info: Info) -> Json | None:
        text = await info.context.loaders.payloads.load(self.row.id)
        return None if text is None else Json(text)

    @strawberry.field
    async def user(self, info: Info) -> User | None:
        row = await info.context.loaders.users.load(self.row.user_id)
        return None if row is None else User.of(row)

    @strawberry.field(description="What its runs logged, oldest first.")
    async def logs(self, info: Info, limit: int = 100, after: strawberry.ID | None = None) -> list[TaskLog]:
        found = await info.context.loaders.logs(self.row.id, checked_limit(limit), position(after))
        return [TaskLog.of(row) for row in found]

    @strawberry.field(description="Its runs, newest first.")
    async def runs(self, info: Info, limit: int = 20) -> list[TaskRun]:
        found = await info.context.loaders.runs(self.row.id, checked_limit(limit))
        return [TaskRun.of(row) for row in found]

    @classmethod
    def of(cls, row: TaskView | TaskRow, context: Context) -> Self:
        retries = row.max_retries
        return cls(
            row=row,
            id=strawberry.ID(id_text(row.id)),
            title=row.title,
            type=row.type,
            queue=row.queue,
            status=row.status,
            priority=row.priority,
            attempts=row.attempts,
            max_retries=context.services.mill.options.policy.max_retries if retries is None else retries,
            progress=row.progress,
            scheduled_at=row.scheduled_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
            started_at=row.started_at,
            completed_at=row.completed_at,
            cancel_requested_at=row.cancel_requested_at,
        )


async def _texts(row: TaskView | TaskRow, info: Info) -> read.Texts | TaskRow:
    """A verb brought them along; a page did not."""
    if isinstance(row, TaskRow):
        return row
    # Deleted between two statements: a task without texts.
    return await info.context.loaders.texts.load(row.id) or read.Texts(None, None, None)


@open_to(*PEOPLE)
@strawberry.type(description="How many tasks are in each state: of the caller's tasks, of all for an ADMIN.")
class TaskStats:
    total: int
    pending: int
    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int


@strawberry.type
class TaskQueries:
    @strawberry.field(
        description="The caller's tasks (all for an ADMIN), newest first, at most 100 a page.",
        metadata=allow(*PEOPLE),
    )
    async def tasks(
        self,
        info: Info,
        status: Status | None = None,
        priority: Priority | None = None,
        type: str | None = None,
        queue: str | None = None,
        limit: int = 20,
        after: Annotated[
            strawberry.ID | None, strawberry.argument(description="The last task of the page before.")
        ] = None,
    ) -> list[Task]:
        context = info.context
        filters = Filters(context.viewer().owner, status, priority, checked_type(type), checked_queue(queue))
        most, start = checked_limit(limit), position(after)
        rows = await context.services.mill.db.read(lambda c: read.page(c, filters, limit=most, after=start))
        return [Task.of(row, context) for row in rows]

    @strawberry.field(
        description="A task; null when it is absent or another user's.", metadata=allow(*PEOPLE)
    )
    async def task(self, info: Info, id: strawberry.ID) -> Task | None:
        context = info.context
        owner, task_id = context.viewer().owner, parse_id(id)
        if task_id is None:
            return None
        row = await context.services.mill.db.read(lambda c: read.task(c, task_id, owner))
        return None if row is None else Task.of(row, context)

    @strawberry.field(metadata=allow(*PEOPLE))
    async def task_stats(self, info: Info) -> TaskStats:
        owner = info.context.viewer().owner
        numbers = await info.context.services.mill.db.snapshot(lambda c: read.stats(c, owner))
        return TaskStats(
            total=sum(numbers.values()), **{status.name.lower(): n for status, n in numbers.items()}
        )


def checked_limit(limit: int) -> int:
    if not 1 <= limit <= PAGE_MOST:
        raise BadUserInput(f"limit: 1 to {PAGE_MOST} is expected")
    return limit


def position(after: str | None) -> bytes | None:
    """An id as a place in the order: what it named may be gone by now."""
    if after is None:
        return None
    found = parse_id(after)
    if found is None:
        raise BadUserInput("after: the id of the last one seen is expected")
    return found


def checked_queue(queue: str | None) -> str | None:
    if queue is not None and not QUEUE.fullmatch(queue):
        raise BadUserInput(
            "queue: 1 to 64 letters, digits, '.', '_', '-' are expected, a letter or digit first"
        )
    return queue


def checked_type(type_: str | None) -> str | None:
    if type_ is not None and not TYPE.fullmatch(type_):
        raise BadUserInput(
            "type: 1 to 100 letters, digits, '.', '_', ':', '-' are expected, a letter or digit first"
        )
    return type_
