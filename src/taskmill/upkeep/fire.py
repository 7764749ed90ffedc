"""fire: the turn of the loop. What is due is planned without locks, then carried out in small transactions.

A schedule that is refused (its zone is gone, the record does not take its task) is told in the log and fires no more
until somebody changes it: it holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.model.cron import ZONES_VERSION
from taskmill.model.ids import id_text
from taskmill.model.state import Status
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.schema import fires, meta, schedules
from taskmill.tasks.cancel import signal
from taskmill.tasks.fire import (
    BATCH,
    Late,
    Made,
    Plan,
    due_schedules,
    fire,
    give_up,
    idle_waiters,
    next_due,
    plan,
    refuse_waiting,
    release,
)
from taskmill.tasks.mill import Mill
from taskmill.tasks.schedules import ScheduleRow, select_lean, to_schedule

log = structlog.get_logger(__name__)

VERB: Final = "fire"
PAGE: Final = 100
"""Schedules that one look at waiting fires, or at changed zones, takes."""
_S: Final = schedules.c
_F: Final = fires.c
_ZONES: Final = "zones"
_REFUSALS: Final = (exc.DataError, exc.IntegrityError, UnicodeError)
"""What the record says to a task that it does not take."""


async def fire_due(mill: Mill, late: Late, poll: float) -> float:
    """Fire a batch of what is due; seconds until the next look: 0 when there may be more, at most `poll`."""
    wait = await mill.db.read(next_due)
    if wait is None:
        return poll
    if wait > 0:
        return min(wait, poll)
    # A long outage takes some thought for each schedule: not on the loop that others share.
    due = await mill.db.read(due_schedules)
    plans = await asyncio.to_thread(lambda: [_plan(*one, late) for one in due])
    moved = 0
    for batch in _batches(plans):
        moved += await _carry_out(mill, batch)
    # None moved: all of them are in other hands right now.
    return 0.0 if moved else min(0.05, poll)


async def release_waiting(mill: Mill, poll: float) -> float:
    """Make the tasks of fires whose turn has come; seconds until the next look."""
    after: bytes | None = b""
    while after is not None:
        start = after
        idle, after = await mill.db.read(lambda c, start=start: idle_waiters(c, start, PAGE))  # type: ignore[misc]
        for begin in range(0, len(idle), BATCH):
            await _release(mill, idle[begin : begin + BATCH])
    return poll


async def _release(mill: Mill, ids: Sequence[bytes]) -> None:
    """All of them in one transaction; when the record refuses it, each in its own."""

    def work(connection: Connection) -> Made:
        return release(connection, ids)

    def refuse(connection: Connection) -> Made:
        return refuse_waiting(connection, ids[0])

    try:
        made = await mill.db.write(work, resend=work)
    except _REFUSALS as error:
        if len(ids) > 1:
            for one in ids:
                await _release(mill, [one])
            return
        log.warning("fire.refused", schedule=id_text(ids[0]), error=type(error).__name__)
        made = await mill.db.write(refuse, resend=refuse)
    await _announce(mill, made)


def _plan(row: ScheduleRow, active: bool, now: datetime, late: Late) -> Plan:
    try:
        return plan(row, active, now, late)
    except ValueError as error:
        log.warning("fire.refused", schedule=id_text(row.id), name=row.name, error=str(error))
        return give_up(row)


def _batches(plans: Sequence[Plan]) -> Iterator[list[Plan]]:
    """Bounded by the tasks that they make."""
    batch: list[Plan] = []
    for one in plans:
        full = sum(len(p.run) for p in batch) + len(one.run) > BATCH
        if batch and (full or one.alone or batch[-1].alone):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


async def _carry_out(mill: Mill, plans: Sequence[Plan]) -> int:
    """All of them in one transaction; when the record refuses it, each in its own. How many schedules were moved on."""
    try:
        return await _write(mill, plans)
    except _REFUSALS:
        log.info("fire.one_by_one", schedules=len(plans))
    moved = 0
    for one in plans:
        try:
            moved += await _write(mill, [one], careful=True)
        except _REFUSALS as error:
            log.warning("fire.refused", schedule=id_text(one.id), error=type(error).__name__)
            stop = Plan(one.id, one.version, one.due, refused=(one.due,))
            moved += await _write(mill, [stop], careful=True)
    return moved


async def _write(mill: Mill, plans: Sequence[Plan], *, careful: bool = False) -> int:
    def work(connection: Connection) -> Made:
        return fire(connection, plans, careful=careful)

    with mill.probes.verb_seconds.labels(verb=VERB).time():
        made = await mill.db.write(work, resend=work)
    await _announce(mill, made)
    return made.moved


async def _announce(mill: Mill, made: Made) -> None:
    """After the commit: the index, the bells, the numbers."""
    mill.probes.verb_rows.labels(verb=VERB).inc(len(made.rows))
    for _, _, outcome, _ in made.fires:
        mill.probes.schedule_fires.labels(outcome=outcome.name).inc()
    if made.rows:
        mill.submitted(made.rows)
    if made.stopping:
        mill.hint("journal")
    for row in made.stopping:
        if row.status is Status.PROCESSING and row.worker_id is not None:
            await mill.bell.ring(f"worker:{row.worker_id.hex()}", signal(row.id, row.fence))


# ---- what age takes -----------------------------------------------------------------------------------------------


def retain_fires(connection: Connection, days: float, batch: int = 500) -> int:
    """Delete the oldest fires that are older than `days`, at most `batch`; how many."""
    old = sa.select(_F.schedule_id, _F.nominal_at).where(_F.at < from_now(-days * 86400.0))
    rows = connection.execute(old.order_by(_F.at).limit(batch)).all()
    keys = sorted((row.schedule_id, row.nominal_at) for row in rows)
    # A statement for each key: a list of pairs is a full scan on MariaDB.
    gone = sa.delete(fires).where(_F.schedule_id == sa.bindparam("s"), _F.nominal_at == sa.bindparam("n"))
    for schedule_id, nominal_at in keys:
        connection.execute(gone, {"s": schedule_id, "n": nominal_at})
    return len(keys)


# ---- when the rules of the zones change ---------------------------------------------------------------------------


async def retime(mill: Mill) -> int:
    """Once for each newer version of the zones: compute the next fires anew, those that are due excepted.

    The version is noted at the end, so that a crash begins again; an older process changes nothing. How many moved.
    """
    if (await mill.db.read(_zones_version)) >= ZONES_VERSION:
        return 0
    moved, after = 0, b""
    while True:
        count, last = await mill.db.write(lambda c, after=after: _retime_page(c, after))  # type: ignore[misc]
        moved += count
        if last is None:
            break
        after = last
    await mill.db.write(_note_zones)
    log.info("fire.zones", version=ZONES_VERSION, moved=moved)
    return moved


def _retime_page(connection: Connection, after: bytes) -> tuple[int, bytes | None]:
    now = connection.execute(sa.select(db_now())).scalar_one()
    rows = connection.execute(
        select_lean().where(_S.id > after, _S.next_at > now).order_by(_S.id).limit(PAGE).with_for_update()
    )
    found = [to_schedule(row) for row in rows]
    moved = 0
    for row in found:
        try:
            at = row.after(now if row.last_at is None else max(now, row.last_at))
        except ValueError:
            continue  # its fire will tell
        if at != row.next_at:
            connection.execute(sa.update(schedules).where(_S.id == row.id).values(next_at=at))
            moved += 1
    return moved, found[-1].id if len(found) == PAGE else None


def _zones_version(connection: Connection) -> str:
    return connection.execute(sa.select(meta.c.value).where(meta.c.name == _ZONES)).scalar() or ""


def _note_zones(connection: Connection) -> None:
    values = {"value": ZONES_VERSION}
    if not connection.execute(sa.update(meta).where(meta.c.name == _ZONES).values(values)).rowcount:
        connection.execute(sa.insert(meta).values(name=_ZONES, **values))
