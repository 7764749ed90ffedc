"""Queue health: sizes, oldest ages, journal lag, live workers, as metrics, and every few minutes as a log line."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from taskmill.model.state import Priority, Status
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import counts, journal, tasks
from taskmill.tasks.journal import decode, tally
from taskmill.tasks.mill import Mill
from taskmill.tasks.scan import forced
from taskmill.tasks.workers import count_live, queues_of_workers
from taskmill.upkeep.fold import journal_lag

log = structlog.get_logger(__name__)

WINDOW: Final = 500
"""Rows at the head of each priority among which the oldest of each queue is looked for."""
_T: Final = tasks.c
_C: Final = counts.c


@dataclass(frozen=True, slots=True)
class Health:
    """What the queues look like. Sizes are exact; ages are those within the window."""

    sizes: dict[tuple[str, Priority], int]
    oldest: dict[str, float]


def queue_sizes(connection: Connection) -> dict[tuple[str, Priority], int]:
    """QUEUED tasks by queue and priority: counts plus what is not folded. Read it in a snapshot."""
    query = (
        sa.select(_C.queue, _C.priority, sa.func.sum(_C.n))
        .where(_C.status == int(Status.QUEUED))
        .group_by(_C.queue, _C.priority)
    )
    sizes = {(r[0], Priority(r[1])): int(r[2]) for r in connection.execute(query)}
    for blob in connection.execute(sa.select(journal.c.changes).where(journal.c.folded == 0)).scalars():
        for (_, queue, priority, status), n in tally(decode(blob)).items():
            if status == Status.QUEUED:
                key = (queue, Priority(priority))
                sizes[key] = sizes.get(key, 0) + n
    return sizes


def oldest_ages(connection: Connection) -> dict[str, float]:
    """Seconds that the oldest QUEUED task of each queue has waited."""
    ages: dict[str, float] = {}
    for priority in Priority:
        query = forced(
            sa.select(_T.queue, _T.check_at, db_now())
            .where(_T.status == int(Status.QUEUED), _T.priority == int(priority))
            .order_by(_T.check_at, _T.id)
            .limit(WINDOW)
        )
        rows: list[tuple[str, datetime, datetime]] = [(r[0], r[1], r[2]) for r in connection.execute(query)]
        for queue, at, now in rows:
            ages[queue] = max(ages.get(queue, 0.0), (now - at).total_seconds())
    return ages


async def measure(mill: Mill) -> Health:
    """Set the gauges."""
    sizes = await mill.db.snapshot(queue_sizes)
    ages = await mill.db.read(oldest_ages)
    lag_rows, lag_seconds = await journal_lag(mill)
    ttl = mill.options.worker_ttl
    live = await mill.db.read(lambda c: count_live(c, ttl))
    served = await mill.db.read(lambda c: queues_of_workers(c, ttl))
    probes = mill.probes
    probes.queue_size.clear()
    # An empty queue that is served has a size too: 0.
    sums = {
        (probes.queue_label(queue), priority.name): 0 for queue in sorted(served) for priority in Priority
    }
    for (queue, priority), n in sizes.items():
        key = (probes.queue_label(queue), priority.name)
        sums[key] = sums.get(key, 0) + n
    for (queue, name), n in sums.items():
        probes.queue_size.labels(queue=queue, priority=name).set(n)
    probes.queue_oldest_seconds.clear()
    oldest: dict[str, float] = {}
    for queue, age in ages.items():
        label = probes.queue_label(queue)  # beyond its limit many queues share one
        oldest[label] = max(oldest.get(label, 0.0), age)
    for label, age in oldest.items():
        probes.queue_oldest_seconds.labels(queue=label).set(age)
    probes.journal_lag_rows.set(lag_rows)
    probes.journal_lag_seconds.set(lag_seconds)
    probes.workers_live.set(live)
    return Health(sizes, ages)


def report(health: Health) -> None:
    """The log line."""
    sizes: dict[str, int] = {}
    for (queue, _), n in health.sizes.items():
        sizes[queue] = sizes.get(queue, 0) + n
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:10]
    log.info(
        "queues",
        queued=sum(sizes.values()),
        largest={queue: n for queue, n in largest if n},
        oldest=round(max(health.oldest.values(), default=0.0), 1),
    )
