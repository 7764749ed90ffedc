"""Faults at random over an installation on MySQL and Redis with two APIs, local and remote workers; then the record is
judged. The seed is printed: TASKMILL_TEST_SEED repeats its plan, TASKMILL_TEST_FAULTS makes it longer (seconds).
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from contextlib import suppress

import httpx2
import pytest

from tests.e2e.kit import Client, Site, flush

API = ("api-1", "api-2")
WORKERS = ("worker-local", "worker-r1", "worker-r2")
PAUSE = 4.0
"""Seconds: longer than a lease, so that what is paused is rescued."""


async def enlist(site: Site, admin: Client) -> None:
    """One worker beside the database, and one behind each API."""
    made = await admin.call(
        "mutation($i: CreateApiKeyInput!) { createApiKey(input: $i) { key } }",
        i={"name": "workers", "role": "WORKER"},
    )
    site.start("worker-local")
    for role, api in zip(("worker-r1", "worker-r2"), API, strict=True):
        site.start(
            role,
            DATABASE_URL="",
            REDIS_URL="redis://127.0.0.1:1/0",
            TASKMILL_DATA=str(site.data.parent / role),
            TASKMILL_API_URL=f"http://127.0.0.1:{site.ports[api]}",
            TASKMILL_API_KEY=made["createApiKey"]["key"],
        )


async def load(site: Site, client: Client, over: asyncio.Event, rng: random.Random) -> None:
    """Tasks of all kinds, for as long as there are faults; one at a time is cancelled."""
    n = 0
    while not over.is_set():
        with suppress(httpx2.TransportError):
            ids = await client.create(
                *({"n": n + i, "sleep": round(rng.uniform(0, 0.3), 3)} for i in range(10))
            )
            ids += await client.create({"n": n + 10}, type="FAIL_ONCE")
            n += 11
            if rng.random() < 0.3:
                with suppress(httpx2.TransportError, AssertionError):  # CONFLICT: it was quicker
                    await client.cancel(ids[0])
        await asyncio.sleep(rng.uniform(0.05, 0.2))


async def faults(site: Site, redis_url: str, seconds: float, rng: random.Random) -> list[str]:
    """One after the other; what was done."""
    loop, done = asyncio.get_running_loop(), []
    until = loop.time() + seconds
    while loop.time() < until:
        what = rng.choice(("kill", "kill", "pause", "api", "flush"))
        role = rng.choice({"api": API, "pause": API + WORKERS}.get(what, WORKERS))
        done.append(f"{what} {role if what != 'flush' else ''}")
        if what == "flush":
            await flush(redis_url)
        elif what == "pause":
            site.parts[role].signal(signal.SIGSTOP)
            await asyncio.sleep(rng.choice((0.5, PAUSE)))
            site.parts[role].signal(signal.SIGCONT)
        else:
            site.parts[role].kill()
            await asyncio.sleep(rng.uniform(0.0, 1.5))
            site.start(role)
        await asyncio.sleep(rng.uniform(0.2, 1.5))
    return done


@pytest.mark.timeout(240)
@pytest.mark.parametrize("sql_engine", ["mysql"], indirect=True)
async def test_faults_at_random(distributed: Site) -> None:
    """kill -9, SIGSTOP for longer than a lease, an API that ends, FLUSHALL: when all is well again everything drains, and
    each task has gone its way once, within its attempts."""
    site = distributed
    seed = int(os.environ.get("TASKMILL_TEST_SEED") or secrets.randbelow(10**6))
    rng = random.Random(seed)
    for role in (*API, "scheduler"):
        site.start(role)
    await site.ready(timeout=60)
    admin = await site.client("api-1")
    await enlist(site, admin)
    await site.ready(timeout=60)
    clients = [await site.client(api) for api in API]
    over = asyncio.Event()
    loads = [asyncio.create_task(load(site, client, over, rng)) for client in clients]
    try:
        done = await faults(
            site, site.settings["REDIS_URL"], float(os.environ.get("TASKMILL_TEST_FAULTS", "4")), rng
        )
    finally:
        over.set()
        await asyncio.wait(loads)
    print(f"seed {seed}: {', '.join(done)}")
    for one in loads:
        one.result()
    await site.heal()
    for client in clients:
        client.history.paused |= set(client.history.created)
        await client.drained(60)
    await site.judge()
