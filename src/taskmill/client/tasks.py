"""The client's calls about tasks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from taskmill.client import documents
from taskmill.client.core import PAGE, Calls, given, payload_json, priority_name, there, time_text
from taskmill.client.types import Task, TaskLog, TaskRun, TaskStats, TaskStatus, TaskSummary
from taskmill.errors import TaskCancelled, TaskFailed, Unavailable
from taskmill.model.state import Priority

POLL_LEAST, POLL_MOST, POLL_SHARE = 0.05, 2.0, 0.1
"""Seconds between two looks of `wait`: a share of the time that it took so far."""


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """One of `create_tasks`. `scheduled_at`: an aware datetime."""

    title: str
    type: str | None = None
    payload: Any = UNSET
    queue: str | None = None
    priority: Priority | str | None = None
    scheduled_at: datetime | None = None
    max_retries: int | None = None
    description: str | None = None

    def input(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["payload"] = payload_json(self.payload)
        fields["priority"] = priority_name(self.priority)
        fields["scheduled_at"] = time_text("scheduled_at", self.scheduled_at)
        return given(
            **{name: value for name, value in fields.items() if value is not None or name == "payload"}
        )


class TaskCalls(Calls):
    async def create_task(
        self,
        title: str,
        *,
        type: str | None = None,
        payload: Any = UNSET,
        queue: str | None = None,
        priority: Priority | str | None = None,
        scheduled_at: datetime | None = None,
        max_retries: int | None = None,
        description: str | None = None,
    ) -> Task:
        """Submits a task; what comes back is recorded for good.

        BadUserInput says what is wrong with a value. Unavailable: it is not known to be recorded, unless the message
        says that the API could not be reached.
        """
        task = NewTask(
            title=title,
            type=type,
            payload=payload,
            queue=queue,
            priority=priority,
            scheduled_at=scheduled_at,
            max_retries=max_retries,
            description=description,
        )
        return await self._mutate(documents.CREATE_TASK, Task, input=task.input())

    async def create_tasks(self, tasks: Sequence[NewTask]) -> list[TaskSummary]:
        """Submits at most 1,000 tasks, all or none of them, in one transaction."""
        return await self._mutate(
            documents.CREATE_TASKS, list[TaskSummary], inputs=[task.input() for task in tasks]
        )

    async def update_task(
        self,
        id: str,
        *,
        title: str | UnsetType = UNSET,
        description: str | UnsetType | None = UNSET,
        priority: Priority | str | UnsetType = UNSET,
        payload: Any = UNSET,
        scheduled_at: datetime | UnsetType | None = UNSET,
    ) -> Task:
        """Changes what is given, while the task is PENDING or QUEUED; else Conflict. `scheduled_at=None`: now."""
        changes = given(
            title=title,
            description=description,
            priority=UNSET if isinstance(priority, UnsetType) else priority_name(priority),
            payload=payload_json(payload),
            scheduled_at=UNSET
            if isinstance(scheduled_at, UnsetType)
            else time_text("scheduled_at", scheduled_at),
        )
        return await self._mutate(documents.UPDATE_TASK, Task, id=id, input=changes)

    async def cancel_task(self, id: str) -> Task:
        """Ends it as CANCELLED: at once, or when its run has stopped. Conflict when it has completed."""
        return await self._mutate(documents.CANCEL_TASK, Task, repeat=True, id=id)

    async def retry_task(self, id: str) -> Task:
        """Runs a FAILED or CANCELLED task again, with all its attempts; else Conflict."""
        return await self._mutate(documents.RETRY_TASK, Task, id=id)

    async def task(self, id: str) -> Task | None:
        """The task; None when it is absent or another user's."""
        return await self._find(documents.TASK, Task, id=id)

    async def tasks_page(
        self,
        *,
        status: TaskStatus | str | None = None,
        priority: Priority | str | None = None,
        type: str | None = None,
        queue: str | None = None,
        limit: int = PAGE,
        after: str | None = None,
    ) -> list[TaskSummary]:
        """At most 100 tasks, newest first, from the one after `after` on."""
        return await self._query(
            documents.TASKS,
            list[TaskSummary],
            status=status,
            priority=priority_name(priority),
            type=type,
            queue=queue,
            limit=limit,
            after=after,
        )

    async def tasks(
        self,
        *,
        status: TaskStatus | str | None = None,
        priority: Priority | str | None = None,
        type: str | None = None,
        queue: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[TaskSummary]:
        """Every task that fits, newest first, page by page as they are read; `limit` ends it."""
        after: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = await self.tasks_page(
                status=status, priority=priority, type=type, queue=queue, limit=size, after=after
            )
            for task in page:
                yield task
            if len(page) < size:
                return
            after = page[-1].id
            left = None if left is None else left - len(page)

    async def logs(self, id: str, *, limit: int = PAGE, after: str | None = None) -> list[TaskLog]:
        """What its runs logged, oldest first, at most 100 lines from the one after `after` on. NotFound."""
        found = await self._find(documents.LOGS, _Logs, id=id, limit=limit, after=after)
        return there(found, "task", id).logs

    async def runs(self, id: str, *, limit: int = 20) -> list[TaskRun]:
        """Its runs, newest first. NotFound."""
        found = await self._find(documents.RUNS, _Runs, id=id, limit=limit)
        return there(found, "task", id).runs

    async def stats(self) -> TaskStats:
        """How many tasks are in each state: the caller's, all for an ADMIN."""
        return await self._query(documents.STATS, TaskStats)

    async def wait(self, id: str, timeout: float | None = 60.0) -> Task:
        """The task when it has ended, however it did. TimeoutError after `timeout` seconds; the task goes on. NotFound.

        It looks again after a tenth of the time waited so far, at most 2 s: an end is seen that much later. An outage is
        sat out as long as the timeout allows; without one it is Unavailable as of any call.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        lost: Unavailable | None = None
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                while True:
                    try:
                        task = await self._ended(id)
                    except Unavailable as error:
                        if timeout is None:
                            raise
                        task, lost = None, error
                    else:
                        lost = None
                    if task is not None:
                        return task
                    pause = min(POLL_MOST, max(POLL_LEAST, POLL_SHARE * (loop.time() - start)))
                    await asyncio.sleep(pause * random.uniform(0.8, 1.2))
        except TimeoutError:
            if not limit.expired():
                raise
            why = f"nobody says how it is: {lost.message}" if lost else "it goes on"
            raise TimeoutError(f"task {id} has not ended after {timeout:g} s; {why}") from lost

    async def _ended(self, id: str) -> Task | None:
        """None while it goes on. NotFound."""
        found = await self._find(documents.STATUS, _Status, id=id)
        if not there(found, "task", id).status.final:
            return None
        task = there(await self.task(id), "task", id)
        return task if task.status.final else None  # a retry may have come in between

    async def result(self, id: str, timeout: float | None = 60.0) -> Any:
        """What the handler returned, when the task has COMPLETED. TaskFailed or TaskCancelled when it ended otherwise;
        else as `wait`."""
        task = await self.wait(id, timeout)
        if task.status is TaskStatus.CANCELLED:
            raise TaskCancelled(f"task {id} was cancelled", id=id)
        if task.status is TaskStatus.FAILED:
            raise TaskFailed(f"task {id} failed: {task.error or 'no reason was kept'}", id=id)
        return task.result


class _Status(msgspec.Struct):
    status: TaskStatus


class _Logs(msgspec.Struct):
    logs: list[TaskLog]


class _Runs(msgspec.Struct):
    runs: list[TaskRun]
