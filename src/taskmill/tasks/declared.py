"""Schedules that an app declares with `@app.cron`: the record is made to say what the app says.

Only `taskmill up` at its start and `taskmill schedules sync` in a deploy do it, never a worker: old and new ones would
undo each other's schedules while they are rolled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.errors import Conflict
from taskmill.model.cron import CronSpec, parse
from taskmill.model.ids import new_id
from taskmill.sql.engine import Database
from taskmill.sql.schema import schedules, users
from taskmill.tasks.schedules import (
    NewSchedule,
    apply,
    create_schedule,
    select_schedules,
    to_schedule,
)
from taskmill.tasks.service import service_user


@dataclass(frozen=True, slots=True)
class Synced:
    """Names of schedules, as a sync left them."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    same: tuple[str, ...] = ()


def sync_declared(
    connection: Connection, user_id: bytes, app: str, declared: Sequence[NewSchedule], quota: int
) -> Synced:
    """Make the schedules that `app` declares what it says, and delete those that it no longer declares.

    All in one transaction; twice is once. What an operator paused stays paused, and what does not change keeps its next
    fire. Conflict when a schedule of that name is not this app's.
    """
    connection.execute(sa.select(users.c.id).where(users.c.id == user_id).with_for_update())
    rows = connection.execute(
        select_schedules().where(schedules.c.user_id == user_id).order_by(schedules.c.id).with_for_update()
    )
    there = {row.name: to_schedule(row) for row in rows}
    names = {new.name for new in declared}
    gone = [row for row in there.values() if row.declared == app and row.name not in names]
    for row in gone:  # first: what takes their place needs the room under the quota
        connection.execute(sa.delete(schedules).where(schedules.c.id == row.id))
    created: list[str] = []
    changed: list[str] = []
    same: list[str] = []
    kept = {"user_id", "enabled", "starts_at", "ends_at", "declared"}
    for new in declared:
        known = there.get(new.name)
        if known is None:
            create_schedule(connection, new_id(), new, quota)
            created.append(new.name)
            continue
        if known.declared != app:
            raise Conflict(
                f"There is a schedule named {new.name!r} already, which {known.declared or 'a person'} made: rename one."
            )
        given = {f.name: getattr(new, f.name) for f in fields(new) if f.name not in kept}
        (same if apply(connection, known, given) is known else changed).append(new.name)
    return Synced(tuple(created), tuple(changed), tuple(row.name for row in gone), tuple(same))


async def sync(db: Database, service: str, app: str, specs: Sequence[CronSpec], quota: int) -> Synced:
    """The async shell. The schedules and their tasks are those of the user `service`, who is made when there is none;
    `app` is its name, as `--app` gives it. Conflict, Forbidden (that user was disabled), Unavailable."""

    def work(connection: Connection) -> Synced:
        known = connection.execute(sa.select(schedules.c.id).where(schedules.c.declared == app).limit(1))
        if not specs and known.first() is None:
            return Synced()
        user_id = service_user(connection, service)
        declared = [_new(spec, user_id, app) for spec in specs]
        return sync_declared(connection, user_id, app, declared, quota)

    return await db.write(work, resend=work)


def _new(spec: CronSpec, user_id: bytes, app: str) -> NewSchedule:
    rule = parse(spec.cron, spec.timezone)
    return NewSchedule(
        user_id=user_id,
        name=spec.name,
        cron=rule.expression,
        timezone=rule.zone,
        title=spec.title or spec.name,
        payload=spec.payload,
        description=spec.description,
        type=spec.type,
        priority=spec.priority,
        queue=spec.queue,
        max_retries=spec.max_retries,
        misfire=spec.misfire,
        overlap=spec.overlap,
        declared=app,
    )
