"""The handlers of the cluster stage, in an image of their own upon ours: tasks without a type, and one that takes its time."""

from __future__ import annotations

import asyncio

from taskmill import Context, Taskmill
from taskmill.handlers import record

app = Taskmill()
app.default(record)


@app.task("patient", timeout=120)
async def patient(_: Context, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds
