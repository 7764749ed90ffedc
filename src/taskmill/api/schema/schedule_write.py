"""Schedules in GraphQL: what may be done to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import strawberry

from taskmill.api.schema.context import Info
from taskmill.api.schema.roles import PEOPLE, allow
from taskmill.api.schema.scalars import Json
from taskmill.api.schema.schedule import Schedule
from taskmill.api.schema.task import Task, checked_queue, checked_type
from taskmill.api.schema.task_write import (
    DEFAULT_QUEUE,
    DESCRIPTION_MOST,
    TITLE_MOST,
    CreateTaskInput,
    checked_retries,
    new_task,
)
from taskmill.api.text import canonical, line, prose
from taskmill.errors import BadUserInput, NotFound
from taskmill.model.cron import Misfire, Overlap, parse
from taskmill.model.ids import parse_id
from taskmill.model.state import Priority
from taskmill.tasks import schedules as writing
from taskmill.tasks.mill import Mill
from taskmill.tasks.run_now import run_now
from taskmill.tasks.schedules import ABSENT, NewSchedule, ScheduleChanges

NAME_MOST: Final = 100
UTC: Final = "UTC"
_CRON: Final = "Five fields: minute, hour, day of month, month, day of week."
_ZONE: Final = "A name of the IANA database, such as Europe/Berlin."

T = TypeVar("T")


@strawberry.input
class CreateScheduleInput:
    name: str = strawberry.field(description="1 to 100 characters; its user has no other of that name.")
    cron: str = strawberry.field(description=_CRON)
    timezone: str | None = strawberry.field(default=None, description=f"{_ZONE} Not given: UTC.")
    type: str | None = strawberry.field(
        default=None, description="Which handler runs its tasks; not given: payload.type."
    )
    title: str | None = strawberry.field(default=None, description="Of its tasks. Not given: its name.")
    description: str | None = strawberry.field(default=None, description="Of its tasks.")
    payload: Json | None = strawberry.field(
        default=None, description="Of its tasks: an object of at most 256 KiB."
    )
    priority: Priority | None = strawberry.field(default=None, description="Not given: NORMAL.")
    queue: str | None = strawberry.field(default=None, description="Not given: default.")
    max_retries: int | None = strawberry.field(default=None, description="0 to 1000.")
    misfire: Misfire | None = strawberry.field(default=None, description="Not given: ONCE.")
    overlap: Overlap | None = strawberry.field(default=None, description="Not given: ALLOW.")
    enabled: bool | None = strawberry.field(default=None, description="Not given: true.")
    starts_at: datetime | None = strawberry.field(default=None, description="It does not fire before.")
    ends_at: datetime | None = strawberry.field(default=None, description="It does not fire after.")


@strawberry.input(description="Fields that are not given stay as they are.")
class UpdateScheduleInput:
    name: str | None = strawberry.UNSET
    cron: str | None = strawberry.UNSET
    timezone: str | None = strawberry.UNSET
    type: str | None = strawberry.UNSET
    title: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    payload: Json | None = strawberry.UNSET
    priority: Priority | None = strawberry.UNSET
    queue: str | None = strawberry.UNSET
    max_retries: int | None = strawberry.UNSET
    misfire: Misfire | None = strawberry.UNSET
    overlap: Overlap | None = strawberry.UNSET
    enabled: bool | None = strawberry.UNSET
    starts_at: datetime | None = strawberry.UNSET
    ends_at: datetime | None = strawberry.UNSET


@strawberry.type
class ScheduleMutations:
    @strawberry.mutation(
        description="CONFLICT when the name is taken, or there are too many.", metadata=allow(*PEOPLE)
    )
    async def create_schedule(self, info: Info, input: CreateScheduleInput) -> Schedule:
        context = info.context
        new = new_schedule(input, context.viewer().id)
        context.check_queue(new.queue)
        return Schedule.of(await writing.create(context.services.mill, new))

    @strawberry.mutation(
        description="A new cron, timezone, startsAt or endsAt counts from now on: what is due at this moment, or was "
        "missed, is dropped.",
        metadata=allow(*PEOPLE),
    )
    async def update_schedule(self, info: Info, id: strawberry.ID, input: UpdateScheduleInput) -> Schedule:
        changes = schedule_changes(input)
        if isinstance(changes.queue, str):
            info.context.check_queue(changes.queue)
        return Schedule.of(await _done(info, id, lambda m, s, o: writing.change(m, s, o, changes)))

    @strawberry.mutation(description="Its tasks stay, its history does not.", metadata=allow(*PEOPLE))
    async def delete_schedule(self, info: Info, id: strawberry.ID) -> Schedule:
        return Schedule.of(await _done(info, id, writing.delete))

    @strawberry.mutation(description="It does not fire until it is resumed.", metadata=allow(*PEOPLE))
    async def pause_schedule(self, info: Info, id: strawberry.ID) -> Schedule:
        paused = ScheduleChanges(enabled=False)
        return Schedule.of(await _done(info, id, lambda m, s, o: writing.change(m, s, o, paused)))

    @strawberry.mutation(
        description="It fires again, from now on: what it missed is not made up for.", metadata=allow(*PEOPLE)
    )
    async def resume_schedule(self, info: Info, id: strawberry.ID) -> Schedule:
        resumed = ScheduleChanges(enabled=True)
        return Schedule.of(await _done(info, id, lambda m, s, o: writing.change(m, s, o, resumed)))

    @strawberry.mutation(
        description="A task of it at once, whatever its policies, paused or not.", metadata=allow(*PEOPLE)
    )
    async def run_schedule_now(self, info: Info, id: strawberry.ID) -> Task:
        return Task.of(await _done(info, id, run_now), info.context)


async def _done(info: Info, id: str, verb: Callable[[Mill, bytes, bytes | None], Awaitable[T]]) -> T:
    """A foreign schedule, an absent one and a malformed id are the same to the caller, word for word."""
    context = info.context
    owner, schedule_id = context.viewer().owner, parse_id(id)
    if schedule_id is None:
        raise NotFound(ABSENT)
    if context.bound:
        found = await context.services.mill.db.read(lambda c: writing.one_schedule(c, schedule_id, owner))
        if found is None:
            raise NotFound(ABSENT)
        context.check_queue(found.queue)
    return await verb(context.services.mill, schedule_id, owner)


def new_schedule(given: CreateScheduleInput, user_id: bytes) -> NewSchedule:
    """The input, checked. BadUserInput or PayloadTooLarge name the field."""
    name = line("name", given.name, NAME_MOST)
    cron, zone = _rule(given.cron, UTC if given.timezone is None else given.timezone)
    task = new_task(
        CreateTaskInput(
            title=name if given.title is None else given.title,
            description=given.description,
            type=given.type,
            queue=given.queue,
            priority=given.priority,
            payload=given.payload,
            max_retries=given.max_retries,
        ),
        user_id,
    )
    return NewSchedule(
        user_id=user_id,
        name=name,
        cron=cron,
        timezone=zone,
        title=task.title,
        payload=task.payload,
        description=task.description,
        type=task.type,
        priority=task.priority,
        queue=task.queue,
        max_retries=task.max_retries,
        misfire=Misfire.ONCE if given.misfire is None else given.misfire,
        overlap=Overlap.ALLOW if given.overlap is None else given.overlap,
        enabled=given.enabled is not False,
        starts_at=given.starts_at,
        ends_at=given.ends_at,
    )


def _rule(cron: str, zone: str) -> tuple[str, str]:
    """Both, checked together; the expression in capitals, with single blanks."""
    try:
        rule = parse(cron, zone)
    except ValueError as error:
        raise BadUserInput(str(error)) from None
    return rule.expression, rule.zone


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "name": lambda v: line("name", v, NAME_MOST),
    "cron": lambda v: _rule(v, UTC)[0],
    "timezone": lambda v: _rule("* * * * *", v)[1],
    "type": checked_type,
    "title": lambda v: line("title", v, TITLE_MOST),
    "description": lambda v: None if v is None else prose("description", v, DESCRIPTION_MOST),
    "payload": lambda v: canonical({} if v is None else v),
    "priority": lambda v: v,
    "queue": lambda v: checked_queue(v) or DEFAULT_QUEUE,
    "max_retries": checked_retries,
    "misfire": lambda v: v,
    "overlap": lambda v: v,
    "enabled": lambda v: v,
    "starts_at": lambda v: v,
    "ends_at": lambda v: v,
}
_NULLABLE: Final = frozenset(
    {"type", "description", "payload", "queue", "max_retries", "starts_at", "ends_at"}
)


def schedule_changes(given: UpdateScheduleInput) -> ScheduleChanges:
    """The input, checked. What was not given stays UNSET."""
    changes: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        value = getattr(given, name)
        if value is strawberry.UNSET:
            continue
        if value is None and name not in _NULLABLE:
            raise BadUserInput(f"{name}: null is not taken")
        changes[name] = check(value)
    if not changes:
        raise BadUserInput("input: nothing to change is given")
    return ScheduleChanges(**changes)
