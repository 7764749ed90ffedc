"""A stop is an ordered list: no claims, handlers finish, outcomes are flushed, the rest is given back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from taskmill.worker.options import WorkerOptions
from taskmill.worker.supervisor import Supervisor
from tests.support import ROOT, Processes, running, wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, Worker, working

APP = """
    @app.task("SLEEP")
    async def s(ctx, payload):
        await asyncio.sleep(payload)
        return "slept"

    @app.task("THREAD")
    def t(ctx, payload):
        time.sleep(payload)
        return os.getpid()
"""


def sent(worker: Worker, n: int) -> bool:
    return sum(run.sent for run in worker.supervisor.book.runs.values()) == n


async def test_running_handlers_finish(source: FakeSource, make_app: MakeApp) -> None:
    """Within the drain time they complete, with renewals all the while; then the source is closed."""
    source.lease = 0.6
    one, two = source.add("SLEEP", 1.0), source.add("THREAD", 1.0)
    async with working(source, make_app(APP), drain=10.0) as worker:
        await wait_until(lambda: sent(worker, 2))
        before = source.renewals[one]
        await worker.stop()
    assert source.ended(one) == source.ended(two) == ["SUCCEEDED"]
    assert source.renewals[one] > before
    assert source.calls["close"] == 1


async def test_what_does_not_finish_is_given_back(source: FakeSource, make_app: MakeApp) -> None:
    """RELEASED, so no attempt is spent; a thread goes back only when its process is gone."""
    source.requeue = False
    one, two = source.add("SLEEP", 600), source.add("THREAD", 600)
    async with working(source, make_app(APP), drain=0.2, stop_timeout=0.5, grace=0.3) as worker:
        pid = worker.supervisor.runners._main[0].link.pid
        await wait_until(lambda: sent(worker, 2))
        await worker.stop()
    assert not running(pid)
    assert source.ended(one) == source.ended(two) == ["RELEASED"]
    assert not source.held


async def test_a_claim_in_flight_is_awaited_and_what_it_brings_is_given_back(
    source: FakeSource, make_app: MakeApp
) -> None:
    """The claim is not cancelled, its task does not start, and it does not stay claimed."""
    source.requeue = False
    source.claim_gate = asyncio.Event()
    task = source.add("SLEEP", 0)
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: task in source.held)
        worker.supervisor.stop()
        await wait_until(lambda: source.halted)
        assert source.claiming == 1
        source.claim_gate.set()
        await asyncio.wait_for(asyncio.shield(worker.task), 10)
    assert source.ended(task) == ["RELEASED"]
    assert not source.held


async def test_no_task_is_claimed_after_a_stop(source: FakeSource, make_app: MakeApp) -> None:
    """Even while handlers still finish."""
    one = source.add("SLEEP", 0.5)
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: sent(worker, 1))
        worker.supervisor.stop()
        await wait_until(lambda: source.halted)
        late = source.add("SLEEP", 0)
        await asyncio.wait_for(asyncio.shield(worker.task), 10)
    assert source.ended(one) == ["SUCCEEDED"]
    assert source.of(late) == []


async def test_a_second_stop_skips_the_waiting_not_the_flushing(
    source: FakeSource, make_app: MakeApp
) -> None:
    """The outcome that waits for its settle is recorded; the handler that runs is given back."""
    source.requeue = False
    source.settle_gate = asyncio.Event()
    done, slow = source.add("SLEEP", 0), source.add("SLEEP", 600)
    async with working(source, make_app(APP), drain=600.0) as worker:
        await wait_until(lambda: source.batches)
        await wait_until(lambda: len(source.held) == 2)
        worker.supervisor.stop()
        worker.supervisor.stop()
        await wait_until(lambda: source.halted)
        await asyncio.sleep(0.1)
        assert not worker.task.done()
        source.settle_gate.set()
        await asyncio.wait_for(asyncio.shield(worker.task), 10)
    assert source.ended(done) == ["SUCCEEDED"]
    assert source.ended(slow) == ["RELEASED"]


async def test_a_stop_before_the_app_is_loaded(source: FakeSource, make_app: MakeApp) -> None:
    """The worker ends without having claimed anything."""
    supervisor = Supervisor(source, WorkerOptions(app=make_app("time.sleep(60)")))
    worker = Worker(supervisor, source)
    await wait_until(lambda: supervisor.runners._main)
    pid = supervisor.runners._main[0].link.pid
    await worker.stop()
    assert not running(pid)
    assert source.calls["claim"] == 0


async def test_a_source_that_is_down_does_not_hold_the_stop_for_ever(
    source: FakeSource, make_app: MakeApp
) -> None:
    """Its leases run out, and then nothing is left to flush."""
    source.lease = 1.0
    source.add("SLEEP", 0.2)
    async with working(source, make_app(APP), drain=0.5) as worker:
        await wait_until(lambda: sent(worker, 1))
        source.down = True
        await worker.stop(15)
    assert source.outcomes == []


async def test_sigterm_to_the_whole_group_drains(
    make_app: MakeApp, tmp_path: Path, processes: Processes
) -> None:
    """A service manager signals every process: runners leave it to their supervisor, and the exit status is 0."""
    app = make_app(APP)
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.worker.kit import *
from taskmill.runtime.service import run_services
async def main():
    source = FakeSource()
    task = source.add("SLEEP", 1.5)
    supervisor = Supervisor(source, WorkerOptions(app={app!r}, drain=10.0))
    async def tell():
        while not any(run.sent for run in supervisor.book.runs.values()):
            await asyncio.sleep(0.01)
        print("runner", supervisor.runners._main[0].link.pid, "end", flush=True)
    telling = asyncio.create_task(tell())
    await run_services([supervisor])
    print("ended", source.ended(task), flush=True)
asyncio.run(main())
"""
    process = processes.start([sys.executable, "-c", script])
    pid = int(process.wait_for_output(" end").split("runner ")[1].split()[0])
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    assert process.stop() == 0
    assert "ended ['SUCCEEDED']" in process.output()
    assert not running(pid)
