"""The client's calls about schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

import msgspec

from taskmill.client import documents
from taskmill.client.core import PAGE, Calls, given, payload_json, priority_name, there, time_text
from taskmill.client.types import (
    Fire,
    MisfireName,
    NextFire,
    OverlapName,
    PriorityName,
    Schedule,
    ScheduleSummary,
    Task,
)
from taskmill.model.state import Priority


class ScheduleOptions(TypedDict, total=False):
    """What a schedule may be given. What is not given: as the API says (`createSchedule`)."""

    timezone: str
    """A name of the IANA database, such as Europe/Berlin."""
    type: str | None
    title: str
    description: str | None
    payload: Any
    priority: Priority | PriorityName
    queue: str
    max_retries: int | None
    misfire: MisfireName
    overlap: OverlapName
    enabled: bool
    starts_at: datetime | None
    """Aware, as `ends_at`."""
    ends_at: datetime | None


class ScheduleChanges(ScheduleOptions, total=False):
    name: str
    cron: str


class ScheduleCalls(Calls):
    async def create_schedule(self, /, name: str, cron: str, **options: Unpack[ScheduleOptions]) -> Schedule:
        """Makes a task at the times of a cron expression of five fields.

        Conflict: the name is taken, or there are too many. BadUserInput says what is wrong with a value.
        """
        values = {"name": name, "cron": cron, **_input(options)}
        return await self._mutate(documents.CREATE_SCHEDULE, Schedule, input=values)

    async def update_schedule(self, /, id: str, **changes: Unpack[ScheduleChanges]) -> Schedule:
        """Changes what is given. What is due at this moment is dropped when its times change. NotFound, Conflict."""
        return await self._mutate(documents.UPDATE_SCHEDULE, Schedule, id=id, input=_input(changes))

    async def delete_schedule(self, id: str) -> Schedule:
        """Its tasks stay, its history does not. NotFound."""
        return await self._mutate(documents.DELETE_SCHEDULE, Schedule, id=id)

    async def pause_schedule(self, id: str) -> Schedule:
        """It does not fire until it is resumed."""
        return await self._mutate(documents.PAUSE_SCHEDULE, Schedule, repeat=True, id=id)

    async def resume_schedule(self, id: str) -> Schedule:
        """It fires again, from now on: what it missed is not made up for."""
        return await self._mutate(documents.RESUME_SCHEDULE, Schedule, id=id)

    async def run_schedule_now(self, id: str) -> Task:
        """A task of it at once, whatever its policies, paused or not."""
        return await self._mutate(documents.RUN_SCHEDULE_NOW, Task, id=id)

    async def schedule(self, id: str) -> Schedule | None:
        """The schedule; None when it is absent or another user's."""
        return await self._find(documents.SCHEDULE, Schedule, id=id)

    async def schedules_page(self, *, limit: int = PAGE, after: str | None = None) -> list[ScheduleSummary]:
        """At most 100 schedules, newest first, from the one after `after` on."""
        return await self._query(documents.SCHEDULES, list[ScheduleSummary], limit=limit, after=after)

    def schedules(self) -> AsyncIterator[ScheduleSummary]:
        """The caller's schedules (all for an ADMIN), newest first, page by page."""
        return self._walk(lambda after: self.schedules_page(after=after), PAGE)

    async def next_fires(self, id: str, n: int = 5) -> list[NextFire]:
        """When it fires next, if nobody changes it; at most 50. NotFound."""
        found = await self._find(documents.NEXT_FIRES, _NextFires, id=id, n=n)
        return there(found, "schedule", id).next_fires

    async def history(self, id: str, limit: int = 20) -> list[Fire]:
        """What it fired, newest first. NotFound."""
        return there(
            await self._find(documents.HISTORY, _History, id=id, limit=limit), "schedule", id
        ).history


class _NextFires(msgspec.Struct, rename="camel"):
    next_fires: list[NextFire]


class _History(msgspec.Struct):
    history: list[Fire]


def _input(options: Mapping[str, Any]) -> dict[str, Any]:
    """TypeError for a name that is none."""
    if unknown := options.keys() - ScheduleChanges.__annotations__.keys():
        raise TypeError(f"a schedule has no {', '.join(sorted(unknown))}")
    values = dict(options)
    for name in ("starts_at", "ends_at"):
        if name in values:
            values[name] = time_text(name, values[name])
    if "payload" in values:
        values["payload"] = payload_json(values["payload"])
    if "priority" in values:
        values["priority"] = priority_name(values["priority"])
    return given(**values)
