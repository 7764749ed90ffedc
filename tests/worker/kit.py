"""A Source in memory, for the supervisor alone: it decides as the record does, and remembers every call."""

from __future__ import annotations

import asyncio
import dataclasses
import textwrap
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from taskmill.errors import Unavailable
from taskmill.model.clock import boottime
from taskmill.model.decide import Policy, RunState, decide
from taskmill.model.ids import new_id
from taskmill.model.jsontext import json_text
from taskmill.model.state import Priority, Status
from taskmill.model.task import Claimed, LogLine, NewTask, Outcome, Registry, Renewal, Renewed
from taskmill.worker.options import WorkerOptions
from taskmill.worker.supervisor import Supervisor

POLICY = Policy()


class FakeSource:
    """Tasks in a deque. A settle that leaves a task PENDING or QUEUED puts it back at once, whatever the delay."""

    def __init__(self, lease: float = 30.0) -> None:
        self.lease = lease
        self.ready: deque[Claimed] = deque()
        self.held: dict[bytes, Claimed] = {}
        """What this source takes as PROCESSING, by id."""
        self.outcomes: list[tuple[Claimed, Outcome]] = []
        self.status: dict[bytes, Status] = {}
        self.lines: list[LogLine] = []
        self.submitted: list[NewTask] = []
        self.progress: list[float] = []
        self.calls: Counter[str] = Counter()
        self.batches: list[int] = []
        self.renewals: Counter[bytes] = Counter()
        self.cancel_requests: set[tuple[bytes, int]] = set()
        self.cancel_signals: asyncio.Queue[list[tuple[bytes, int]]] = asyncio.Queue()
        self.registry: Registry | None = None
        self.down = False
        """No call gets through."""
        self.refuse_submits = False
        self.requeue = True
        self.settle_gate: asyncio.Event | None = None
        self.claim_gate: asyncio.Event | None = None
        self.claiming = 0
        self.halted = False
        self._poked = False
        self._wake = asyncio.Event()

    def add(self, type: str | None = None, payload: Any = None, **changes: Any) -> bytes:
        task = Claimed(
            id=new_id(),
            fence=0,
            user_id=b"u" * 16,
            queue="default",
            priority=Priority.NORMAL,
            type=type,
            title="t",
            payload=json_text(payload),
            attempts=0,
            max_retries=None,
            crashes=0,
            suspect=False,
            releases=0,
            deadline=0.0,
        )
        self.put(dataclasses.replace(task, **changes))
        return task.id

    def put(self, task: Claimed) -> None:
        self.ready.append(task)
        self.status.setdefault(task.id, Status.QUEUED)
        self._wake.set()

    def take_away(self, task_id: bytes) -> None:
        """As a rescue by somebody else would."""
        self.held.pop(task_id)

    def cancel(self, task_id: bytes) -> None:
        self.cancel_requests.add((task_id, self.held[task_id].fence))

    def of(self, task_id: bytes) -> list[Outcome]:
        return [outcome for claimed, outcome in self.outcomes if claimed.id == task_id]

    def ended(self, task_id: bytes) -> list[str]:
        return [str(outcome.ended) for outcome in self.of(task_id)]

    def _reach(self, call: str) -> None:
        self.calls[call] += 1
        if self.down or (self.refuse_submits and call == "submit"):
            raise Unavailable("the record does not answer")

    # -- the port ----------------------------------------------------------------------------------------

    async def start(self, registry: Registry) -> None:
        self.registry = registry

    async def claim(self, n: int, *, suspects: int, wait: float) -> list[Claimed]:
        assert n >= 1
        self.claiming += 1
        try:
            self._reach("claim")
            end = boottime() + wait
            self._poked = False
            while True:
                self._wake.clear()
                batch = self._pick(n, suspects)
                if self.claim_gate is not None:
                    await self.claim_gate.wait()
                if batch or self.halted or self._poked or boottime() >= end:
                    return batch
                try:
                    await asyncio.wait_for(self._wake.wait(), end - boottime())
                except TimeoutError:
                    return []
        finally:
            self.claiming -= 1

    def _pick(self, n: int, suspects: int) -> list[Claimed]:
        batch: list[Claimed] = []
        left: deque[Claimed] = deque()
        while self.ready and len(batch) < n:
            task = self.ready.popleft()
            if task.suspect and suspects < 1:
                left.append(task)
                continue
            suspects -= task.suspect
            run = dataclasses.replace(
                task, fence=task.fence + 1, attempts=task.attempts + 1, deadline=boottime() + self.lease
            )
            self.held[run.id] = run
            self.status[run.id] = Status.PROCESSING
            batch.append(run)
        self.ready.extendleft(reversed(left))
        return batch

    def poke(self) -> None:
        self._poked = True
        self._wake.set()

    async def halt(self) -> None:
        self.calls["halt"] += 1
        self.halted = True
        self._wake.set()

    async def renew(self, leases: Sequence[Renewal]) -> Renewed:
        self._reach("renew")
        deadline = boottime() + self.lease
        held: set[tuple[bytes, int]] = set()
        lost: set[tuple[bytes, int]] = set()
        for renewal in leases:
            lease = (renewal.id, renewal.fence)
            now = self.held.get(renewal.id)
            (held if now is not None and now.fence == renewal.fence else lost).add(lease)
            self.renewals[renewal.id] += 1
            if renewal.progress is not None:
                self.progress.append(renewal.progress)
        cancelled = held & self.cancel_requests
        return Renewed(frozenset(held - cancelled), frozenset(cancelled), frozenset(lost), deadline)

    async def settle(self, batch: Sequence[tuple[Claimed, Outcome]]) -> list[bool]:
        self.batches.append(len(batch))
        if self.settle_gate is not None:
            await self.settle_gate.wait()
        self._reach("settle")
        return [self._settle(claimed, outcome) for claimed, outcome in batch]

    def _settle(self, run: Claimed, outcome: Outcome) -> bool:
        self.outcomes.append((run, outcome))
        now = self.held.get(run.id)
        if now is None or now.fence != run.fence:
            return False
        del self.held[run.id]
        state = RunState(run.attempts, run.max_retries, run.crashes, run.suspect, run.releases)
        decision = decide(state, outcome, known_elsewhere=False, policy=POLICY, rng=Random(0))
        self.status[run.id] = decision.status
        if decision.status in (Status.PENDING, Status.QUEUED) and self.requeue:
            self.put(
                dataclasses.replace(
                    run,
                    attempts=decision.attempts,
                    crashes=decision.crashes,
                    suspect=decision.suspect,
                    releases=decision.releases,
                )
            )
        return True

    async def log(self, lines: Sequence[LogLine]) -> None:
        self._reach("log")
        self.lines.extend(lines)

    async def submit(self, tasks: Sequence[NewTask], run: tuple[bytes, int]) -> list[bytes]:
        self._reach("submit")
        self.submitted.extend(tasks)
        return [new_id() for _ in tasks]

    async def cancels(self) -> list[tuple[bytes, int]]:
        return await self.cancel_signals.get()

    async def close(self) -> None:
        self.calls["close"] += 1


class Worker:
    """A supervisor that runs in a task of the test."""

    def __init__(self, supervisor: Supervisor, source: FakeSource) -> None:
        self.supervisor = supervisor
        self.source = source
        self.task = asyncio.create_task(supervisor.run())

    async def ready(self) -> None:
        ready = asyncio.create_task(self.supervisor.ready.wait())
        await asyncio.wait((ready, self.task), timeout=20, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self.task.done():
            self.task.result()
        assert self.supervisor.ready.is_set(), "the worker was not ready within 20 s"

    async def stop(self, timeout: float = 20.0) -> None:
        self.supervisor.stop()
        await asyncio.wait_for(asyncio.shield(self.task), timeout)


@asynccontextmanager
async def working(source: FakeSource, app: str, **options: Any) -> AsyncIterator[Worker]:
    """A worker for `app`, ready; stopped at the end without waiting for its handlers."""
    options = {"lease": source.lease, "drain": 5.0} | options
    worker = Worker(Supervisor(source, WorkerOptions(app=app, **options), rng=Random(1)), source)
    try:
        await worker.ready()
        yield worker
    finally:
        source.down = False
        if not worker.task.done():
            worker.supervisor.stop()
            worker.supervisor.stop()
            await asyncio.wait_for(worker.task, 20)


def write_app(folder: Path, body: str, *, name: str = "user_app") -> str:
    """A module of a user with these handlers, and what `--app` takes for it."""
    head = "import asyncio, os, sys, time, threading\nfrom taskmill import *\n\napp = Taskmill()\n\n"
    (folder / f"{name}.py").write_text(head + textwrap.dedent(body))
    return f"{name}:app"
