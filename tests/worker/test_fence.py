"""A worker that is cut off from the record fences itself: its runs stop before their leases do, and nothing more is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from taskmill.model.task import Claimed, LogLine, NewTask, Outcome, Renewal, Renewed
from taskmill.worker.run import Run
from tests.support import running, wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, Worker, working

APP = """
    def mark(name):
        open(os.environ["PYTHONPATH"] + "/" + name, "w").close()

    @app.task("TALK")
    async def talk(ctx, payload):
        n = 0
        try:
            while True:
                n += 1
                ctx.log("info", f"line {n}")
                ctx.progress(0.5)
                await asyncio.sleep(0.01)
        finally:
            mark("stopped")

    @app.task("WAIT")
    async def wait(ctx, payload): await asyncio.sleep(600)

    @app.task("DEAF")
    async def deaf(ctx, payload):
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass

    @app.task("THREAD")
    def thread(ctx, payload): time.sleep(600)

    @app.task("ALONE", isolated=True)
    async def alone(ctx, payload): mark("begun")

    @app.task("PID")
    async def pid(ctx, payload): return os.getpid()
"""


class HalfOpen(FakeSource):
    """A source that can stop answering without a word: a call is sent, and nothing comes back until it is cut short.
    It notes what is sent for runs that the worker has given up."""

    def __init__(self, lease: float) -> None:
        super().__init__(lease)
        self.answers = asyncio.Event()
        self.answers.set()
        self.worker: Worker | None = None
        self.late: list[str] = []

    async def _sent(self, call: str, leases: Iterable[tuple[bytes, int]]) -> None:
        if self.worker is not None:
            held = {run.lease for run in self.worker.supervisor.book.runs.values() if not run.closed}
            self.late += [call for lease in leases if lease not in held]
        await self.answers.wait()

    async def renew(self, leases: Sequence[Renewal]) -> Renewed:
        await self._sent("renew", ((r.id, r.fence) for r in leases))
        return await super().renew(leases)

    async def settle(self, batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        await self._sent("settle", ((claimed.id, claimed.fence) for claimed, _ in batch))
        return await super().settle(batch)

    async def log(self, lines: Sequence[LogLine]) -> None:
        await self._sent("log", ((line.task_id, line.fence) for line in lines))
        await super().log(lines)

    async def claim(self, n: int, *, suspects: int, wait: float) -> list[Claimed]:
        await self.answers.wait()
        return await super().claim(n, suspects=suspects, wait=wait)

    async def submit(self, tasks: Sequence[NewTask], run: tuple[bytes, int]) -> list[bytes]:
        await self.answers.wait()
        return await super().submit(tasks, run)


def runs(worker: Worker) -> list[Run]:
    return list(worker.supervisor.book.runs.values())


async def test_nothing_is_sent_for_a_run_that_was_fenced(make_app: MakeApp, tmp_path: Path) -> None:
    """The record falls silent: the handler is stopped while a renewal still waits for its answer; when the record is back
    no log line, progress or outcome of that run reaches it, and the worker goes on."""
    source = HalfOpen(lease=2.0)
    source.requeue = False
    task = source.add("TALK")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.renewals[task] and source.lines)
        source.worker = worker
        source.answers.clear()
        await wait_until((tmp_path / "stopped").exists)
        await wait_until(lambda: worker.supervisor.book.free == 5)
        source.answers.set()
        later = source.add("PID")
        await wait_until(lambda: source.ended(later) == ["SUCCEEDED"])
    assert source.late == []
    assert source.ended(task) == []


async def test_an_outcome_on_its_way_is_given_up_with_its_lease(make_app: MakeApp) -> None:
    """The settle is not sent again when the record is back: another worker may have the task."""
    source = HalfOpen(lease=1.5)
    source.requeue = False
    gate = source.settle_gate = asyncio.Event()
    task = source.add("PID")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: source.batches == [1])
        source.worker = worker
        source.answers.clear()
        await wait_until(lambda: worker.supervisor.book.free == 5)
        source.answers.set()
        gate.set()
        later = source.add("PID")
        await wait_until(lambda: source.ended(later) == ["SUCCEEDED"])
    assert source.late == []
    assert source.batches == [1, 1]
    assert source.ended(task) == []


async def test_a_thread_that_is_fenced_is_killed_and_its_neighbours_go_back(
    source: FakeSource, make_app: MakeApp
) -> None:
    """It cannot be stopped, so its runner goes; what else ran there spends no attempt. Another runner takes its place."""
    source.requeue = False
    thread, other = source.add("THREAD"), source.add("WAIT")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: [run.sent for run in runs(worker)] == [True, True])
        pid = worker.supervisor.runners._main[0].link.pid
        [run] = [run for run in runs(worker) if run.claimed.id == thread]
        run.deadline = 0.0
        await wait_until(lambda: not running(pid))
        await wait_until(lambda: source.ended(other) == ["RELEASED"])
        later = source.add("PID")
        await wait_until(lambda: source.of(later))
    assert source.ended(thread) == []
    assert source.of(later)[0].result != str(pid)


async def test_a_handler_that_does_not_hear_its_cancellation_is_killed(
    source: FakeSource, make_app: MakeApp
) -> None:
    """An async one that swallows it costs its runner, and nothing is settled for it."""
    task = source.add("DEAF")
    async with working(source, make_app(APP)) as worker:
        await wait_until(lambda: [run.sent for run in runs(worker)] == [True])
        pid = worker.supervisor.runners._main[0].link.pid
        runs(worker)[0].deadline = 0.0
        await wait_until(lambda: not running(pid))
        await wait_until(lambda: worker.supervisor.book.free == 5)
    assert source.ended(task) == []


async def test_a_run_that_is_fenced_before_its_runner_is_ready_never_begins(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """A runner of its own still starts: it is told nothing, and ends."""
    app = make_app(APP)
    async with working(source, app) as worker:
        task = source.add("ALONE")
        await wait_until(lambda: runs(worker))
        [run] = runs(worker)
        assert not run.sent
        run.deadline = 0.0
        await wait_until(lambda: worker.supervisor.book.free == 5)
        await wait_until(lambda: len(worker.supervisor.runners._all) == 1)
    assert source.ended(task) == []
    assert not (tmp_path / "begun").exists()
