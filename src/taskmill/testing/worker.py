"""A worker in the test's own process: the real runner, and the real decision about what becomes of a task."""

from __future__ import annotations

import asyncio
import json
import uuid
from random import Random
from typing import Final, Protocol, Self

from taskmill.app import Taskmill
from taskmill.model.clock import from_micros
from taskmill.model.decide import Decision, Policy, RunState, cancelled, decide
from taskmill.model.ids import parse_id
from taskmill.model.jsontext import json_text
from taskmill.model.port import Draft
from taskmill.model.state import Priority, Status
from taskmill.model.task import Ended, Outcome
from taskmill.runner import messages
from taskmill.runner.core import Core
from taskmill.testing.job import Job, Line
from taskmill.worker.dispatch import unknown_type

THREADS: Final = 16
"""Plain functions that may run at once: one that waits for another needs two."""
GRACE: Final = 2.0
"""Real seconds for a handler that was told to stop."""


class Mind(Protocol):
    """What a worker asks of its bench."""

    def add(self, draft: Draft) -> Job: ...
    def apply(self, job: Job, decision: Decision) -> None: ...


class Worker:
    """From its startup hooks to its shutdown hooks. It belongs to the event loop that it is entered on."""

    def __init__(self, app: Taskmill, bench: Mind, timeout: float, policy: Policy, rng: Random) -> None:
        self._app = app
        self._bench = bench
        self._timeout = timeout
        self._policy = policy
        self._rng = rng
        self.loop = asyncio.get_running_loop()
        self._core = Core(app, THREADS, self._hear, lambda: True)
        self._jobs: dict[int, Job] = {}
        self._done: dict[int, asyncio.Future[Outcome]] = {}
        self._started: set[asyncio.Task[None]] = set()
        self._run = 0
        self.ran: list[Job] = []
        """In the order in which they started, once for each run."""

    async def __aenter__(self) -> Self:
        await self._core.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.idle()
        problems = await self._core.stop(GRACE)
        if problems:
            raise AssertionError(f"a shutdown hook failed: {'; '.join(problems)}")

    def start(self, job: Job) -> None:
        """Runs it beside what runs already; leaving the worker waits for it."""
        job.status = Status.PROCESSING  # nobody else starts it before its first step
        task = self.loop.create_task(self.run(job))
        self._started.add(task)
        task.add_done_callback(self._started.discard)

    async def idle(self) -> bool:
        """Waits for what was started beside; whether there was anything."""
        busy = bool(self._started)
        while self._started:
            await asyncio.wait(self._started)
        return busy

    async def run(self, job: Job) -> None:
        """One run, and what becomes of the task."""
        self.ran.append(job)
        job.status = Status.PROCESSING
        job.attempts += 1
        outcome = await self._outcome(job)
        job.runs.append(outcome)
        handler = self._app.handlers.get(job.type)
        most = job.max_retries
        if most is None and handler is not None:
            most = handler.spec.max_retries
        state = RunState(job.attempts, most, 0, suspect=False, releases=job.releases)
        if job.cancel_requested:
            decision = cancelled(state, outcome)
        else:
            decision = decide(state, outcome, known_elsewhere=False, policy=self._policy, rng=self._rng)
        self._bench.apply(job, decision)

    def cancel(self, job: Job) -> None:
        """Tells its run to stop."""
        for run, other in self._jobs.items():
            if other is job:
                self._core.receive([messages.Cancel(run, messages.CANCEL)])

    async def _outcome(self, job: Job) -> Outcome:
        handler = self._app.handlers.get(job.type)
        if handler is None:
            return unknown_type(job.type, sorted(t for t in self._app.handlers if t))
        timeout = handler.spec.timeout or self._timeout
        self._run += 1
        run, done = self._run, self.loop.create_future()
        self._jobs[run], self._done[run] = job, done
        try:
            raw = parse_id(job.id) or uuid.UUID(int=0).bytes
            self._core.receive(
                [messages.Job(run, raw, run, job.attempts, job.type, json_text(job.payload), timeout)]
            )
            await asyncio.wait({done}, timeout=timeout)
            if not done.done():
                self._core.receive([messages.Cancel(run, messages.TIMEOUT)])
                await asyncio.wait({done}, timeout=GRACE)
            if not done.done():  # a thread that does not look: a real runner would be ended with it
                return Outcome(Ended.TIMEOUT, error_type="TIMEOUT", message="its time was up")
            outcome: Outcome = done.result()
            return outcome
        finally:
            del self._jobs[run], self._done[run]

    def _hear(self, message: messages.Up) -> None:
        """What the runner says; on the loop."""
        match message:
            case messages.Done():
                if (done := self._done.get(message.run)) is not None and not done.done():
                    done.set_result(message.outcome())
            case messages.Submit():
                self.loop.call_soon(self._submit, message)
            case messages.Logged() if message.run in self._jobs:
                fields = json.loads(message.fields) if message.fields else {}
                self._jobs[message.run].logs.append(Line(message.level, message.message, fields))
            case messages.Progress() if message.run in self._jobs:
                self._jobs[message.run].progress = message.value

    def _submit(self, message: messages.Submit) -> None:
        at = message.scheduled_at
        draft = Draft(
            title=message.title,
            payload=message.payload,
            type=message.type,
            queue=message.queue,
            priority=Priority(message.priority),
            scheduled_at=None if at is None else from_micros(at),
            max_retries=message.max_retries,
            description=message.description,
        )
        job = self._bench.add(draft)
        self._core.receive([messages.Answer(message.call, id=job.id)])
