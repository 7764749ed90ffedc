"""How `handler.submit(...)` reaches an API: model/port.py's port over the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from taskmill.client import documents
from taskmill.client.client import Client
from taskmill.client.core import read
from taskmill.client.types import TaskStatus
from taskmill.errors import BadUserInput, NotFound
from taskmill.model.port import Draft, Seen
from taskmill.model.state import Status

AT_ONCE: Final = 1000
"""Tasks of one submission, as the API has it."""


class ClientPort:
    """Submits over HTTP, as the user whose key or token the client has. Closing it closes the client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._http = client._http

    async def submit(self, drafts: Sequence[Draft]) -> list[str]:
        """All of them or none. BadUserInput also for more than 1,000: they would be two transactions."""
        if not drafts:
            return []
        if len(drafts) > AT_ONCE:
            raise BadUserInput(f"{len(drafts):,} tasks at once: over HTTP at most {AT_ONCE:,} are taken")
        inputs = [_input(draft) for draft in drafts]
        data = await self._http.run(documents.SUBMIT, {"inputs": inputs}, repeat=False)
        return [task.id for task in read(data["createTasks"], list[_Id])]

    async def look(self, id: str) -> Seen:
        data = await self._http.run(documents.LOOK, {"id": id}, repeat=True)
        if data["task"] is None:
            raise NotFound(f"there is no task {id}")
        task = read(data["task"], _Look)
        done = task.status is TaskStatus.COMPLETED
        return Seen(
            id=id,
            status=Status[task.status.name],
            result=msgspec.json.encode(task.result).decode() if done else None,
            error=task.error,
            attempts=task.attempts,
            progress=task.progress,
        )

    async def cancel(self, id: str) -> None:
        await self._http.run(documents.CANCEL, {"id": id}, repeat=True)

    async def close(self) -> None:
        await self._client.close()


def _input(draft: Draft) -> dict[str, Any]:
    at = draft.scheduled_at
    values = {
        "title": draft.title,
        "type": draft.type,
        "payload": msgspec.Raw(draft.payload.encode()),
        "queue": draft.queue,
        "priority": draft.priority.name,
        "scheduledAt": None if at is None else at.isoformat() + "Z",
        "maxRetries": draft.max_retries,
        "description": draft.description,
    }
    return {name: value for name, value in values.items() if value is not None}


class _Id(msgspec.Struct):
    id: str


class _Look(msgspec.Struct):
    status: TaskStatus
    result: Any
    error: str | None
    attempts: int
    progress: float | None
