"""`taskmill tasks …`: what there is, and what one does with it. `submit` has a file of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App

from taskmill.cli.options import API, Api, Flag, Text
from taskmill.cli.submit import submit
from taskmill.errors import BadUserInput, Conflict, NotFound

if TYPE_CHECKING:
    from taskmill.cli.show import Column
    from taskmill.client import Client, Task, TaskLog, TaskSummary

tasks = App(name="tasks", help="Tasks: look at them, submit, cancel, retry and watch them.")

tasks.command(submit)

FOLLOW: Final = 1.0
"""Seconds between two looks at the log of a task that runs."""
PAGE: Final = 100
MANY: Final = 1_000_000


@tasks.command(name="list")
async def list_(
    *,
    status: Text = None,
    priority: Text = None,
    type: Text = None,
    queue: Text = None,
    limit: Text = None,
    all: Flag = False,
    api: Api = API,
) -> int:
    """Your tasks (everybody's for an ADMIN), newest first.

    Parameters
    ----------
    status
        PENDING, QUEUED, PROCESSING, COMPLETED, FAILED or CANCELLED.
    priority
        CRITICAL, HIGH, NORMAL or LOW.
    type
        Of this type.
    queue
        In this queue.
    limit
        How many; 20 when not given.
    all
        All of them.
    """
    from taskmill.cli import reading, show
    from taskmill.cli.remote import connected
    from taskmill.client import TaskStatus
    from taskmill.model.state import Priority

    chosen: dict[str, Any] = {
        "status": reading.one_of("--status", status, TaskStatus.__members__),
        "priority": reading.one_of("--priority", priority, Priority.__members__),
        "type": type,
        "queue": queue,
        "limit": None if all else reading.number("--limit", limit, 20, 1, MANY),
    }
    async with connected(api) as client:
        await show.rows(client.tasks(**chosen), _columns(), json=api.json)
    return 0


def _columns() -> list[Column[TaskSummary]]:
    from taskmill.cli.show import Column

    return [
        Column("ID", lambda t: t.id),
        Column("STATUS", lambda t: t.status),
        Column("PRIORITY", lambda t: t.priority),
        Column("TRIES", lambda t: t.attempts),
        Column("CREATED", lambda t: t.created_at),
        Column("QUEUE", lambda t: t.queue, flexible=True),
        Column("TYPE", lambda t: t.type, flexible=True),
        Column("TITLE", lambda t: t.title, flexible=True),
    ]


@tasks.command(name="show")
async def show_(id: str, /, *, api: Api = API) -> int:
    """A task with its payload, its result and its runs.

    Parameters
    ----------
    id
        Of the task.
    """
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        task = found(await client.task(id), id)
        runs = await client.runs(id)
    if api.json:
        show.put(show.as_json({**show.plain(task), "runs": runs}, indent=2))
        return 0
    show.facts(_facts(task))
    for run in runs:
        show.put("")
        how = [
            ("run", run.attempt),
            ("outcome", run.outcome or "running"),
            ("worker", run.worker),
            ("started", run.started_at),
            ("ended", run.ended_at),
            ("error", run.error),
            ("error type", run.error_type),
        ]
        show.facts(how)
        if run.traceback:
            show.lines(run.traceback)
    return 0


def _facts(task: Task) -> list[tuple[str, object]]:
    from taskmill.cli.show import as_json

    return [
        ("id", task.id),
        ("status", task.status),
        ("title", task.title),
        ("description", task.description),
        ("type", task.type),
        ("queue", task.queue),
        ("priority", task.priority),
        ("attempts", f"{task.attempts} of {task.max_retries + 1}"),
        ("progress", None if task.progress is None else f"{task.progress:.0%}"),
        ("scheduled", task.scheduled_at),
        ("created", task.created_at),
        ("started", task.started_at),
        ("completed", task.completed_at),
        ("cancel asked", task.cancel_requested_at),
        ("payload", as_json(task.payload)),
        ("result", None if task.result is None else as_json(task.result)),
        ("error", task.error),
    ]


@tasks.command
async def cancel(id: str, /, *ids: str, api: Api = API) -> int:
    """Ends tasks as CANCELLED: at once, or when their run has stopped.

    Parameters
    ----------
    id
        Of the task.
    ids
        Of more tasks.
    """
    return await _each(api, [id, *ids], lambda client, one: client.cancel_task(one))


@tasks.command
async def retry(id: str, /, *ids: str, api: Api = API) -> int:
    """Runs FAILED or CANCELLED tasks again, with all their attempts.

    Parameters
    ----------
    id
        Of the task.
    ids
        Of more tasks.
    """
    return await _each(api, [id, *ids], lambda client, one: client.retry_task(one))


async def _each(api: Api, ids: list[str], act: Callable[[Client, str], Awaitable[Task]]) -> int:
    """One after the other. What is refused stops no other; the first refusal says how the command ends."""
    from taskmill.cli import say, show, status_of
    from taskmill.cli.remote import connected

    status, done = 0, []
    async with connected(api) as client:
        for one in ids:
            try:
                task = await act(client, one)
            except (NotFound, Conflict, BadUserInput) as error:
                if len(ids) == 1:
                    raise
                say(f"{one[:40]}: {error.message}")
                status = status or status_of(error)
                continue
            done.append(task)
            if not api.json:
                show.put(f"{task.id}  {task.status}")
    if api.json:
        show.put(show.as_json(done, indent=2))
    return status


@tasks.command
async def watch(id: str | None = None, /, *, api: Api = API) -> int:
    """Each change of your tasks as it happens, until Ctrl-C; or of one task, until it has ended.

    Parameters
    ----------
    id
        Only this task. The command ends as the task does: 0 when it has COMPLETED, else 5.
    """
    from taskmill.cli import ENDED_BADLY, show
    from taskmill.cli.remote import connected
    from taskmill.client import TaskStatus

    last: TaskSummary | None = None
    async with connected(api) as client:
        await (client.stats() if id is None else client.runs(id, limit=1))  # it is there, and lets us in
        async for last in client.watch(id):
            show.put(show.as_json(last) if api.json else _line(last), flush=True)
    if last is None or id is None:
        return 0
    return 0 if last.status is TaskStatus.COMPLETED else ENDED_BADLY


def _line(task: TaskSummary) -> str:
    from taskmill.cli.show import NOTHING, word

    progress = NOTHING if task.progress is None else f"{task.progress:.0%}"
    return f"{word(task.updated_at)}  {task.id}  {task.status:<10}  {progress:>4}  {word(task.title)}"


@tasks.command
async def logs(id: str, /, *, follow: Flag = False, api: Api = API) -> int:
    """What the runs of a task logged.

    Parameters
    ----------
    id
        Of the task.
    follow
        Go on until the task has ended. With --json: JSON lines instead of an array.
    """
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        if api.json and not follow:
            await show.rows(_logged(client, id, follow=False), [], json=True)
            return 0
        async for line in _logged(client, id, follow=follow):
            if api.json:
                show.put(show.as_json(line), flush=True)
            else:
                fields = f"  {show.as_json(line.fields)}" if line.fields else ""
                text = f"{show.word(line.created_at)}  {line.level:<7}  {show.word(line.message)}{fields}"
                show.put(text, flush=follow)
    return 0


async def _logged(client: Client, id: str, *, follow: bool) -> AsyncIterator[TaskLog]:
    from taskmill.client.port import ClientPort
    from taskmill.model.state import TERMINAL

    port = ClientPort(client)
    after: str | None = None
    while True:
        # Looked at before the log: lines of a run that ended in between are read all the same.
        ended = follow and (await port.look(id)).status in TERMINAL
        while page := await client.logs(id, limit=PAGE, after=after):
            for line in page:
                yield line
            after = page[-1].id
        if ended or not follow:
            return
        await asyncio.sleep(FOLLOW)


def found(task: Task | None, id: str) -> Task:
    """NotFound when it is not."""
    if task is None:
        raise NotFound(f"there is no task {id[:40]!r}")
    return task
