"""taskmill.testing: a Taskmill without servers."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskmill import Context, Retry, Taskmill
from taskmill.errors import InvalidPayload, NotFound, TaskCancelled, TaskFailed
from taskmill.model.state import Status
from taskmill.testing import Bench


@dataclass
class Order:
    number: int
    at: datetime


def shop() -> tuple[Taskmill, dict[str, Any]]:
    """An app whose handlers tell what they did."""
    app = Taskmill()
    did: dict[str, Any] = {"ran": []}

    @app.task(queue="mail", retry_on=(OSError,), max_retries=2)
    async def send(ctx: Context, to: str, order: Order) -> Order:
        did["ran"].append(to)
        if to == "flaky@example.com" and ctx.attempt < 3:
            raise OSError("no answer")
        if to == "bad":
            raise KeyError("bad")
        ctx.log("info", "sent", to=to)
        return Order(order.number + 1, order.at)

    @app.task
    def count(ctx: Context, payload: Any) -> int:
        did["ran"].append(threading.current_thread() is threading.main_thread())
        return len(payload)

    @app.task
    async def fan(ctx: Context, n: int) -> list[int]:
        parts = [await double.submit(n=i) for i in range(n)]
        return [await part.wait(timeout=10) for part in parts]

    @app.task(priority="HIGH")
    async def double(ctx: Context, n: int) -> int:
        did["ran"].append(n)
        return 2 * n

    did |= {"send": send, "count": count, "fan": fan, "double": double}
    return app, did


ORDER = Order(7, datetime(2026, 1, 1, tzinfo=UTC))


async def test_what_is_submitted_is_kept_and_runs_when_it_is_drained() -> None:
    """A submit runs nothing; a drain does, and `wait` then gives the typed result after its way through JSON."""
    app, did = shop()
    async with Bench(app) as bench:
        task = await did["send"].submit(to="ann@example.com", order=ORDER)
        job = bench.one(did["send"])
        assert (job.id, job.queue, job.status, did["ran"]) == (task.id, "mail", Status.QUEUED, [])
        assert job.payload == {"to": "ann@example.com", "order": {"number": 7, "at": "2026-01-01T00:00:00Z"}}
        assert await bench.drain() == [job]
        assert await task.wait() == Order(8, ORDER.at)
        assert [(line.level, line.message, line.fields) for line in job.logs] == [
            ("INFO", "sent", {"to": "ann@example.com"})
        ]
        assert await bench.drain() == []


async def test_parameters_are_checked_at_the_submit() -> None:
    """What the handler does not take is InvalidPayload at once, and nothing is submitted."""
    app, did = shop()
    async with Bench(app) as bench:
        with pytest.raises(InvalidPayload):
            await did["double"].submit(n="two")
        assert bench.jobs == []


async def test_a_retry_waits_for_the_clock() -> None:
    """A failed run is due again after its backoff: at most 1 s after the first, 2 s after the second failure."""
    app, did = shop()
    async with Bench(app) as bench:
        task = await did["send"].submit(to="flaky@example.com", order=ORDER)
        job = bench.one()
        for runs, pause in ((1, 1), (2, 2)):
            await bench.drain()
            assert (job.status, job.attempts) == (Status.PENDING, runs)
            assert await task.status() is Status.PENDING
            bench.clock.advance(pause)
        await bench.drain()
        assert (job.status, job.attempts, job.error) == (Status.COMPLETED, 3, None)
        assert [run.error_type for run in job.runs] == ["OSError", "OSError", None]


async def test_advance_goes_through_all_that_is_to_come() -> None:
    """`drain(advance=True)` moves the clock to each retry and each delayed task."""
    app, did = shop()
    start = datetime(2026, 5, 1, tzinfo=UTC)
    async with Bench(app, at=start) as bench:
        await did["double"].options(delay=timedelta(hours=2)).submit(n=1)
        await did["double"].options(scheduled_at=start + timedelta(hours=1)).submit(n=2)
        assert await bench.drain() == []
        await bench.drain(advance=True)
        assert did["ran"] == [2, 1]
        assert bench.clock.now() == start + timedelta(hours=2)
        await did["double"].options(delay=60).submit(n=3)
        bench.clock.advance(59)
        assert await bench.drain() == []
        bench.clock.advance(1)
        assert len(await bench.drain()) == 1


async def test_a_failure_is_the_tests_failure() -> None:
    """A task that FAILED fails the drain with its traceback; `check=False` is for tests of failures."""
    app, did = shop()
    async with Bench(app) as bench:
        await did["send"].submit(to="bad", order=ORDER)
        with pytest.raises(AssertionError, match=r"KeyError: 'bad'"):
            await bench.drain()
        task = await did["send"].submit(to="bad", order=ORDER)
        [job] = await bench.drain(check=False)
        assert (job.status, job.attempts) == (Status.FAILED, 1)  # retry_on names OSError only
        with pytest.raises(TaskFailed, match="bad"):
            await task.wait()


async def test_a_handler_may_wait_for_what_it_submits() -> None:
    """While a drain runs, a task that a handler waits for runs beside it; all of them are told."""
    app, did = shop()
    async with Bench(app) as bench:
        task = await did["fan"].submit(n=3)
        ran = await bench.drain()
        assert await task.wait() == [0, 2, 4]
        assert len(ran) == 4


async def test_urgent_ones_go_first() -> None:
    """Due tasks run by priority, then in the order of their submission."""
    app, did = shop()
    async with Bench(app) as bench:
        for n, priority in ((1, "LOW"), (2, "NORMAL"), (3, "CRITICAL"), (4, "NORMAL")):
            await did["double"].options(priority=priority).submit(n=n)
        await bench.drain()
        assert did["ran"] == [3, 2, 4, 1]


async def test_eager_runs_within_the_submit() -> None:
    """With `eager` code under test may wait for its own task; a task that is not due stays."""
    app, did = shop()
    async with Bench(app, eager=True) as bench:
        assert await (await did["fan"].submit(n=2)).wait(timeout=10) == [0, 2]
        later = await did["double"].options(delay=5).submit(n=9)
        assert await later.status() is Status.PENDING
        both = await asyncio.gather(did["double"].submit(n=1), did["double"].submit(n=2))
        assert [await task.wait(timeout=10) for task in both] == [2, 4]
        assert len(bench.jobs) == 6


def test_programs_without_a_loop() -> None:
    """`submit_sync`, `drain_sync`, `wait_sync`; a plain handler runs in a thread, as in a worker."""
    app, did = shop()
    with Bench(app) as bench:
        task = did["count"].submit_sync({"a": 1, "b": 2})
        bench.drain_sync()
        assert task.wait_sync() == 2
        assert did["ran"] == [False]
    with Bench(app, eager=True):
        assert did["double"].submit_sync(n=4).wait_sync() == 8


async def test_assertions_say_what_was_there() -> None:
    """`one` and `assert_submitted` find a task by handler and parameters, or list what was submitted."""
    app, did = shop()
    async with Bench(app) as bench:
        with pytest.raises(AssertionError, match="nothing was"):
            bench.one(did["double"])
        await did["double"].submit(n=1)
        await did["send"].submit(to="ann@example.com", order=ORDER)
        assert bench.assert_submitted(did["send"], order=ORDER).payload["to"] == "ann@example.com"
        assert bench.submitted("double") == bench.submitted(did["double"]) == [bench.jobs[0]]
        with pytest.raises(AssertionError, match=r"job 'double' \{'n': 1\}"):
            bench.assert_submitted(did["double"], n=2)
        bench.clear()
        assert bench.submitted() == []


async def test_cancelling() -> None:
    """A task that waits ends at once; one that runs is told to stop, and ends as CANCELLED."""
    app, did = shop()
    running = asyncio.Event()

    @app.task
    async def endless(ctx: Context) -> None:
        running.set()
        await asyncio.Event().wait()

    async with Bench(app) as bench:
        waiting = await did["double"].submit(n=1)
        await waiting.cancel()
        with pytest.raises(TaskCancelled):
            await waiting.wait()
        task = await endless.submit()
        draining = asyncio.ensure_future(bench.drain())
        await running.wait()
        await task.cancel()
        await draining
        assert bench.job(task.id).status is Status.CANCELLED
        with pytest.raises(NotFound):
            bench.job("nothing")


async def test_a_timeout_is_real() -> None:
    """A handler's timeout ends its run in real time, as in a worker: it is cancelled; TIMEOUT, and a retry."""
    app = Taskmill()
    told: list[str | None] = []

    @app.task(timeout=0.05)
    async def slow(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(ctx.cancelled.reason)
            raise

    async with Bench(app) as bench:
        await slow.submit()
        [job] = await bench.drain()
        assert (job.status, job.runs[0].error_type, told) == (Status.PENDING, "TIMEOUT", ["timeout"])


async def test_who_says_how_many_retries() -> None:
    """The task's own number wins, then the handler's, then the bench's."""
    app = Taskmill()

    @app.task(max_retries=0)
    async def once(ctx: Context) -> None:
        raise OSError("never")

    @app.task
    async def some(ctx: Context) -> None:
        raise OSError("never")

    async with Bench(app, max_retries=1) as bench:
        await once.submit()
        await once.options(max_retries=2).submit()
        await some.submit()
        await bench.drain(advance=True, check=False)
        assert [job.attempts for job in bench.jobs] == [1, 3, 2]


async def test_a_drain_waits_for_what_runs_beside_it() -> None:
    """A task that a handler looked at runs on when the handler has returned; what it submits is drained too."""
    app = Taskmill()

    @app.task
    async def first(ctx: Context) -> None:
        await (await second.submit()).status()

    @app.task
    async def second(ctx: Context) -> None:
        await asyncio.sleep(0.05)
        await third.submit()

    @app.task
    async def third(ctx: Context) -> None: ...

    async with Bench(app) as bench:
        await first.submit()
        ran = await bench.drain()
        assert [job.type for job in ran] == ["first", "second", "third"]
        assert all(job.status is Status.COMPLETED for job in ran)


async def test_retry_says_when() -> None:
    """`raise Retry(after=…)` is due after just that many seconds of the clock."""
    app = Taskmill()

    @app.task(max_retries=1)
    async def later(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise Retry("not yet", after=90)
        return ctx.attempt

    async with Bench(app) as bench:
        task = await later.submit()
        await bench.drain()
        bench.clock.advance(89)
        assert await bench.drain() == []
        bench.clock.advance(1)
        await bench.drain()
        assert await task.wait() == 2


async def test_hooks_run_around_a_drain() -> None:
    """The app's startup hooks run before the first run of a drain, its shutdown hooks after the last."""
    app = Taskmill()
    seen: list[str] = []
    app.on_startup(lambda: seen.append("start"))
    app.on_shutdown(lambda: seen.append("stop"))

    @app.task
    async def work(ctx: Context) -> None:
        seen.append("run")

    async with Bench(app) as bench:
        await work.submit()
        await bench.drain()
    assert seen == ["start", "run", "stop"]


async def test_a_type_that_the_app_does_not_know() -> None:
    """It fails with UNKNOWN_TYPE, as when no worker knows it."""
    other, did = shop()
    async with Bench(Taskmill(), max_retries=0) as bench:
        await did["double"].submit(n=1)
        with pytest.raises(AssertionError, match="Unknown task type 'double'"):
            await bench.drain()
    assert other.handlers


async def test_a_task_without_a_type_and_without_a_default_handler() -> None:
    """It fails in the words of a worker: another handler is missing than one for a type."""
    app, _ = shop()

    @Taskmill().default
    async def anything(ctx: Context) -> None:
        """Of another app."""

    async with Bench(app, max_retries=0) as bench:
        await anything.submit()
        [job] = await bench.drain(check=False)
    assert job.error == "No handler for tasks without a type (known: count, double, fan, send)"


async def test_after_it_submits_go_where_they_went_before() -> None:
    """A bench takes the place of the way out only while it is open."""
    app, did = shop()
    async with Bench(app) as outer:
        async with Bench(app) as inner:
            await did["double"].submit(n=1)
        await did["double"].submit(n=2)
        assert [[job.payload["n"] for job in bench.jobs] for bench in (outer, inner)] == [[2], [1]]


async def test_tasks_without_end_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that submits itself again for ever fails the drain."""
    monkeypatch.setattr("taskmill.testing.bench.RUNS", 20)
    app = Taskmill()

    @app.task
    async def again(ctx: Context) -> None:
        await again.submit()

    async with Bench(app) as bench:
        await again.submit()
        with pytest.raises(AssertionError, match="more to run"):
            await bench.drain()


async def test_a_declared_schedule_fires_when_told() -> None:
    """`fire` submits what an `@app.cron` would at its time."""
    app = Taskmill()

    @app.cron("0 9 * * MON", name="weekly", payload={"n": 3}, priority="HIGH")
    @app.task
    async def report(ctx: Context, n: int) -> int:
        return n

    async with Bench(app) as bench:
        job = bench.fire("weekly")
        await bench.drain()
        assert (job.type, job.title, job.priority.name, job.result) == ("report", "weekly", "HIGH", 3)
        with pytest.raises(NotFound, match="monthly"):
            bench.fire("monthly")
