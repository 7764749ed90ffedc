"""A runner dies: its runs settle as crashed, go on as suspects alone, and the others are not touched."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from taskmill.model.clock import boottime
from taskmill.model.state import Status
from taskmill.worker.child import Child
from taskmill.worker.options import WorkerOptions
from taskmill.worker.runners import State
from tests.support import ROOT, Processes, running, wait_until
from tests.worker.conftest import MakeApp
from tests.worker.kit import FakeSource, Worker, working

SUICIDE = """
    @app.task("KILL")
    async def k(ctx, payload):
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), 9)

    @app.task("SLOW")
    async def s(ctx, payload):
        await asyncio.sleep(0.3)
        return [os.getpid(), ctx.attempt]
"""


def main_pid(worker: Worker) -> int:
    return worker.supervisor.runners._main[0].link.pid


async def test_a_killed_runner_makes_suspects_that_run_alone(source: FakeSource, make_app: MakeApp) -> None:
    """kill -9 with five tasks in it: each settles CRASHED with the signal, and completes in its next run."""
    app = make_app(
        """
        @app.task("T")
        async def t(ctx, payload):
            if ctx.attempt == 1:
                await asyncio.sleep(60)
            await asyncio.sleep(0.1)
            return os.getpid()
        """
    )
    ids = [source.add("T") for _ in range(5)]
    async with working(source, app, concurrency=5) as worker:
        await wait_until(lambda: len(worker.supervisor.book.runs) == 5)
        await wait_until(lambda: all(run.sent for run in worker.supervisor.book.runs.values()))
        first = main_pid(worker)
        os.kill(first, signal.SIGKILL)
        most = 0
        while any(source.status[task] is not Status.COMPLETED for task in ids):
            most = max(most, worker.supervisor.book.suspects)
            shared = {str(runner.link.pid) for runner in worker.supervisor.runners._main}
            await asyncio.sleep(0.005)
    assert most == 1
    for task in ids:
        crashed, succeeded = source.of(task)
        assert (crashed.ended, crashed.error_type) == ("CRASHED", "CRASHED")
        assert crashed.message == f"its runner process {first} died: signal SIGKILL"
        assert succeeded.ended == "SUCCEEDED"
    assert len({source.of(task)[1].result for task in ids}) == 1, "the spare runner is kept warm"
    assert not {source.of(task)[1].result for task in ids} & shared, "and nothing else runs there"


async def test_one_of_five_kills_its_runner_three_times(source: FakeSource, make_app: MakeApp) -> None:
    """It ends as POISON; the four others complete, and spend one attempt on it."""
    poison = source.add("KILL", max_retries=10)
    others = [source.add("SLOW") for _ in range(4)]
    async with working(source, make_app(SUICIDE), concurrency=5):
        await wait_until(lambda: source.status[poison] is Status.FAILED, 20)
        await wait_until(lambda: all(source.status[task] is Status.COMPLETED for task in others), 20)
    assert source.ended(poison) == ["CRASHED"] * 4
    for task in others:
        assert source.ended(task) == ["CRASHED", "SUCCEEDED"]


async def test_an_isolated_handler_that_dies_takes_nobody_with_it(
    source: FakeSource, make_app: MakeApp
) -> None:
    """Its exit code is in the message; the task beside it runs on."""
    source.requeue = False
    app = make_app(
        """
        @app.task("ALONE", isolated=True)
        def a(ctx, payload): os._exit(7)
        @app.task("BESIDE")
        async def b(ctx, payload):
            await asyncio.sleep(0.5)
            return 1
        """
    )
    beside, alone = source.add("BESIDE"), source.add("ALONE")
    async with working(source, app):
        await wait_until(lambda: len(source.outcomes) == 2)
    assert source.ended(beside) == ["SUCCEEDED"]
    assert (source.of(alone)[0].message or "").endswith("died: exit code 7")


@pytest.mark.parametrize("watch", ["pidfd", "thread"])
async def test_a_runner_is_replaced_after_it_died(
    source: FakeSource, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, watch: str
) -> None:
    """The worker goes on with a new process; also where the system has no pidfd."""
    if watch == "thread":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    async with working(source, make_app(SUICIDE)) as worker:
        first = main_pid(worker)
        os.kill(first, signal.SIGKILL)
        task = source.add("SLOW")
        await wait_until(lambda: source.ended(task)[-1:] == ["SUCCEEDED"])
        assert main_pid(worker) != first


async def test_a_runner_ends_with_its_supervisor(
    tmp_path: Path, make_app: MakeApp, processes: Processes
) -> None:
    """SIGKILL to the supervisor: the runner dies even while its handler holds the interpreter."""
    app = make_app(
        f"""
        import re
        @app.task("BLOCK")
        async def b(ctx, payload):
            open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
            re.match(r"(a+)+$", "a" * 40 + "b")
        """
    )
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.worker.kit import FakeSource, Worker, working
async def main():
    source = FakeSource()
    source.add("BLOCK")
    async with working(source, {app!r}):
        await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = processes.start([sys.executable, "-c", script])
    await wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    await wait_until(lambda: not running(pid), what="the runner is gone")


async def test_a_runner_inherits_one_socket_and_nothing_else(source: FakeSource, make_app: MakeApp) -> None:
    """Of the supervisor's open files, it has the standard three and its line."""
    app = make_app(
        """
        @app.task("T")
        async def t(ctx, payload): return 1
        """
    )
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        async with working(source, app) as worker:
            theirs = open_files(main_pid(worker))
            assert not theirs & {file for file in open_files() if not file.startswith("/")}
    finally:
        os.close(read)
        os.close(write)


def open_files(pid: int | str = "self") -> set[str]:
    """What its descriptors from 3 on point to, but for those of the kernel that have no name of their own."""
    links = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.add(str(fd.readlink()) if int(fd.name) > 2 else "")
    return {link for link in links if link and not link.startswith("anon_inode:")}


async def test_what_a_handler_left_running_ends_with_its_runner(
    source: FakeSource, make_app: MakeApp, tmp_path: Path
) -> None:
    """A program that a handler started and forgot is in the runner's group."""
    app = make_app(
        """
        import subprocess
        @app.task("T")
        async def t(ctx, payload): return subprocess.Popen(["sleep", "600"]).pid
        """
    )
    task = source.add("T")
    async with working(source, app):
        await wait_until(lambda: source.of(task))
        pid = int(source.of(task)[0].result or "0")
        assert running(pid)
    await wait_until(lambda: not running(pid))


async def test_every_task_ends_once_while_runners_are_killed(source: FakeSource, make_app: MakeApp) -> None:
    """A hundred tasks, a kill -9 of a random runner again and again: each completes, and settles once a fence."""
    app = make_app(
        """
        @app.task("A")
        async def a(ctx, payload):
            await asyncio.sleep(0.02)
            return ctx.fence
        @app.task("B")
        def b(ctx, payload):
            time.sleep(0.02)
            return ctx.fence
        """
    )
    ids = [source.add("AB"[n % 2], max_retries=100) for n in range(100)]
    rng = Random(3)
    async with working(source, app, concurrency=6, processes=2) as worker:
        for _ in range(5):
            await asyncio.sleep(0.1)
            runners = [r for r in worker.supervisor.runners._all if r.state is State.READY]
            if runners:
                os.kill(rng.choice(runners).link.pid, signal.SIGKILL)
        await wait_until(lambda: all(source.status[task] > Status.PROCESSING for task in ids), 30)
        await wait_until(lambda: worker.supervisor.book.free == 6)
        assert worker.supervisor.book.suspects == 0
    leases = [(claimed.id, claimed.fence) for claimed, _ in source.outcomes]
    assert len(leases) == len(set(leases))
    assert {source.status[task] for task in ids} == {Status.COMPLETED}


async def test_a_worker_with_tasks_that_crash_goes_on_at_once(source: FakeSource, make_app: MakeApp) -> None:
    """A runner that had finished a run is replaced without a growing backoff."""
    async with working(source, make_app(SUICIDE)) as worker:
        for _ in range(4):
            await finish_one_and_die(worker, source)
            assert worker.supervisor.runners._failures == 1


async def finish_one_and_die(worker: Worker, source: FakeSource) -> None:
    fine = source.add("SLOW")
    await wait_until(lambda: source.ended(fine)[-1:] == ["SUCCEEDED"])
    first = main_pid(worker)
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: worker.supervisor.runners.usable and main_pid(worker) != first)


async def test_a_system_without_pidfds_watches_by_a_thread(
    source: FakeSource, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old kernel, or a sandbox, that refuses the call: runners start, and their end is noticed."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "not on this kernel")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    async with working(source, make_app(SUICIDE)) as worker:
        await finish_one_and_die(worker, source)


async def test_runs_that_need_a_runner_of_their_own_wait_while_none_can_be_started(
    source: FakeSource, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task goes back and comes again after a backoff, not in a loop that never rests."""
    task = source.add("T")
    app = make_app(
        """
        @app.task("T", isolated=True)
        async def t(ctx, payload): return 1
        """
    )
    spawn, until = Child.start, boottime() + 2.0

    def start(child: Child, options: WorkerOptions, slots: int) -> None:
        if slots == 1 and boottime() < until:
            raise OSError(errno.EAGAIN, "no process left")
        spawn(child, options, slots)

    monkeypatch.setattr(Child, "start", start)
    async with working(source, app, concurrency=2):
        await wait_until(lambda: source.ended(task)[-1:] == ["SUCCEEDED"])
    assert 1 <= source.ended(task).count("RELEASED") < 50
