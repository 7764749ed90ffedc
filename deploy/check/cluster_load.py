"""Tasks through the Service while processes are replaced, until it is told to stop; then every one of them is looked at.

    python -m deploy.check.cluster_load http://10.96.0.7:3000

Nothing is lost: each task that the API has accepted is COMPLETED. Nothing is spent: each has taken one attempt. Nobody
notices: no call has failed, after what the client tries again by itself.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from dataclasses import dataclass, field
from random import Random

from taskmill import Client
from taskmill.errors import TaskmillError

PER_SECOND = 5
SHORT = (0.2, 1.0)
LONG, LONG_EVERY = 40.0, 12.0
"""Seconds of a task that outlasts TASKMILL_DRAIN, and seconds between two of them: a worker that is replaced gives it back."""
PATIENCE = 180.0


@dataclass
class Count:
    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    slowest: float = 0.0


async def load(url: str) -> Count:
    count, chance, stop = Count(), Random(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Client(url) as client:
        await client.register(f"load-{secrets.token_hex(4)}@example.com", secrets.token_urlsafe(18), "Load")
        print("started", flush=True)
        began, long_ones = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                if time.monotonic() - began >= long_ones * LONG_EVERY:
                    long_ones += 1
                    group.create_task(_submit(client, LONG, count))
                group.create_task(_submit(client, chance.uniform(*SHORT), count))
                await asyncio.sleep(1 / PER_SECOND)
        async with asyncio.timeout(PATIENCE):
            wrong = [text for task in count.accepted if (text := await _fault(client, task))]
    if wrong:
        raise SystemExit("\n".join([f"{len(wrong)} of {len(count.accepted)} tasks:", *wrong[:10]]))
    return count


async def _submit(client: Client, seconds: float, count: Count) -> None:
    began = time.monotonic()
    try:
        task = await client.create_task("of the load", type="patient", payload={"seconds": seconds})
        count.accepted.append(task.id)
    except TaskmillError as error:
        count.refused.append(f"{type(error).__name__}: {error}")
    count.slowest = max(count.slowest, time.monotonic() - began)


async def _fault(client: Client, task_id: str) -> str:
    """What is wrong with how the task ended; nothing when all is well."""
    task = await client.wait(task_id, timeout=PATIENCE)
    if (task.status, task.attempts) == ("COMPLETED", 1):
        return ""
    runs = [
        f"{run.outcome or 'running'} after {run.ended_at - run.started_at if run.ended_at else '?'} in {run.worker}: {run.error}"
        for run in reversed(await client.runs(task_id))
    ]
    return f"{task_id}: {task.payload}, {task.status}, attempts: {task.attempts}, runs: {'; '.join(runs)}"


if __name__ == "__main__":
    done = asyncio.run(load(sys.argv[1]))
    print(
        f"{len(done.accepted)} tasks, each COMPLETED by one attempt; calls that failed: {len(done.refused)}; "
        f"slowest call: {done.slowest:.1f} s",
        *done.refused[:5],
        sep="\n",
    )
    sys.exit(bool(done.refused) or not done.accepted)
