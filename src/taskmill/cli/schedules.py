"""`taskmill schedules …`: over the API; but for `sync`, a step of a deploy, straight on the database."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App, Parameter

from taskmill.cli.options import API, Api, Flag, Free, Text
from taskmill.errors import ConfigError, Conflict, NotFound

if TYPE_CHECKING:
    from taskmill.cli.show import Column
    from taskmill.client import Client, Fire, NextFire, Schedule, ScheduleSummary

schedules = App(
    name="schedules",
    help="Schedules: a task again and again, at the times of a cron expression. Those that an app declares are "
    "registered by a step of its deploy (`sync`).",
)
HISTORY: Final = 10


@Parameter(name="*")
@dataclass(frozen=True)
class Plan:
    """What a schedule may be given."""

    timezone: Text = None
    """A name of the IANA database, such as Europe/Berlin; UTC when not given."""
    type: Text = None
    """Which handler runs its tasks; when not given: the payload's "type", if there is one."""
    title: Text = None
    """Of its tasks; the schedule's name when not given."""
    description: Text = None
    """Of its tasks."""
    payload: Free = None
    """Of its tasks: a JSON object; @file reads it from a file, - from standard input."""
    priority: Text = None
    """CRITICAL, HIGH, NORMAL or LOW; NORMAL when not given."""
    queue: Text = None
    """Of its tasks; default when not given."""
    max_retries: Text = None
    """Of its tasks."""
    misfire: Text = None
    """What becomes of times that passed while no scheduler ran: SKIP, ONCE or ALL; ONCE when not given."""
    overlap: Text = None
    """What a fire does while the task before has not ended: ALLOW, SKIP, QUEUE or CANCEL_RUNNING; ALLOW when not given."""
    starts: Text = None
    """It does not fire before: 2027-01-01T00:00:00Z, or 12h, 30d from now."""
    ends: Text = None
    """It does not fire after."""

    def options(self) -> dict[str, Any]:
        """What is given, as the client takes it. An empty text takes away what can be absent."""
        from taskmill.cli import reading
        from taskmill.model.cron import Misfire, Overlap
        from taskmill.model.state import Priority

        texts = {name: getattr(self, name) for name in ("timezone", "title", "queue")}
        nullable: dict[str, tuple[str | None, Callable[[str], Any]]] = {
            "type": (self.type, str),
            "description": (self.description, str),
            "max_retries": (
                self.max_retries,
                lambda text: reading.number("--max-retries", text, 0, 0, 1000),
            ),
            "starts_at": (self.starts, lambda text: reading.moment("--starts", text)),
            "ends_at": (self.ends, lambda text: reading.moment("--ends", text)),
        }
        found = {name: text for name, text in texts.items() if text is not None}
        found |= {
            name: read(text) if text else None for name, (text, read) in nullable.items() if text is not None
        }
        names: dict[str, tuple[str | None, Any]] = {
            "priority": (self.priority, Priority),
            "misfire": (self.misfire, Misfire),
            "overlap": (self.overlap, Overlap),
        }
        for name, (text, kind) in names.items():
            if text is not None:
                found[name] = reading.one_of(f"--{name}", text, kind.__members__)
        if self.payload is not None:
            found["payload"] = reading.payload("--payload", self.payload)
        return found


PLAN: Final = Plan()


@schedules.command(name="list")
async def list_(*, api: Api = API) -> int:
    """Your schedules (everybody's for an ADMIN), newest first."""
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        await show.rows(client.schedules(), _columns(), json=api.json)
    return 0


def _columns() -> list[Column[ScheduleSummary]]:
    from taskmill.cli.show import Column

    return [
        Column("ID", lambda s: s.id),
        Column("STATE", _state),
        Column("NEXT", lambda s: s.next_fire),
        Column("LAST", lambda s: s.last_fire),
        Column("NAME", lambda s: s.name, flexible=True),
        Column("TYPE", lambda s: s.type, flexible=True),
        Column("ZONE", lambda s: s.timezone, flexible=True),
        Column("CRON", lambda s: s.cron, flexible=True),
    ]


def _state(schedule: ScheduleSummary) -> str:
    return "active" if schedule.enabled else "paused"


@schedules.command(name="show")
async def show_(schedule: str, /, *, api: Api = API) -> int:
    """A schedule, its next fires and what became of the last ones.

    Parameters
    ----------
    schedule
        Name or id.
    """
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        known = await _id_of(client, schedule)
        found = await client.schedule(known)
        if found is None:
            raise _absent(schedule)
        fires, history = await client.next_fires(known), await client.history(known, HISTORY)
    if api.json:
        whole = {**show.plain(found), "nextFires": fires, "history": history}
        show.put(show.as_json(whole, indent=2))
        return 0
    show.facts(_facts(found))
    if fires:
        show.put("")
        show.table(fires, _next_columns())
    if history:
        show.put("")
        show.table(history, _history_columns())
    return 0


def _facts(schedule: Schedule) -> list[tuple[str, object]]:
    from taskmill.cli.show import as_json

    task = schedule.last_task
    return [
        ("id", schedule.id),
        ("name", schedule.name),
        ("state", _state(schedule)),
        ("cron", schedule.cron),
        ("timezone", schedule.timezone),
        ("starts", schedule.starts_at),
        ("ends", schedule.ends_at),
        ("misfire", schedule.misfire),
        ("overlap", schedule.overlap),
        ("declared by", schedule.declared_by),
        ("type", schedule.type),
        ("title", schedule.title),
        ("description", schedule.description),
        ("queue", schedule.queue),
        ("priority", schedule.priority),
        ("max retries", schedule.max_retries),
        ("payload", as_json(schedule.payload)),
        ("waiting", schedule.waiting or None),
        ("last task", None if task is None else f"{task.id} {task.status}"),
    ]


def _next_columns() -> list[Column[NextFire]]:
    from taskmill.cli.show import Column

    return [
        Column("NEXT", lambda f: f.at),
        Column("LOCAL", lambda f: f.local.replace(" ", "T", 1)),
        Column("NOTE", lambda f: f.note, flexible=True),
    ]


def _history_columns() -> list[Column[Fire]]:
    from taskmill.cli.show import Column

    return [
        Column("FIRED", lambda f: f.nominal_at),
        Column("OUTCOME", lambda f: f.outcome),
        Column("TASK", lambda f: f.task_id),
    ]


@schedules.command
async def create(name: str, cron: str, /, *, plan: Plan = PLAN, paused: Flag = False, api: Api = API) -> int:
    """Makes a schedule and prints its id.

    Parameters
    ----------
    name
        Your schedules have different ones.
    cron
        Five fields: minute, hour, day of month, month, day of week. Quote it: '0 9 * * MON'.
    paused
        It does not fire until it is resumed.
    """
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    options = plan.options()
    async with connected(api) as client:
        made = await client.create_schedule(name, cron, **options, enabled=not paused)
    show.put(show.as_json(made, indent=2) if api.json else made.id)
    return 0


@schedules.command
async def update(
    schedule: str, /, *, name: Text = None, cron: Text = None, plan: Plan = PLAN, api: Api = API
) -> int:
    """Changes what is given. An empty text ('') takes away a type, a description, max-retries, a start or an end.

    Parameters
    ----------
    schedule
        Name or id.
    name
        Another name.
    cron
        Other times.
    """
    changes = plan.options()
    changes |= {key: text for key, text in (("name", name), ("cron", cron)) if text is not None}
    if not changes:
        raise ConfigError("expected something to change (see: taskmill schedules update --help)")
    return await _one(api, schedule, "updated", lambda client, one: client.update_schedule(one, **changes))


@schedules.command
async def delete(schedule: str, /, *, api: Api = API) -> int:
    """Deletes a schedule. Its tasks stay, its history does not.

    Parameters
    ----------
    schedule
        Name or id.
    """
    return await _one(api, schedule, "deleted", lambda client, one: client.delete_schedule(one))


@schedules.command
async def pause(schedule: str, /, *, api: Api = API) -> int:
    """It does not fire until it is resumed.

    Parameters
    ----------
    schedule
        Name or id.
    """
    return await _one(api, schedule, "paused", lambda client, one: client.pause_schedule(one))


@schedules.command
async def resume(schedule: str, /, *, api: Api = API) -> int:
    """It fires again, from now on: what it missed is not made up for.

    Parameters
    ----------
    schedule
        Name or id.
    """
    return await _one(api, schedule, "active", lambda client, one: client.resume_schedule(one))


async def _one(api: Api, schedule: str, done: str, act: Callable[[Client, str], Awaitable[Schedule]]) -> int:
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        changed = await act(client, await _id_of(client, schedule))
    show.put(show.as_json(changed, indent=2) if api.json else f"{show.word(changed.name)} {done}")
    return 0


@schedules.command
async def run(schedule: str, /, *, api: Api = API) -> int:
    """Makes a task of it at once, whatever its policies, paused or not, and prints the task's id.

    Parameters
    ----------
    schedule
        Name or id.
    """
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        task = await client.run_schedule_now(await _id_of(client, schedule))
    show.put(show.as_json(task, indent=2) if api.json else task.id)
    return 0


@schedules.command(name="next")
async def next_(schedule: str, /, *, count: Text = None, api: Api = API) -> int:
    """When it fires next, and what changes of the clocks do to that.

    Parameters
    ----------
    schedule
        Name or id.
    count
        How many fires, at most 50; 5 when not given.
    """
    from taskmill.cli import reading, show
    from taskmill.cli.remote import connected

    n = reading.number("--count", count, 5, 1, 50)
    async with connected(api) as client:
        fires = await client.next_fires(await _id_of(client, schedule), n)
    if api.json:
        show.put(show.as_json(fires, indent=2))
    else:
        show.table(fires, _next_columns())
    return 0


@schedules.command
async def sync(*, app: Text = None) -> int:
    """Makes the schedules of an app what its @app.cron say: creates, changes, and deletes what it no longer declares.

    A step of a deploy, once, when the new code is there, straight on the database; safe to run twice. What was paused
    stays paused.

    Parameters
    ----------
    app
        module:attribute of the handlers (TASKMILL_APP).
    """
    from taskmill.cli import declared
    from taskmill.cli.loading import tool_settings

    return await declared.sync(tool_settings(app=app))


async def _id_of(client: Client, schedule: str) -> str:
    """Of an id or a name. NotFound; Conflict: an ADMIN sees those of several users."""
    try:
        return str(uuid.UUID(schedule))
    except ValueError:
        ids = [one.id async for one in client.schedules() if one.name == schedule]
    if len(ids) > 1:
        raise Conflict(f"{len(ids)} schedules have the name {schedule[:100]!r}: give the id of one")
    if not ids:
        raise _absent(schedule)
    return ids[0]


def _absent(schedule: str) -> NotFound:
    return NotFound(f"there is no schedule {schedule[:100]!r}")
