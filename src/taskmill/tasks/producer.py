"""Submitting straight to SQL and Redis: for programs that have DATABASE_URL. An outage of the API does not stop them.

Nothing is opened before the first call. What a call cannot have now is Unavailable, and the next one tries again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from sqlalchemy.engine import Connection

from taskmill.errors import NotFound, StartError, Unavailable
from taskmill.model.clock import boottime
from taskmill.model.ids import id_text, parse_id
from taskmill.model.port import Draft, Seen
from taskmill.model.state import TERMINAL
from taskmill.model.task import NewTask
from taskmill.sql.engine import is_transient
from taskmill.tasks import cancel, read
from taskmill.tasks.mill import Mill
from taskmill.tasks.service import service_user
from taskmill.tasks.submit import Submitter

CHECK_EVERY: Final = 60.0
"""Seconds for which a program that goes on submitting does not look whether its user was disabled."""
Opener = Callable[[AsyncExitStack], Awaitable[tuple[Mill, Submitter]]]
ABSENT: Final = "There is no such task."


class Producer:
    """A `model.port.Port`. `opener` opens the record and the index, and leaves on the stack how they are closed."""

    def __init__(self, opener: Opener, service_name: str) -> None:
        self._opener = opener
        self._service_name = service_name
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._parts: tuple[Mill, Submitter, bytes] | None = None
        self._checked = 0.0

    async def submit(self, drafts: Sequence[Draft]) -> list[str]:
        mill, submitter, user = await self._opened()
        if boottime() > self._checked + CHECK_EVERY:
            user = await self._service_user(mill)
            self._parts = (mill, submitter, user)
        rows = await submitter.submit([new_task(draft, user) for draft in drafts])
        return [id_text(row.id) for row in rows]

    async def look(self, id: str) -> Seen:
        mill, _, _ = await self._opened()
        task_id = parse_id(id)

        def work(connection: Connection) -> Seen | None:
            task = None if task_id is None else read.task(connection, task_id, None)
            if task is None:
                return None
            texts = read.texts(connection, [task.id]).get(task.id) if task.status in TERMINAL else None
            return Seen(
                id,
                task.status,
                None if texts is None else texts.result,
                None if texts is None else texts.error,
                task.attempts,
                task.progress,
            )

        seen = await mill.db.read(work)
        if seen is None:
            raise NotFound(ABSENT)
        return seen

    async def cancel(self, id: str) -> None:
        mill, _, _ = await self._opened()
        task_id = parse_id(id)
        if task_id is None:
            raise NotFound(ABSENT)
        await cancel.cancel(mill, task_id, None)

    async def close(self) -> None:
        """Sends what waits, then closes connections."""
        async with self._opening:
            self._parts = None
            await self._stack.aclose()

    async def _opened(self) -> tuple[Mill, Submitter, bytes]:
        if self._parts is None:
            async with self._opening:
                if self._parts is None:
                    self._parts = await self._open()
        return self._parts

    async def _open(self) -> tuple[Mill, Submitter, bytes]:
        async with AsyncExitStack() as stack:
            try:
                mill, submitter = await self._opener(stack)
            except StartError as error:
                if error.__cause__ is not None and is_transient(error.__cause__):
                    raise Unavailable(error.message) from error
                raise
            user = await self._service_user(mill)
            self._stack = stack.pop_all()
        return mill, submitter, user

    async def _service_user(self, mill: Mill) -> bytes:
        """Its id. Forbidden when it was disabled."""

        def work(connection: Connection) -> bytes:
            return service_user(connection, self._service_name)

        user = await mill.db.write(work, resend=work)
        self._checked = boottime()
        return user


def new_task(draft: Draft, user_id: bytes) -> NewTask:
    """The draft as a user's task."""
    return NewTask(
        user_id=user_id,
        title=draft.title,
        payload=draft.payload,
        description=draft.description,
        type=draft.type,
        queue=draft.queue,
        priority=draft.priority,
        scheduled_at=draft.scheduled_at,
        max_retries=draft.max_retries,
    )
