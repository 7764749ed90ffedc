"""The apps that the workers of these tests load. Every handler leaves a trace in an O_APPEND file that a SIGKILL does
not undo: one line at its start, one at its end.

E2E_EFFECTS is that file; E2E_GATES a folder in which a test makes files that handlers wait for.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from taskmill import Context, Taskmill
from taskmill.api.text import canonical

app = Taskmill()
other = Taskmill()
"""Knows a single type, which `app` does not."""

_effects = -1


def note(ctx: Context, phase: str) -> None:
    """One line, in one write: lines of many processes never mix."""
    global _effects  # noqa: PLW0603 (one descriptor a process)
    if _effects < 0:
        _effects = os.open(os.environ["E2E_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    line = {
        "t": time.clock_gettime(time.CLOCK_BOOTTIME),
        "at": time.time(),
        "task": ctx.task_id,
        "fence": ctx.fence,
        "attempt": ctx.attempt,
        "pid": os.getpid(),
        "sha": hashlib.sha256(canonical(ctx.payload).encode()).hexdigest(),
        "phase": phase,
    }
    os.write(_effects, json.dumps(line).encode() + b"\n")


def gate(name: str) -> bool:
    return Path(os.environ["E2E_GATES"], name).exists()


@app.task("NOTE")
async def just_note(ctx: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """Takes `sleep` seconds, or until the file `gate` is there."""
    note(ctx, "start")
    await asyncio.sleep(payload.get("sleep", 0))
    while "gate" in payload and not gate(payload["gate"]):
        await asyncio.sleep(0.01)
    note(ctx, "end")
    return {"n": payload.get("n")}


@app.task("BLOCK")
def block(ctx: Context, payload: dict[str, Any]) -> None:
    """A plain function, which nothing stops but the end of its process: it waits for the file `gate`."""
    note(ctx, "start")
    while not gate(payload["gate"]):
        time.sleep(0.01)
    note(ctx, "end")


@app.task("FAIL_ONCE")
async def fail_once(ctx: Context, payload: dict[str, Any]) -> None:
    note(ctx, "start")
    if ctx.attempt == 1:
        raise RuntimeError("the first run fails")
    note(ctx, "end")


@app.task("HOLD_GIL")
async def hold_gil(ctx: Context, payload: dict[str, Any]) -> None:
    """No other thread of this process runs for `seconds`: a call into C that keeps the GIL."""
    note(ctx, "start")
    ctypes.PyDLL(None).usleep(int(payload["seconds"] * 1e6))
    note(ctx, "end")


@app.task("DIE")
async def die(ctx: Context, payload: dict[str, Any]) -> None:
    """Ends its process as the kernel does when memory runs out, when the file `gate` is there."""
    note(ctx, "start")
    while not gate(payload["gate"]):
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task("UNTIL_CANCELLED")
async def until_cancelled(ctx: Context, payload: dict[str, Any]) -> None:
    """Ends only by a cancel, or when its process does."""
    note(ctx, "start")
    await asyncio.Event().wait()


@app.task("STUBBORN")
async def stubborn(ctx: Context, payload: dict[str, Any]) -> str:
    """Sees the cancel and finishes all the same."""
    note(ctx, "start")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note(ctx, "end")
    return "finished"


@app.task("PROGRESS")
async def progress(ctx: Context, payload: dict[str, Any]) -> None:
    note(ctx, "start")
    ctx.progress(0.5)
    await asyncio.sleep(payload.get("sleep", 0))
    note(ctx, "end")


@app.default
async def default(ctx: Context, payload: Any) -> Any:
    note(ctx, "start")
    note(ctx, "end")
    return payload


@other.task("OTHER")
async def only_other(ctx: Context, payload: dict[str, Any]) -> None:
    note(ctx, "start")
    note(ctx, "end")
