"""`taskmill workers` and `taskmill queues`."""

from __future__ import annotations

from taskmill.cli.options import API, Api


async def workers(*, api: Api = API) -> int:
    """The live workers: what they serve, and how busy they are. For an ADMIN."""
    from taskmill.cli import show
    from taskmill.cli.remote import connected
    from taskmill.cli.show import Column
    from taskmill.client import Worker

    columns: list[Column[Worker]] = [
        Column("NAME", lambda w: w.name),
        Column("BUSY", lambda w: f"{w.running}/{w.slots}"),
        Column("VERSION", lambda w: w.version),
        Column("STARTED", lambda w: w.started_at),
        Column("SEEN", lambda w: w.last_seen),
        Column("HOST", lambda w: w.host, flexible=True),
        Column("QUEUES", lambda w: w.queues, flexible=True),
        Column("TYPES", lambda w: [name or "(none)" for name in w.types], flexible=True),
    ]
    async with connected(api) as client:
        await show.rows(client.workers(), columns, json=api.json)
    return 0


async def queues(*, api: Api = API) -> int:
    """Queues: how many of your tasks (everybody's for an ADMIN) are in each state, and since when the oldest waits."""
    from taskmill.cli import show
    from taskmill.cli.remote import connected
    from taskmill.cli.show import Column
    from taskmill.client import Queue

    columns: list[Column[Queue]] = [
        Column("QUEUE", lambda q: q.name),
        Column("WORKERS", lambda q: q.workers),
        Column("PENDING", lambda q: q.pending),
        Column("QUEUED", lambda q: q.queued),
        Column("PROCESSING", lambda q: q.processing),
        Column("COMPLETED", lambda q: q.completed),
        Column("FAILED", lambda q: q.failed),
        Column("CANCELLED", lambda q: q.cancelled),
        Column("OLDEST", lambda q: q.oldest_waiting_at),
    ]
    async with connected(api) as client:
        await show.rows(client.queues(), columns, json=api.json)
    return 0
