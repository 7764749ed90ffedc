"""The app of the benchmarks: a handler that does nothing."""

from __future__ import annotations

from typing import Any

from taskmill import Context, Taskmill

app = Taskmill()


@app.default
async def noop(ctx: Context, payload: dict[str, Any]) -> None:
    """Nothing: what is measured is the way of a task to it and back."""
