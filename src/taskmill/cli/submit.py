"""`taskmill tasks submit`: one task, or a file of them; and waiting for their ends."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import msgspec
from cyclopts import Parameter

from taskmill.cli import ENDED_BADLY, TOO_LATE, TooLate, say
from taskmill.cli.options import API, Api, Flag, Free, Text
from taskmill.errors import ConfigError, TaskCancelled, TaskFailed, TaskmillError

if TYPE_CHECKING:
    from rich.progress import Progress

    from taskmill.cli.show import Listing
    from taskmill.client import Client, NewTask
    from taskmill.model.port import Seen

AT_ONCE: Final = 1000
"""Tasks of one request; all of them or none are recorded."""
BYTES_AT_ONCE: Final = 3 << 20
"""Of the lines of one request: it must fit into 4 MiB."""
LINE_MOST: Final = 1 << 20
WAITERS: Final = 8
"""Tasks that are looked at, at a time."""
LEAST, MOST, SHARE = 0.05, 2.0, 0.1
"""Seconds between two looks at a task: a share of the time that it took so far."""


@Parameter(name="*")
@dataclass(frozen=True)
class Words:
    """What a task is given."""

    type: Text = None
    """Which handler runs it; when not given: the payload's "type", if there is one."""
    payload: Free = None
    """A JSON object; @file reads it from a file, - from standard input."""
    queue: Text = None
    """The queue; default when not given."""
    priority: Text = None
    """CRITICAL, HIGH, NORMAL or LOW; NORMAL when not given."""
    at: Text = None
    """When it may run first: 2026-12-24T09:00:00Z, or 30s, 15m, 12h, 1d from now."""
    max_retries: Text = None
    """It runs at most once more than this."""
    description: Text = None
    """A longer text."""

    def task(self, title: str) -> NewTask:
        from taskmill.cli import reading
        from taskmill.client import NewTask
        from taskmill.model.state import Priority

        retries = self.max_retries
        return NewTask(
            title=title,
            type=self.type,
            queue=self.queue,
            priority=reading.one_of("--priority", self.priority, Priority.__members__),
            scheduled_at=reading.moment("--at", self.at),
            max_retries=None if retries is None else reading.number("--max-retries", retries, 0, 0, 1000),
            description=self.description,
            payload=msgspec.UNSET if self.payload is None else reading.payload("--payload", self.payload),
        )


WORDS: Final = Words()


def submit(
    title: str | None = None,
    /,
    *,
    words: Words = WORDS,
    file: Free = None,
    wait: Flag = False,
    timeout: Text = None,
    api: Api = API,
) -> int | Coroutine[Any, Any, int]:
    """Submits a task and prints its id; or the tasks of a file, and an id for each.

    Parameters
    ----------
    title
        Of the task.
    file
        JSON lines: an object for each task with title and, if need be, type, payload, queue, priority, scheduledAt,
        maxRetries, description. Of a file, all lines are checked before the first is sent; - reads standard input.
        Each 1,000 are recorded together.
    wait
        Wait until it has ended. Its result is printed below its id, as JSON; a task that has FAILED or was CANCELLED
        makes the exit status 5.
    timeout
        How long to wait: 90, 30s, 15m, 12h, 1d; for ever when not given. Then the exit status is 6; the task goes on.
    """
    from taskmill.cli import reading

    if (title is None) == (file is None):
        raise ConfigError("expected either a TITLE or --file")
    if timeout is not None and not wait:
        raise ConfigError("--timeout: expected with --wait only")
    patience = None if timeout is None else reading.seconds("--timeout", timeout, 0)
    if title is not None:
        return _one(words.task(title), patience if wait else 0.0, api)
    if words != WORDS:
        raise ConfigError("--file: expected alone: what a task is given stands in its line")
    assert file is not None
    if file == "-":
        with reading.standard_input("--file") as source:
            return _many(source, None, patience if wait else 0.0, api)
    with reading.opened("--file", file) as source:
        count = None
        if source.seekable():
            count = sum(len(batch) for batch in batches(source))
            source.seek(0)
        return _many(source, count, patience if wait else 0.0, api)


# -- one task --------------------------------------------------------------------------------------------


async def _one(new: NewTask, patience: float | None, api: Api) -> int:
    """`patience`: seconds to wait for its end; None: for ever, 0: not at all."""
    from taskmill.cli import show
    from taskmill.cli.remote import connected

    async with connected(api) as client:
        task = await client.create_task(**msgspec.structs.asdict(new))
        if patience == 0:
            show.put(show.as_json(task, indent=2) if api.json else task.id)
            return 0
        if not api.json:
            show.put(task.id, flush=True)
        with _progress() as bars:
            seen = await _end(client, task.id, _deadline(patience), bars)
        if api.json:
            show.put(show.as_json(await client.task(task.id), indent=2))
    if error := _failure(task.id, seen):
        raise error
    if not api.json and seen is not None and seen.result not in (None, "null"):
        show.put(show.as_json(_result(seen)))
    return 0


def _deadline(patience: float | None) -> float | None:
    return None if patience is None else asyncio.get_running_loop().time() + patience


async def _end(client: Client, id: str, deadline: float | None, bars: Progress | None) -> Seen | None:
    """The task when it has ended; None: not in time."""
    from taskmill.client.port import ClientPort
    from taskmill.model.state import TERMINAL

    port, loop = ClientPort(client), asyncio.get_running_loop()
    bar = bars.add_task("waiting", total=None) if bars is not None else None
    start = loop.time()
    while True:
        seen = await port.look(id)
        if seen.status in TERMINAL:
            return seen
        if bars is not None and bar is not None:
            total = None if seen.progress is None else 1.0
            bars.update(bar, description=seen.status.name.lower(), completed=seen.progress or 0, total=total)
        pause = min(MOST, max(LEAST, SHARE * (loop.time() - start)))
        if deadline is not None:
            pause = min(pause, deadline - loop.time())
        if pause <= 0:
            return None
        await asyncio.sleep(pause)


def _failure(id: str, seen: Seen | None) -> TaskmillError | None:
    """None: it has COMPLETED."""
    from taskmill.model.state import Status

    if seen is None:
        return TooLate(f"task {id} has not ended yet")
    if seen.status is Status.CANCELLED:
        return TaskCancelled(f"task {id} was cancelled", id=id)
    if seen.status is Status.FAILED:
        return TaskFailed(f"task {id} failed: {seen.error or 'no reason was kept'}", id=id)
    return None


def _result(seen: Seen) -> Any:
    return None if seen.result is None else msgspec.json.decode(seen.result)


@contextmanager
def _progress(*columns: str) -> Iterator[Progress | None]:
    """Bars on standard error, where that is a terminal; None elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from taskmill.cli.options import Terminal

    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield None
        return
    of = (MofNCompleteColumn(),) if "count" in columns else ()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *of,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        # It would write what is printed to its console, which is standard error.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    ) as bars:
        yield bars


# -- many tasks ------------------------------------------------------------------------------------------


class Line(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A task as a line of a file has it: createTask's input."""

    title: str
    type: str | None = None
    payload: Any = msgspec.UNSET
    queue: str | None = None
    priority: str | None = None
    scheduled_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    max_retries: int | None = None
    description: str | None = None


def batches(source: BinaryIO) -> Iterator[list[NewTask]]:
    """The tasks of the lines, as many together as one request takes. ConfigError names the line that is none."""
    batch: list[NewTask] = []
    size = number = 0
    while data := source.readline(LINE_MOST + 1):
        number += 1
        if len(data) > LINE_MOST:
            raise ConfigError(f"--file: line {number}: expected at most {LINE_MOST:,} bytes")
        if not data.strip():
            continue
        if len(batch) == AT_ONCE or (batch and size + len(data) > BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(_parsed(data, f"--file: line {number}"))
        size += len(data)
    if batch:
        yield batch


def _parsed(data: bytes, what: str) -> NewTask:
    from taskmill.cli import reading
    from taskmill.client import NewTask

    value = reading.json_value(what, reading.decoded(what, data))
    try:
        line = msgspec.convert(value, Line)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{what}: {' '.join(str(error).split())[:200]}") from None
    return NewTask(**msgspec.structs.asdict(line))


def _many(source: BinaryIO, total: int | None, patience: float | None, api: Api) -> int:
    """Reads between the requests, not during one: Ctrl-C ends a wait for standard input at once."""
    from taskmill.cli import new_runner, remote, show

    ids: list[str] = []
    waits = patience != 0
    with remote.told_apart(), new_runner() as runner:
        client = runner.run(_made(api))
        listing = show.Listing(json=api.json)
        try:
            with _progress("count") as bars:
                bar = bars.add_task("submitted", total=total) if bars is not None else None
                for batch in batches(source):
                    for task in runner.run(client.create_tasks(batch)):
                        ids.append(task.id)
                        if not (api.json and waits):
                            listing.add(task if api.json else task.id)
                    if bars is not None and bar is not None:
                        bars.update(bar, completed=len(ids))
            status = runner.run(_ends(client, ids, patience, listing, api)) if waits else 0
        except (TaskmillError, KeyboardInterrupt):
            if ids:
                say(f"{len(ids):,} tasks were submitted")
            raise
        finally:
            runner.run(client.close())
    listing.end()
    return status


async def _made(api: Api) -> Client:
    from taskmill.cli.remote import client_of

    return client_of(api)


async def _ends(
    client: Client, ids: Sequence[str], patience: float | None, listing: Listing, api: Api
) -> int:
    """Waits for all of them; how the command ends. What they ended as goes to standard error, or into the JSON."""
    deadline = _deadline(patience)
    counts: Counter[str] = Counter()
    with _progress("count") as bars:
        bar = bars.add_task("ended", total=len(ids)) if bars is not None else None
        for first in range(0, len(ids), WAITERS):
            some = ids[first : first + WAITERS]
            ended = await asyncio.gather(*(_end(client, one, deadline, None) for one in some))
            for one, seen in zip(some, ended, strict=True):
                counts[seen.status.name.lower() if seen is not None else "not ended"] += 1
                if api.json:
                    listing.add(_told(one, seen))
            if bars is not None and bar is not None:
                bars.update(bar, completed=first + len(some))
    if not api.json:
        say(", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no tasks")
    bad = counts["failed"] + counts["cancelled"]
    return ENDED_BADLY if bad else TOO_LATE if counts["not ended"] else 0


def _told(id: str, seen: Seen | None) -> dict[str, Any]:
    if seen is None:
        return {"id": id, "status": None}
    return {"id": id, "status": seen.status.name, "error": seen.error, "result": _result(seen)}
