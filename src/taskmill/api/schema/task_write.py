"""Tasks in GraphQL: what may be done to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import strawberry

from taskmill.api.schema.context import Context, Info
from taskmill.api.schema.roles import PEOPLE, allow
from taskmill.api.schema.scalars import Json
from taskmill.api.schema.task import Task, checked_queue, checked_type
from taskmill.api.text import canonical, line, prose
from taskmill.errors import BadUserInput, NotFound, PayloadTooLarge
from taskmill.model.ids import parse_id
from taskmill.model.state import Priority
from taskmill.model.task import MAX_RETRIES_LIMIT, NewTask
from taskmill.tasks import cancel as cancelling
from taskmill.tasks import read
from taskmill.tasks import redrive as redriving
from taskmill.tasks import update as updating
from taskmill.tasks.mill import Mill
from taskmill.tasks.row import TaskRow

TITLE_MOST: Final = 255
DESCRIPTION_MOST: Final = 10_000
CREATE_MOST: Final = 1000
DEFAULT_QUEUE: Final = "default"
ABSENT: Final = "There is no such task."

T = TypeVar("T")


@strawberry.input
class CreateTaskInput:
    title: str = strawberry.field(description="1 to 255 characters.")
    description: str | None = strawberry.field(default=None, description="At most 10,000 characters.")
    type: str | None = strawberry.field(
        default=None, description="Which handler runs it; not given: payload.type when that is a string."
    )
    queue: str | None = strawberry.field(default=None, description="Not given: default.")
    priority: Priority | None = strawberry.field(default=None, description="Not given: NORMAL.")
    payload: Json | None = strawberry.field(
        default=None, description="An object of at most 256 KiB, 32 levels deep. Not given: {}."
    )
    scheduled_at: datetime | None = strawberry.field(
        default=None, description="When it may run first. Not given, or past: now."
    )
    max_retries: int | None = strawberry.field(default=None, description="0 to 1000.")


@strawberry.input(description="Fields that are not given stay as they are.")
class UpdateTaskInput:
    title: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    priority: Priority | None = strawberry.UNSET
    payload: Json | None = strawberry.UNSET
    scheduled_at: datetime | None = strawberry.field(default=strawberry.UNSET, description="null: now.")


@strawberry.type
class TaskMutations:
    @strawberry.mutation(metadata=allow(*PEOPLE))
    async def create_task(self, info: Info, input: CreateTaskInput) -> Task:
        context = info.context
        new = new_task(input, context.viewer().id)
        context.check_queue(new.queue)
        [row] = await context.services.submitter.submit([new])
        return Task.of(row, context)

    @strawberry.mutation(description="At most 1,000 tasks, all or none of them.", metadata=allow(*PEOPLE))
    async def create_tasks(self, info: Info, inputs: list[CreateTaskInput]) -> list[Task]:
        context = info.context
        new = new_tasks(context, inputs, context.viewer().id)
        return [Task.of(row, context) for row in await context.services.submitter.submit(new)]

    @strawberry.mutation(
        description="Only while it is PENDING or QUEUED, else CONFLICT.", metadata=allow(*PEOPLE)
    )
    async def update_task(self, info: Info, id: strawberry.ID, input: UpdateTaskInput) -> Task:
        changes = task_changes(input)
        return await _done(info, id, lambda mill, task, owner: updating.update(mill, task, owner, changes))

    @strawberry.mutation(
        description="Ends it as CANCELLED: at once, or when its run has stopped.", metadata=allow(*PEOPLE)
    )
    async def cancel_task(self, info: Info, id: strawberry.ID) -> Task:
        return await _done(info, id, cancelling.cancel)

    @strawberry.mutation(
        description="Runs a FAILED or CANCELLED task again, with all its attempts.", metadata=allow(*PEOPLE)
    )
    async def retry_task(self, info: Info, id: strawberry.ID) -> Task:
        return await _done(info, id, redriving.redrive)


async def _done(info: Info, id: str, verb: Callable[[Mill, bytes, bytes | None], Awaitable[TaskRow]]) -> Task:
    """A foreign task, an absent one and a malformed id are the same to the caller, word for word."""
    context = info.context
    owner, task_id = context.viewer().owner, parse_id(id)
    if task_id is None:
        raise NotFound(ABSENT)
    try:
        if context.bound:
            # A task stays in its queue, so looking before is as good as within the verb's transaction.
            found = await context.services.mill.db.read(lambda c: read.task(c, task_id, owner))
            if found is None:
                raise NotFound(ABSENT)
            context.check_queue(found.queue)
        row = await verb(context.services.mill, task_id, owner)
    except NotFound:
        raise NotFound(ABSENT) from None
    return Task.of(row, context)


def new_tasks(context: Context, inputs: Sequence[CreateTaskInput], user_id: bytes) -> list[NewTask]:
    """All of them, checked. BadUserInput or PayloadTooLarge name the item; Forbidden: a queue is not for who asks."""
    if not 1 <= len(inputs) <= CREATE_MOST:
        raise BadUserInput(f"inputs: 1 to {CREATE_MOST} tasks are expected")
    new = []
    for index, item in enumerate(inputs):
        try:
            new.append(new_task(item, user_id))
        except (BadUserInput, PayloadTooLarge) as error:
            raise type(error)(f"inputs[{index}].{error.message}") from None
        context.check_queue(new[-1].queue)
    return new


def new_task(given: CreateTaskInput, user_id: bytes) -> NewTask:
    """The input, checked. BadUserInput or PayloadTooLarge name the field."""
    payload: object = {} if given.payload is None else given.payload
    text = canonical(payload)
    retries = checked_retries(given.max_retries)
    return NewTask(
        user_id=user_id,
        title=line("title", given.title, TITLE_MOST),
        payload=text,
        description=_description(given.description),
        type=_type(given.type, payload),
        queue=checked_queue(given.queue) or DEFAULT_QUEUE,
        priority=Priority.NORMAL if given.priority is None else given.priority,
        scheduled_at=given.scheduled_at,
        max_retries=retries,
    )


def task_changes(given: UpdateTaskInput) -> updating.TaskChanges:
    """The input, checked. What was not given stays UNSET."""
    changes: dict[str, object] = {}
    if given.title is not strawberry.UNSET:
        changes["title"] = line("title", _needed("title", given.title), TITLE_MOST)
    if given.description is not strawberry.UNSET:
        changes["description"] = _description(given.description)
    if given.priority is not strawberry.UNSET:
        changes["priority"] = _needed("priority", given.priority)
    if given.payload is not strawberry.UNSET:
        changes["payload"] = canonical({} if given.payload is None else given.payload)
    if given.scheduled_at is not strawberry.UNSET:
        changes["scheduled_at"] = given.scheduled_at
    if not changes:
        raise BadUserInput("input: nothing to change is given")
    return updating.TaskChanges(**changes)  # type: ignore[arg-type]  # checked field by field above


def checked_retries(retries: int | None) -> int | None:
    if retries is not None and not 0 <= retries <= MAX_RETRIES_LIMIT:
        raise BadUserInput(f"maxRetries: 0 to {MAX_RETRIES_LIMIT} is expected")
    return retries


def _needed(name: str, value: T | None) -> T:
    if value is None:
        raise BadUserInput(f"{name}: null is not taken")
    return value


def _description(text: str | None) -> str | None:
    return None if text is None else prose("description", text, DESCRIPTION_MOST)


def _type(given: str | None, payload: object) -> str | None:
    """`input.type`, else `payload.type` when it is a string, else none."""
    if given is not None:
        return checked_type(given)
    inner = payload.get("type") if isinstance(payload, dict) else None
    return checked_type(inner) if isinstance(inner, str) else None
