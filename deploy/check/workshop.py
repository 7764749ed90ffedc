"""Handlers whose tasks look like those of a shop: short ones and long ones, ones that fail now and then, or for good."""

from __future__ import annotations

import asyncio
from random import Random

from taskmill import Context, Fail, Taskmill
from taskmill.handlers import record

app = Taskmill()
_chance = Random()


@app.task("thumbnail", queue="media", timeout=30)
async def thumbnail(_: Context) -> None:
    await asyncio.sleep(_chance.lognormvariate(-3.2, 0.5))


@app.task("invoice", priority="HIGH", timeout=30, max_retries=3)
async def invoice(_: Context) -> None:
    """The printer is away now and then."""
    await asyncio.sleep(_chance.uniform(0.1, 0.6))
    if _chance.random() < 0.08:
        raise ConnectionError("the printer does not answer")


@app.task("report", timeout=60, max_retries=1)
async def report(_: Context) -> None:
    """Some ask for what is not there."""
    await asyncio.sleep(_chance.lognormvariate(0.5, 0.4))
    if _chance.random() < 0.04:
        raise Fail("no figures for that day")


@app.task("catalog", queue="bulk", priority="LOW", timeout=30)
async def catalog(_: Context) -> None:
    await asyncio.sleep(_chance.uniform(0.15, 0.4))


app.default(record)
