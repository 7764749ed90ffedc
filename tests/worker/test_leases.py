"""Leases are renewed whatever handlers do; a lease that is lost is never settled."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from taskmill.errors import BadUserInput
from taskmill.model.task import Renewal, Renewed
from taskmill.worker.runners import State
from tests.support import ROOT, Processes, running, wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, working

APP = """
    @app.task("WAIT")
    async def w(ctx, payload):
        try:
            await asyncio.sleep(payload or 60)
        except asyncio.CancelledError:
            open(os.environ["PYTHONPATH"] + "/stopped", "w").write(ctx.cancelled.reason)
            raise
        return "waited"

    @app.task("THREAD")
    def t(ctx, payload): time.sleep(600)

    @app.task("STARTS")
    async def s(ctx, payload): open(os.environ["PYTHONPATH"] + "/started", "w").close()

    @app.task("PID")
    async def p(ctx, payload): return os.getpid()
"""


async def test_a_handler_that_blocks_for_three_leases_keeps_its_lease(make_app: MakeApp) -> None:
    """It holds its interpreter; the supervisor renews, the task runs once and completes."""
    source = FakeSource(lease=0.9)
    app = make_app(
        """
        @app.task("BLOCK")
        async def b(ctx, payload):
            end = time.monotonic() + 2.8
            while time.monotonic() < end:
                sum(range(100_000))
            return ctx.attempt
        """
    )
    task = source.add("BLOCK")
    async with working(source, app):
        await wait_until(lambda: source.of(task))
    assert source.ended(task) == ["SUCCEEDED"]
    assert source.of(task)[0].result == "1"
    assert source.renewals[task] >= 6


async def test_a_lost_lease_stops_the_handler_and_its_outcome_is_not_sent(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """A renewal tells that another run has the task."""
    source.lease = 1.2
    task = source.add("WAIT")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: worker.supervisor.book.runs)
        await wait_until(lambda: source.renewals[task])
        source.take_away(task)
        await wait_until(lambda: (tmp_path / "stopped").exists() and (tmp_path / "stopped").read_text())
        await wait_until(lambda: worker.supervisor.book.free == 5)
    assert (tmp_path / "stopped").read_text() == "lost"
    assert source.outcomes == []


async def test_a_thread_that_lost_its_lease_is_killed_with_its_runner(
    source: FakeSource, make_app: MakeApp
) -> None:
    """Nothing else runs there, so the process goes at once; the worker goes on with another."""
    source.lease = 1.2
    task = source.add("THREAD")
    async with working(source, make_app(APP)) as worker:
        first = worker.supervisor.runners._main[0].link.pid
        await wait_until(lambda: source.renewals[task])
        source.take_away(task)
        await wait_until(lambda: worker.supervisor.book.free == 5)
        later = source.add("PID")
        await wait_until(lambda: source.of(later))
    assert source.of(task) == []
    assert source.of(later)[0].result != str(first)


async def test_an_outage_longer_than_a_lease_gives_the_runs_up(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """The handler is stopped before its lease is over by the record's clock; nothing is settled afterwards."""
    source.lease = 1.5
    source.requeue = False
    task = source.add("WAIT")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.renewals[task])
        source.down = True
        await wait_until((tmp_path / "stopped").exists)
        await wait_until(lambda: worker.supervisor.book.free == 5)
        source.down = False
        await asyncio.sleep(0.2)
    assert source.outcomes == []


async def test_an_outage_of_half_a_lease_costs_nothing(source: FakeSource, make_app: MakeApp) -> None:
    """A run that ended meanwhile is settled when the record is back, once."""
    source.lease = 3.0
    task = source.add("WAIT", 0.3)
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: worker.supervisor.book.runs)
        source.down = True
        await asyncio.sleep(1.5)
        assert source.outcomes == []
        source.down = False
        await wait_until(lambda: source.of(task))
        await wait_until(lambda: worker.supervisor.book.free == 5)
    assert source.ended(task) == ["SUCCEEDED"]


async def test_a_renewal_that_fails_in_any_way_is_tried_again(
    source: FakeSource, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no outage does not end the worker either, nor its runs."""
    source.lease = 6.0
    renew = source.renew
    failed: list[int] = []

    async def failing(leases: Sequence[Renewal]) -> Renewed:
        if len(failed) < 2:
            failed.append(1)
            raise RuntimeError("a bug")
        return await renew(leases)

    monkeypatch.setattr(source, "renew", failing)
    task = source.add("WAIT")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.renewals[task])
        assert len(failed) == 2
        assert [run.closed for run in worker.supervisor.book.runs.values()] == [False]


async def test_a_buffered_outcome_keeps_its_lease(source: FakeSource, make_app: MakeApp) -> None:
    """While its settle is on its way, for three leases, renewals go on; no new task is claimed into its slot."""
    source.lease = 0.6
    source.settle_gate = asyncio.Event()
    task, behind = source.add("PID"), source.add("PID")
    async with working(source, make_app(APP), concurrency=1) as worker:
        await wait_until(lambda: source.batches)
        await wait_until(lambda: source.renewals[task] >= 9)
        assert worker.supervisor.book.free == 0
        assert behind not in source.held
        source.settle_gate.set()
        await wait_until(lambda: source.ended(behind) == ["SUCCEEDED"])
    assert source.ended(task) == ["SUCCEEDED"]


async def test_a_settle_that_was_on_its_way_decides_over_a_renewal(
    source: FakeSource, make_app: MakeApp
) -> None:
    """A renewal that finds the task finished says lost, while the answer to the settle is still to come."""
    source.lease = 1.2
    source.settle_gate = asyncio.Event()
    task = source.add("PID")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.batches)
        held = source.held.pop(task)
        seen = source.renewals[task]
        await wait_until(lambda: source.renewals[task] > seen + 1)
        source.held[task] = held
        assert len(worker.supervisor.book.runs) == 1
        source.settle_gate.set()
        await wait_until(lambda: worker.supervisor.book.free == 5)
        assert worker.supervisor._settler.settled == 1


async def test_stale_outcomes_are_counted_and_dropped(source: FakeSource, make_app: MakeApp) -> None:
    """The source says that another run has the task: the slot is free, nothing is sent again."""
    task = source.add("WAIT", 0.2)
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: worker.supervisor.book.runs)
        source.take_away(task)
        await wait_until(lambda: worker.supervisor.book.free == 5)
        assert worker.supervisor._settler.stale == 1
    assert len(source.of(task)) == 1


async def test_one_outcome_that_cannot_be_recorded_does_not_hold_up_others(
    source: FakeSource, make_app: MakeApp
) -> None:
    """It is refused as it is: each goes alone, the guilty one ends as RESULT_INVALID."""
    source.requeue = False
    ids = [source.add("WAIT", 0.1) for _ in range(3)]
    settle = source.settle

    async def refusing(batch):  # type: ignore[no-untyped-def]
        if any(claimed.id == ids[1] and outcome.result for claimed, outcome in batch):
            raise BadUserInput("a value that SQL refuses")
        return await settle(batch)

    source.settle = refusing  # type: ignore[method-assign]
    async with working(source, make_app(APP)):
        await wait_until(lambda: len(source.outcomes) == 3)
    assert [source.of(task)[0].error_type for task in ids] == [None, "RESULT_INVALID", None]


async def test_a_claim_that_comes_after_its_lease_does_not_run(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """The process was paused while it claimed: another worker may have the task."""
    source.lease = 0.6
    source.claim_gate = asyncio.Event()
    source.add("STARTS")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.held)
        await asyncio.sleep(0.7)
        source.lease = 30.0
        source.claim_gate.set()
        later = source.add("PID")
        await wait_until(lambda: source.of(later))
        assert worker.supervisor.book.free == 5
    assert not (tmp_path / "started").exists()


async def test_a_worker_that_was_paused_for_two_leases_gives_its_runs_up(
    make_app: MakeApp, tmp_path: Path, processes: Processes
) -> None:
    """SIGSTOP to supervisor and runner: on resume the handlers are stopped first, and nothing is settled."""
    app = make_app(APP)
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.worker.kit import *
async def main():
    source = FakeSource(lease=1.0)
    one, two = source.add("WAIT", 1.5), source.add("THREAD")
    async with working(source, {app!r}) as worker:
        while sum(run.sent for run in worker.supervisor.book.runs.values()) < 2:
            await asyncio.sleep(0.01)
        print("runner", worker.supervisor.runners._main[0].link.pid, "runs", flush=True)
        while worker.supervisor.book.runs:
            await asyncio.sleep(0.01)
    print("outcomes", source.outcomes, flush=True)
asyncio.run(main())
"""
    process = processes.start([sys.executable, "-c", script])
    runner = int(process.wait_for_output(" runs").split("runner ")[1].split()[0])
    for pid in (process.pid, runner):
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2.0)
    for pid in (process.pid, runner):
        os.kill(pid, signal.SIGCONT)
    assert process.wait() == 0
    assert "outcomes []" in process.output()
    assert not running(runner)


async def test_a_claim_that_fails_is_tried_again(source: FakeSource, make_app: MakeApp) -> None:
    """With a backoff; the worker lives on."""
    source.down = True
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.calls["claim"] >= 2)
        task = source.add("PID")
        source.down = False
        await wait_until(lambda: source.of(task))
        assert not worker.task.done()


async def test_a_lost_run_in_a_retired_runner_frees_its_slot(source: FakeSource, make_app: MakeApp) -> None:
    """One thread had outstayed its time, the lease of the other is lost: nothing there counts, and the process ends."""
    app = make_app(
        """
        @app.task("SHORT", timeout=0.3)
        def s(ctx, payload): time.sleep(600)
        @app.task("LONG")
        def l(ctx, payload): time.sleep(600)
        """
    )
    source.lease, source.requeue = 0.9, False
    short, long = source.add("SHORT"), source.add("LONG")
    async with working(source, app, concurrency=2) as worker:
        old = worker.supervisor.runners._main[0]
        await wait_until(lambda: source.ended(short) == ["TIMEOUT"] and long in source.held)
        await wait_until(lambda: old.state is State.RETIRED)
        source.take_away(long)
        await wait_until(lambda: worker.supervisor.book.free == 2)
        assert not running(old.link.pid)
