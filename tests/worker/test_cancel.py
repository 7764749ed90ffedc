"""A cancel that a client asked for reaches the handler: by the signal at once, by the next renewal anyway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import running, wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, working

APP = """
    @app.task("ASYNC")
    async def a(ctx, payload): await asyncio.sleep(60)

    @app.task("AWAITS")
    async def w(ctx, payload):
        try:
            await ctx.cancelled
        except asyncio.CancelledError:
            pass
        return bool(ctx.cancelled)

    @app.task("PLAIN")
    def p(ctx, payload):
        ctx.cancelled.wait(30)
        return ctx.cancelled.reason

    @app.task("DEAF", isolated=True)
    def d(ctx, payload):
        open(payload, "w").write(str(os.getpid()))
        time.sleep(600)
"""


@pytest.mark.parametrize("by", ["signal", "renewal"])
async def test_an_async_handler_is_cancelled(source: FakeSource, make_app: MakeApp, by: str) -> None:
    """Its outcome is CANCELLED; the record decides what that means."""
    source.lease = 60.0 if by == "signal" else 0.6
    source.requeue = False
    task = source.add("ASYNC")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: any(run.sent for run in worker.supervisor.book.runs.values()))
        if by == "signal":
            source.cancel_signals.put_nowait([(task, source.held[task].fence)])
        else:
            source.cancel(task)
        await wait_until(lambda: source.of(task))
    assert source.ended(task) == ["CANCELLED"]


@pytest.mark.parametrize(("type", "result"), [("AWAITS", "true"), ("PLAIN", '"cancel"')])
async def test_a_handler_sees_the_cancel(
    source: FakeSource, make_app: MakeApp, type: str, result: str
) -> None:
    """`ctx.cancelled` is true, has a reason, and may be waited for."""
    source.lease = 0.6
    task = source.add(type)
    async with working(source, make_app(APP)):
        await wait_until(lambda: task in source.held and source.renewals[task])
        source.cancel(task)
        await wait_until(lambda: source.of(task))
    assert source.of(task)[0].result == result


async def test_a_cancel_of_another_run_is_ignored(source: FakeSource, make_app: MakeApp) -> None:
    """A signal names the fence: an old one does not stop a newer run."""
    task = source.add("PLAIN")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: worker.supervisor.book.runs)
        source.cancel_signals.put_nowait([(task, 99), (b"?" * 16, 1)])
        source.cancel_signals.put_nowait([])
        await wait_until(source.cancel_signals.empty)
        run = worker.supervisor.book.by_lease[task, 1]
        assert run.reason is None


async def test_a_deaf_isolated_function_is_killed(
    source: FakeSource, make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a grace to see the flag; it ends CANCELLED, not crashed."""
    monkeypatch.setattr("taskmill.worker.dispatch.CANCEL_GRACE", 0.2)
    source.lease = 0.6
    source.requeue = False
    path = tmp_path / "pid"
    task = source.add("DEAF", str(path))
    async with working(source, make_app(APP), grace=0.2) as worker:
        await wait_until(lambda: path.exists() and path.read_text())
        source.cancel(task)
        await wait_until(lambda: source.of(task))
        assert not running(int(path.read_text()))
        await wait_until(lambda: worker.supervisor.book.free == 5)
    assert source.ended(task) == ["CANCELLED"]
