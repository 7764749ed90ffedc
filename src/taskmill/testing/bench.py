"""A Taskmill without servers: what is submitted is kept, and runs when the test says so."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, Self, TypeAlias

from taskmill.app import Handler, Taskmill
from taskmill.errors import Conflict, NotFound
from taskmill.model.decide import Decision, Policy
from taskmill.model.ids import id_text, new_id
from taskmill.model.jsontext import json_text, plain
from taskmill.model.port import Draft, Port, Seen, set_connector
from taskmill.model.state import Status
from taskmill.testing.job import Clock, Job
from taskmill.testing.worker import Worker

RUNS: Final = 10_000
"""Of one drain: more are taken for tasks that submit each other for ever."""

Which: TypeAlias = "str | Handler[..., Any, Any] | None"


class Bench:
    """Stands in for a whole Taskmill while it is open: `with` or `async with`. One at a time in a process.

    Every `submit` of a handler, wherever in the process, is kept in `jobs`. `drain` runs what is due in this process,
    with a worker's own code: parameters and results go through JSON, failures are retried, timeouts end runs. Only an
    isolated handler has no process of its own here.
    """

    def __init__(
        self,
        app: Taskmill,
        *,
        eager: bool = False,
        at: datetime | None = None,
        max_retries: int = 3,
        timeout: float = 300.0,
        seed: int = 0,
    ) -> None:
        """`eager`: a task that is due runs within its own submit. `at`: what the clock says at first (aware).

        `max_retries` and `timeout` (real seconds of a run) hold where the handler says nothing, `seed` is for the
        jitter of retries.
        """
        self.app = app
        self.clock = Clock(at)
        self.jobs: list[Job] = []
        """All that was submitted, in order."""
        self._eager = eager
        self._policy = Policy(max_retries=max_retries)
        self._timeout = timeout
        self._rng = Random(seed)
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = set_connector(_Connector(self))
        return self

    def __exit__(self, *_: object) -> None:
        set_connector(self._before)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    # -- what was submitted ------------------------------------------------------------------------------

    def submitted(self, which: Which = None, *, queue: str | None = None) -> list[Job]:
        """The tasks of a handler (or of a type), in order; all without one."""
        return [
            job
            for job in self.jobs
            if (which is None or job.type == _type_of(which)) and queue in (None, job.queue)
        ]

    def one(self, which: Which = None, *, queue: str | None = None) -> Job:
        """The only one that fits. AssertionError when there is none, or another."""
        found = self.submitted(which, queue=queue)
        if len(found) != 1:
            raise AssertionError(
                f"{len(found)} tasks of {_named(which)} were submitted, not 1: {self._all()}"
            )
        return found[0]

    def assert_submitted(self, which: Which, /, **params: Any) -> Job:
        """The first task of the handler with these parameters; more of them may be there. AssertionError lists all."""
        wanted = {name: plain(value) for name, value in params.items()}
        for job in self.submitted(which):
            if _has(job.payload, wanted):
                return job
        raise AssertionError(f"no task of {_named(which)} with {wanted} was submitted: {self._all()}")

    def job(self, id: str) -> Job:
        """By its id. NotFound."""
        for job in self.jobs:
            if job.id == id:
                return job
        raise NotFound(f"there is no task {id}")

    def fire(self, name: str) -> Job:
        """Submits the task of a schedule that the app declares with `@app.cron`, as its time would. NotFound."""
        for spec in self.app.crons:
            if spec.name == name:
                return self.add(
                    Draft(
                        title=spec.title or spec.name,
                        payload=spec.payload,
                        type=spec.type,
                        queue=spec.queue,
                        priority=spec.priority,
                        max_retries=spec.max_retries,
                        description=spec.description,
                    )
                )
        raise NotFound(f"the app declares no schedule {name!r}")

    def clear(self) -> None:
        """Forgets all tasks."""
        self.jobs.clear()

    # -- running -----------------------------------------------------------------------------------------

    async def drain(self, *, advance: bool = False, check: bool = True) -> list[Job]:
        """Runs what is due, one after the other, urgent ones first, and what they submit; the runs in order, a job
        once for each.

        `advance`: moves the clock to whatever is next, until nothing is left: retries and delayed tasks run too.
        `check`: a task that FAILED is an AssertionError with its traceback. The app's startup hooks run before, its
        shutdown hooks after it, as in a worker.
        """
        async with self._working() as worker:
            while True:
                job = self._next()
                if job is None:
                    if not (await worker.idle() or (advance and self._skip())):
                        break
                    continue
                if len(worker.ran) >= RUNS:
                    raise AssertionError(f"{RUNS:,} runs, and there is more to run: {job}")
                await worker.run(job)
        if check:
            self._check(worker.ran)
        return worker.ran

    def drain_sync(self, *, advance: bool = False, check: bool = True) -> list[Job]:
        """`drain` for tests without an event loop; async handlers get one of their own."""
        return asyncio.run(self.drain(advance=advance, check=check))

    def add(self, draft: Draft, id: str | None = None) -> Job:
        """Keeps it, as if it had been submitted. From any thread."""
        with self._lock:
            job = Job.of(draft, id or id_text(new_id()), self.clock.now())
            self.jobs.append(job)
        if self._eager and self._worker is not None and job.status is Status.QUEUED:
            self._worker.loop.call_soon_threadsafe(self._start, job)
        return job

    def apply(self, job: Job, decision: Decision) -> None:
        """What became of a run."""
        job.status, job.attempts, job.releases = decision.status, decision.attempts, decision.releases
        job.due = self.clock.now() + timedelta(seconds=decision.delay)
        if job.status is Status.COMPLETED:
            job.progress, job.error = 1.0, None
            job.result = json.loads(decision.result or "null")
        elif decision.error is not None:
            job.error = decision.error

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[Worker]:
        if self._worker is not None:
            raise RuntimeError("this bench is being drained already")
        async with Worker(self.app, self, self._timeout, self._policy, self._rng) as worker:
            self._worker = worker
            try:
                yield worker
            finally:
                self._worker = None

    def _start(self, job: Job) -> None:
        """Runs it beside what is being drained, which may wait for it. On the worker's loop."""
        if self._worker is not None and self._is_due(job):
            self._worker.start(job)

    def _is_due(self, job: Job) -> bool:
        return job.status in (Status.PENDING, Status.QUEUED) and job.due <= self.clock.now()

    def _next(self) -> Job | None:
        due = [job for job in self.jobs if self._is_due(job)]
        return min(due, key=lambda job: job.priority, default=None)

    def _skip(self) -> bool:
        """To the moment at which something is due; whether there is one."""
        later = [job.due for job in self.jobs if job.status is Status.PENDING]
        if later:
            self.clock.advance(max(timedelta(0), min(later) - self.clock.now()))
        return bool(later)

    def _check(self, ran: Sequence[Job]) -> None:
        failed = [job for job in dict.fromkeys(ran) if job.status is Status.FAILED]
        if failed:
            texts = [f"{job}\n{job.runs[-1].traceback or job.error}" for job in failed]
            raise AssertionError("\n".join([f"{len(failed)} of the tasks FAILED:", *texts]))

    def _all(self) -> str:
        return ", ".join(map(repr, self.jobs)) or "nothing was"

    # -- what the port does ------------------------------------------------------------------------------

    async def _submit(self, drafts: Sequence[Draft]) -> list[str]:
        jobs = [self.add(draft) for draft in drafts]
        for job in jobs if self._eager else ():
            while self._is_due(job) or job.status is Status.PROCESSING:
                if self._worker is not None:
                    await asyncio.sleep(0.001)  # it has been started there
                    continue
                async with self._working() as worker:
                    await worker.run(job)
        return [job.id for job in jobs]

    def _look(self, id: str) -> Seen:
        job = self.job(id)
        if self._worker is not None:  # a handler waits for it: it must not wait for the handler
            self._worker.loop.call_soon_threadsafe(self._start, job)
        result = json_text(job.result) if job.status is Status.COMPLETED else None
        return Seen(id, job.status, result, job.error, job.attempts, job.progress)

    def _cancel(self, id: str) -> None:
        job = self.job(id)
        if job.status is Status.COMPLETED:
            raise Conflict("The task is COMPLETED: it can no longer be cancelled.")
        job.cancel_requested = True
        if job.status is not Status.PROCESSING:
            job.status = Status.CANCELLED
        elif self._worker is not None:
            self._worker.loop.call_soon_threadsafe(self._worker.cancel, job)


class _Port:
    """The bench as handlers see it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def submit(self, drafts: Sequence[Draft]) -> list[str]:
        return await self._bench._submit(drafts)

    async def look(self, id: str) -> Seen:
        return self._bench._look(id)

    async def cancel(self, id: str) -> None:
        self._bench._cancel(id)

    async def close(self) -> None:
        """Nothing is open."""


class _Connector:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __call__(self) -> Port:
        return _Port(self._bench)

    def now(self) -> datetime:
        return self._bench.clock.now()

    def submit_in(self, connection: object, draft: Draft, wrap: Callable[[str], Any]) -> Any:
        from taskmill.testing.within import on_commit  # few tests need it

        new = id_text(new_id())
        return on_commit(connection, lambda: self._bench.add(draft, new), wrap(new))


def _type_of(which: Which) -> str | None:
    return which.type if isinstance(which, Handler) else which


def _named(which: Which) -> str:
    return "any type" if which is None else repr(_type_of(which))


def _has(payload: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(payload, dict) and all(
        name in payload and payload[name] == value for name, value in wanted.items()
    )
