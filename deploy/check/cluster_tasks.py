"""The handlers of the cluster stage, in an image of their own upon ours: those of Taskmill, and one that takes its time."""

from __future__ import annotations

import asyncio

from taskmill import Context
from taskmill.handlers import app

__all__ = ["app"]


@app.task("patient", timeout=120)
async def patient(_: Context, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds
