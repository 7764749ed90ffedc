"""The client's calls about workers and queues."""

from __future__ import annotations

from collections.abc import AsyncIterator

from taskmill.client import documents
from taskmill.client.core import PAGE, Calls
from taskmill.client.types import Queue, Worker


class FleetCalls(Calls):
    async def workers_page(self, *, limit: int = PAGE, after: str | None = None) -> list[Worker]:
        """At most 100 live workers, from the one after `after` on. For an ADMIN."""
        return await self._query(documents.WORKERS, list[Worker], limit=limit, after=after)

    def workers(self) -> AsyncIterator[Worker]:
        """All live workers, page by page. For an ADMIN."""
        return self._walk(lambda after: self.workers_page(after=after), PAGE)

    async def queues_page(self, *, limit: int = PAGE, after: str | None = None) -> list[Queue]:
        """At most 100 queues by name, from the one after the name `after` on."""
        return await self._query(documents.QUEUES, list[Queue], limit=limit, after=after)

    def queues(self) -> AsyncIterator[Queue]:
        """The queues that hold tasks of the caller (of anybody for an ADMIN) or that a live worker serves, by name."""
        return self._walk(lambda after: self.queues_page(after=after), PAGE, "name")
