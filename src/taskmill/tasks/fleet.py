"""What runs where, to look at: the live workers, and the queues with what is in them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.state import Status
from taskmill.sql.dialect import from_now
from taskmill.sql.schema import counts, journal, tasks, workers
from taskmill.tasks.journal import decode, tally
from taskmill.tasks.scan import forced, page_query
from taskmill.tasks.workers import serving

WINDOW: Final = 500
"""Rows at the head of each priority among which the oldest of each queue is looked for."""
GROUPS: Final = 20_000
"""Pairs of queue and state that are read: users choose the names of queues."""

_W: Final = workers.c
_T: Final = tasks.c
_C: Final = counts.c


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that was seen lately. `types`: an empty text stands for tasks without a type."""

    boot_id: bytes
    name: str
    host: str
    queues: tuple[str, ...]
    types: tuple[str, ...]
    slots: int
    version: str
    started_at: datetime
    last_seen: datetime
    running: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue: how many tasks are in each state, since when the oldest QUEUED one waits, who serves it.

    `oldest` None: none waits, or it is not among the first WINDOW of its priority.
    """

    name: str
    numbers: Mapping[Status, int]
    oldest: datetime | None
    workers: int


def live_workers(
    connection: Connection, ttl: float, *, limit: int, after: bytes | None = None
) -> list[WorkerRow]:
    """Workers seen in the last `ttl` seconds, by id."""
    query = sa.select(
        _W.boot_id, _W.name, _W.host, _W.queues, _W.types, _W.slots, _W.version, _W.started_at, _W.last_seen
    ).where(_W.last_seen > from_now(-ttl))
    if after is not None:
        query = query.where(_W.boot_id > after)
    rows = list(connection.execute(query.order_by(_W.boot_id).limit(limit)))
    busy = _running(connection) if rows else {}
    return [
        WorkerRow(
            r.boot_id,
            r.name,
            r.host,
            tuple(json.loads(r.queues)),
            tuple(json.loads(r.types)),
            r.slots,
            r.version,
            r.started_at,
            r.last_seen,
            busy.get(r.boot_id, 0),
        )
        for r in rows
    ]


def _running(connection: Connection) -> dict[bytes, int]:
    """How many tasks each worker holds. It reads what is PROCESSING: as many rows as there are busy slots."""
    query = forced(
        sa.select(_T.worker_id, sa.func.count())
        .where(_T.status == int(Status.PROCESSING))
        .group_by(_T.worker_id)
    )
    return {r[0]: r[1] for r in connection.execute(query) if r[0] is not None}


def queues(
    connection: Connection, ttl: float, owner: bytes | None, *, limit: int, after: str | None = None
) -> list[QueueRow]:
    """The queues that hold tasks of `owner` (None: of anybody) or are served by a live worker, by name. Read it in a
    snapshot: the numbers are exact."""
    served = serving(connection, ttl)
    numbers: dict[str, Counter[int]] = {queue: Counter() for queue in served}
    query = sa.select(_C.queue, _C.status, sa.func.sum(_C.n)).group_by(_C.queue, _C.status).limit(GROUPS)
    if owner is not None:
        query = query.where(_C.user_id == owner)
    for queue, status, n in connection.execute(query):
        numbers.setdefault(queue, Counter())[status] += int(n)
    for blob in connection.execute(sa.select(journal.c.changes).where(journal.c.folded == 0)).scalars():
        for (user, queue, _, status), n in tally(decode(blob)).items():
            if owner in (None, user):
                numbers.setdefault(queue, Counter())[status] += n
    oldest = _oldest(connection, owner)
    names = sorted(
        queue
        for queue, of in numbers.items()
        if (after is None or queue > after) and (queue in served or any(of.values()))
    )
    return [
        QueueRow(
            queue,
            {status: numbers[queue][int(status)] for status in Status},
            oldest.get(queue),
            served[queue],
        )
        for queue in names[:limit]
    ]


def _oldest(connection: Connection, owner: bytes | None) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for row in connection.execute(page_query(Status.QUEUED, WINDOW, {})):
        if owner in (None, row.user_id):
            found[row.queue] = min(found.get(row.queue, row.check_at), row.check_at)
    return found
