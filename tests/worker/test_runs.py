"""A worker with a real runner process runs handlers and settles what they yield."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, working


async def test_async_and_plain_handlers_run(source: FakeSource, make_app: MakeApp) -> None:
    """An async handler and a plain one both run in the child, and their results are settled."""
    app = make_app(
        """
        @app.task("ASYNC")
        async def a(ctx, payload):
            return {"got": payload, "pid": os.getpid()}

        @app.task("PLAIN")
        def b(ctx, payload):
            return [payload, ctx.attempt, ctx.fence, ctx.type, ctx.task_id]
        """
    )
    one, two = source.add("ASYNC", {"x": 1}), source.add("PLAIN", "y")
    async with working(source, app):
        await wait_until(lambda: len(source.outcomes) == 2)
    result = json.loads(source.of(one)[0].result or "")
    assert result["got"] == {"x": 1}
    assert result["pid"] != os.getpid()
    assert json.loads(source.of(two)[0].result or "")[:4] == ["y", 1, 1, "PLAIN"]


async def test_slots_bound_what_runs_at_a_time(source: FakeSource, make_app: MakeApp) -> None:
    """No more handlers run at once than there are slots, in threads and on the loop together."""
    app = make_app(
        """
        running, most = 0, 0
        lock = threading.Lock()

        def enter(by):
            global running, most
            with lock:
                running += by
                most = max(most, running)
            return most

        @app.task("ASYNC")
        async def a(ctx, payload):
            enter(1); await asyncio.sleep(0.02); return enter(-1)

        @app.task("PLAIN")
        def b(ctx, payload):
            enter(1); time.sleep(0.02); return enter(-1)
        """
    )
    for _ in range(15):
        source.add("ASYNC")
        source.add("PLAIN")
    async with working(source, app, concurrency=3):
        await wait_until(lambda: len(source.outcomes) == 30)
    assert max(int(outcome.result or "0") for _, outcome in source.outcomes) == 3


async def test_a_thousand_tasks_each_run_once(source: FakeSource, make_app: MakeApp) -> None:
    """Under load outcomes travel in batches, and each task has exactly one."""
    app = make_app(
        """
        @app.task("T")
        async def t(ctx, payload): return payload
        """
    )
    ids = [source.add("T", n) for n in range(1000)]
    async with working(source, app, concurrency=50, processes=2) as worker:
        await wait_until(lambda: len(source.outcomes) == 1000)
        await wait_until(lambda: worker.supervisor.book.free == 50)
    assert [source.of(task)[0].result for task in ids] == [str(n) for n in range(1000)]
    assert len(source.batches) < 1000


async def test_the_default_handler_takes_tasks_without_a_type_only(
    source: FakeSource, make_app: MakeApp
) -> None:
    """A typed task that nobody knows fails with the known types in its message, without a runner."""
    source.requeue = False
    app = make_app(
        """
        @app.default
        async def d(ctx, payload): return "default"

        @app.task("KNOWN")
        async def k(ctx, payload): return 1
        """
    )
    plain, typed = source.add(None), source.add("OTHER")
    async with working(source, app):
        await wait_until(lambda: len(source.outcomes) == 2)
    assert source.of(plain)[0].result == '"default"'
    outcome = source.of(typed)[0]
    assert (outcome.ended, outcome.error_type) == ("UNKNOWN_TYPE", "UNKNOWN_TYPE")
    assert outcome.message == "Unknown task type 'OTHER' (known: KNOWN)"


async def test_nothing_that_a_handler_does_ends_the_worker(source: FakeSource, make_app: MakeApp) -> None:
    """SystemExit, a CancelledError of its own and a 10 MB result fail their run; the runner goes on."""
    source.requeue = False
    app = make_app(
        """
        @app.task("EXIT")
        async def e(ctx, payload): sys.exit(3)
        @app.task("EXIT_THREAD")
        def et(ctx, payload): sys.exit(3)
        @app.task("INTERRUPT")
        async def i(ctx, payload): raise KeyboardInterrupt
        @app.task("CANCEL")
        async def c(ctx, payload): raise asyncio.CancelledError
        @app.task("LARGE")
        async def l(ctx, payload): return "x" * 10_000_000
        @app.task("PID")
        async def p(ctx, payload): return os.getpid()
        """
    )
    async with working(source, app) as worker:
        pid = next(iter(worker.supervisor.runners._main)).link.pid
        ids = {t: source.add(t) for t in ("EXIT", "EXIT_THREAD", "INTERRUPT", "CANCEL", "LARGE")}
        await wait_until(lambda: len(source.outcomes) == 5)
        last = source.add("PID")
        await wait_until(lambda: source.of(last))
    errors = {name: source.of(task)[0].error_type for name, task in ids.items()}
    assert errors == {
        "EXIT": "SystemExit",
        "EXIT_THREAD": "SystemExit",
        "INTERRUPT": "KeyboardInterrupt",
        "CANCEL": "CancelledError",
        "LARGE": "RESULT_INVALID",
    }
    assert source.of(last)[0].result == str(pid)


async def test_logs_progress_and_further_tasks_reach_the_source(
    source: FakeSource, make_app: MakeApp
) -> None:
    """`ctx` works from the loop and from threads."""
    app = make_app(
        """
        from datetime import datetime, UTC

        @app.task("ASYNC")
        async def a(ctx, payload):
            ctx.log("info", "hello \\x1b[31m", size=3)
            ctx.progress(0.5)
            new = await ctx.submit(title="next", type="X", payload={"a": 1}, priority="HIGH",
                                   scheduled_at=datetime(2030, 1, 1, tzinfo=UTC))
            await asyncio.sleep(0.4)
            return new

        @app.task("PLAIN")
        def p(ctx, payload):
            ctx.log("error", "from a thread")
            return ctx.submit_sync(title="more")
        """
    )
    one, two = source.add("ASYNC"), source.add("PLAIN")
    source.lease = 3.0
    async with working(source, app):
        await wait_until(lambda: len(source.outcomes) == 2)
        await wait_until(lambda: len(source.lines) == 2)
    assert source.ended(one) == source.ended(two) == ["SUCCEEDED"]
    lines = {line.message: (line.level, line.fields, line.task_id) for line in source.lines}
    assert lines == {
        "hello \\x1b[31m": ("INFO", '{"size":3}', one),
        "from a thread": ("ERROR", None, two),
    }
    first = next(task for task in source.submitted if task.title == "next")
    assert (first.user_id, first.type, first.payload, first.priority) == (b"u" * 16, "X", '{"a":1}', 1)
    assert str(first.scheduled_at) == "2030-01-01 00:00:00"
    assert source.progress == [0.5]


async def test_a_submit_that_the_record_refuses_is_an_error_in_the_handler(
    source: FakeSource, make_app: MakeApp
) -> None:
    """The handler sees Unavailable, and may catch it."""
    app = make_app(
        """
        @app.task("T")
        async def t(ctx, payload):
            try:
                await ctx.submit(title="next")
            except Unavailable as error:
                return error.message
        """
    )
    task = source.add("T")
    source.refuse_submits = True
    async with working(source, app):
        await wait_until(lambda: source.of(task))
    assert source.of(task)[0].result == '"the record does not answer"'


async def test_hooks_run_in_each_runner(source: FakeSource, make_app: MakeApp, tmp_path: Path) -> None:
    """Startup hooks before the first run, shutdown hooks at the stop, in reverse order."""
    app = make_app(
        f"""
        log = open({str(tmp_path / "hooks")!r}, "a", buffering=1)

        @app.on_startup
        async def one(): print("start 1", file=log)
        @app.on_startup
        def two(): print("start 2", file=log)
        @app.on_shutdown
        async def three(): print("stop 1", file=log)
        @app.on_shutdown
        def four(): print("stop 2", file=log)
        @app.task("T")
        async def t(ctx, payload): print("run", file=log)
        """
    )
    source.add("T")
    async with working(source, app) as worker:
        await wait_until(lambda: source.outcomes)
        await worker.stop()
    text = (tmp_path / "hooks").read_text().splitlines()
    assert text == ["start 1", "start 2", "run", "stop 2", "stop 1"]


@pytest.mark.parametrize("processes", [0, 1])
async def test_handlers_run_in_the_supervisor_with_no_processes(
    source: FakeSource, make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """processes=0: the same messages, in this process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    app = make_app(
        """
        @app.task("ASYNC")
        async def a(ctx, payload): return os.getpid()
        @app.task("PLAIN", isolated=True)
        def p(ctx, payload): return os.getpid()
        """
    )
    ids = [source.add("ASYNC"), source.add("PLAIN")]
    async with working(source, app, processes=processes):
        await wait_until(lambda: len(source.outcomes) == 2)
    here = [source.of(task)[0].result == str(os.getpid()) for task in ids]
    assert here == [processes == 0] * 2
