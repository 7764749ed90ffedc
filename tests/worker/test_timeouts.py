"""A run that takes too long ends as TIMEOUT, whatever kind of handler it is, and the worker goes on."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import running, wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, working


async def test_an_async_handler_is_cancelled_at_its_timeout(source: FakeSource, make_app: MakeApp) -> None:
    """It may clean up; its run counts as TIMEOUT even when it swallows the cancellation and returns."""
    source.requeue = False
    app = make_app(
        """
        @app.task("RAISES", timeout=0.2)
        async def r(ctx, payload): await asyncio.sleep(60)
        @app.task("SWALLOWS", timeout=0.2)
        async def s(ctx, payload):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "done all the same"
        """
    )
    ids = [source.add("RAISES"), source.add("SWALLOWS")]
    async with working(source, app) as worker:
        await wait_until(lambda: len(source.outcomes) == 2)
        await wait_until(lambda: worker.supervisor.book.free == 5)
    for task in ids:
        outcome = source.of(task)[0]
        assert (outcome.ended, outcome.error_type) == ("TIMEOUT", "TIMEOUT")
        assert outcome.message == "TIMEOUT: the run took longer than 0.2 s"


async def test_a_thread_is_settled_at_once_and_keeps_its_slot(source: FakeSource, make_app: MakeApp) -> None:
    """The slot is free only when its runner was replaced, and that comes after the other work there."""
    source.requeue = False
    app = make_app(
        """
        @app.task("STUCK", timeout=0.3)
        def s(ctx, payload): time.sleep(600)
        @app.task("OTHER")
        async def o(ctx, payload):
            await asyncio.sleep(1.5)
            return os.getpid()
        """
    )
    stuck, other = source.add("STUCK"), source.add("OTHER")
    async with working(source, app, concurrency=2) as worker:
        first = worker.supervisor.runners._main[0].link.pid
        await wait_until(lambda: source.ended(stuck) == ["TIMEOUT"])
        assert source.ended(other) == []
        assert worker.supervisor.book.free == 0
        await wait_until(lambda: source.of(other))
        assert source.of(other)[0].result == str(first), "the runner was left to finish its other work"
        await wait_until(lambda: worker.supervisor.book.free == 2)
        await wait_until(lambda: not running(first))
        again = source.add("OTHER")
        await wait_until(lambda: source.ended(again) == ["SUCCEEDED"])


async def test_a_thread_sees_that_its_time_is_up(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """A plain function that waits on `ctx.cancelled` can end by itself, and does not cost its runner."""
    source.requeue = False
    app = make_app(
        f"""
        @app.task("T", timeout=0.2)
        def t(ctx, payload):
            seen = ctx.cancelled.wait(30)
            open({str(tmp_path / "seen")!r}, "w").write(f"{{seen}} {{ctx.cancelled.reason}}")
        """
    )
    task = source.add("T")
    async with working(source, app) as worker:
        first = worker.supervisor.runners._main[0]
        await wait_until(lambda: source.ended(task) == ["TIMEOUT"])
        await wait_until(lambda: worker.supervisor.book.free == 5)
        assert worker.supervisor.runners._main == [first]
    assert (tmp_path / "seen").read_text() == "True timeout"


async def test_an_isolated_handler_is_killed_at_its_timeout(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """Even one that holds the interpreter, with all that it started; the runner beside it is not touched."""
    source.requeue = False
    app = make_app(
        """
        import re, subprocess
        @app.task("BLOCK", isolated=True, timeout=0.5)
        def b(ctx, payload):
            child = subprocess.Popen(["sleep", "600"]).pid
            open(payload, "w").write(f"[{os.getpid()}, {child}]")
            re.match(r"(a+)+$", "a" * 60 + "b")
        """
    )
    path = tmp_path / "pids"
    task = source.add("BLOCK", str(path))
    async with working(source, app) as worker:
        main = worker.supervisor.runners._main[0].link.pid
        await wait_until(lambda: source.ended(task) == ["TIMEOUT"])
        pids = json.loads(path.read_text())
        assert main not in pids
        await wait_until(lambda: not any(running(pid) for pid in pids))
        assert running(main)
        await wait_until(lambda: worker.supervisor.book.free == 5)


async def test_an_async_handler_that_holds_the_loop_costs_its_runner(
    source: FakeSource, make_app: MakeApp
) -> None:
    """It cannot be cancelled: settled as TIMEOUT after the grace, and the runner is replaced."""
    source.requeue = False
    app = make_app(
        """
        @app.task("HOLDS", timeout=0.2)
        async def h(ctx, payload): time.sleep(600)
        @app.task("T")
        async def t(ctx, payload): return 1
        """
    )
    task = source.add("HOLDS")
    async with working(source, app, grace=0.3) as worker:
        await wait_until(lambda: source.ended(task) == ["TIMEOUT"])
        await wait_until(lambda: worker.supervisor.book.free == 5)
        later = source.add("T")
        await wait_until(lambda: source.ended(later) == ["SUCCEEDED"])


async def test_the_worker_has_a_timeout_for_handlers_without_one(
    source: FakeSource, make_app: MakeApp
) -> None:
    """WorkerOptions.timeout."""
    source.requeue = False
    app = make_app(
        """
        @app.task("T")
        async def t(ctx, payload): await asyncio.sleep(60)
        """
    )
    task = source.add("T")
    async with working(source, app, timeout=0.2):
        await wait_until(lambda: source.ended(task) == ["TIMEOUT"])
