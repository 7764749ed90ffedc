"""Load for a Taskmill, by its API alone, that has something of everything that the dashboards show.

    asyncio.run(drive("http://127.0.0.1:3000", seconds=120))     # the handlers of taskmill.handlers
    asyncio.run(drive(url, seconds=120, kinds=WORKSHOP))         # those of deploy.check.workshop
    python -m deploy.check.traffic URL SECONDS [workshop]        # the same two as a process, which SIGTERM ends

Tasks of several types, queues and priorities in waves, among them ones that fail; a schedule that fires each minute;
a subscription, questions, calls that are wrong, and logins that fail until they are refused.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from taskmill import Client
from taskmill.client import NewTask
from taskmill.errors import TaskmillError

WAVE: Final = 75.0
"""Seconds from one crest of the load to the next."""


@dataclass(frozen=True)
class Kind:
    type: str | None
    per_second: float
    """At the middle of the wave."""
    payload: dict[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priorities: Sequence[str] = ("NORMAL",)


BUILT_IN: Final = (
    Kind(None, 6, {"of": "deploy-check"}, priorities=("LOW", "NORMAL", "HIGH", "CRITICAL")),
    Kind("IMAGE_THUMBNAILS", 1, {"source": "not-there.png"}),
    Kind("WEBHOOK", 0.5, {"url": "https://127.0.0.1/"}),
)
"""Of taskmill.handlers: one that does well, one whose file is not there, one whose address is not allowed."""
WORKSHOP: Final = (
    Kind("thumbnail", 22, queue="media"),
    Kind("invoice", 7, priorities=("HIGH", "HIGH", "CRITICAL")),
    Kind("report", 1.6),
    Kind("catalog", 9, queue="bulk", priorities=("LOW",)),
    Kind(None, 3, {"of": "deploy-check"}),
)


async def drive(url: str, seconds: float, kinds: Sequence[Kind] = BUILT_IN) -> None:
    """As a new user, for so long. What the API refuses or cannot answer is part of it."""
    async with Client(url) as client:
        email = f"traffic-{secrets.token_hex(4)}@example.com"
        await client.register(email, secrets.token_urlsafe(18), "Traffic")
        last = kinds[-1]
        await client.create_schedule(
            f"each minute {email}", "* * * * *", type=last.type, payload=last.payload
        )
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(_watch(client))
            await asyncio.gather(
                *(_submit(client, kind, until) for kind in kinds),
                _ask(client, until),
                _err(url, client, until),
            )
            watching.cancel()


async def _submit(client: Client, kind: Kind, until: float) -> None:
    chance = Random()
    owed = 0.0
    while time.monotonic() < until:
        crest = 1 + 0.9 * math.sin(2 * math.pi * time.monotonic() / WAVE)
        owed += kind.per_second * crest
        new = [_task(kind, chance) for _ in range(int(owed))]
        owed -= len(new)
        with suppress(TaskmillError):
            if len(new) == 1:
                await client.create_task(new[0].title, **_fields(new[0]))
            elif new:
                await client.create_tasks(new)
        await asyncio.sleep(1)


def _task(kind: Kind, chance: Random) -> NewTask:
    return NewTask(
        title=f"{kind.type or 'plain'} of deploy-check",
        type=kind.type,
        payload=kind.payload,
        queue=kind.queue,
        priority=chance.choice(kind.priorities),
    )


def _fields(task: NewTask) -> dict[str, Any]:
    return {n: getattr(task, n) for n in ("type", "payload", "queue", "priority")}


async def _ask(client: Client, until: float) -> None:
    """What people and programs look at."""
    while time.monotonic() < until:
        with suppress(TaskmillError):
            await client.stats()
            page = await client.tasks_page(limit=20)
            if page:
                await client.task(page[0].id)
        await asyncio.sleep(0.4)


async def _err(url: str, client: Client, until: float) -> None:
    """A document that is wrong, an id that is not there, a password that is not right."""
    async with Client(url) as stranger:
        await asyncio.sleep(5)  # else it would be the first that Prometheus sees, and no rate
        while time.monotonic() < until:
            for call in (
                client.execute("{ nonsense }"),
                client.cancel_task("00000000-0000-7000-8000-000000000000"),
                stranger.stats(),
            ):
                with suppress(TaskmillError):
                    await call
            with suppress(TaskmillError, TimeoutError):
                async with asyncio.timeout(1):  # refused for longer and longer
                    await stranger.login("nobody@example.com", "not the password")
            await asyncio.sleep(2)


async def _watch(client: Client) -> None:
    with suppress(TaskmillError):
        async for _ in client.watch():
            pass


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[3:] not in ([], ["workshop"]):
        sys.exit(__doc__)
    asyncio.run(drive(sys.argv[1], float(sys.argv[2]), WORKSHOP if sys.argv[3:] else BUILT_IN))
