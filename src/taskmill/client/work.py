"""The client's calls for a worker of your own: claim, renew, settle, log, submit. For the roles WORKER and ADMIN.

docs/howto/remote-workers.md says what a worker owes; `taskmill worker --api-url` is one that is ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Self, TypeAlias, TypedDict, Unpack

import msgspec

from taskmill.client import documents
from taskmill.client.core import Calls, given, in_utc, payload_json
from taskmill.client.tasks import NewTask
from taskmill.client.types import CancelSignal, Claim, RenewedLease, SettledRun, WorkerSession
from taskmill.model.task import Ended

EndName: TypeAlias = Literal[
    "SUCCEEDED", "FAILED", "TIMEOUT", "CRASHED", "RELEASED", "UNKNOWN_TYPE", "CANCELLED"
]
ReleaseName: TypeAlias = Literal["DRAIN", "UNKNOWN_TYPE", "CRASHED", "CANCELLED"]


class WorkerOptions(TypedDict, total=False):
    """What a worker tells of itself. What is not given: as the API says (`claimTasks`)."""

    name: str
    queues: Sequence[str]
    """Not given: `default` alone."""
    types: Sequence[str]
    """What it knows; an empty text: tasks without a type. It selects nothing, queues do."""
    retries: Mapping[str, int]
    """By type, when the task itself does not say."""
    host: str
    slots: int
    version: str


class Failure(TypedDict, total=False):
    """What `fail_task` may be told beside its message."""

    error_type: str
    traceback: str
    retryable: bool
    """False: no retry, whatever attempts are left."""
    after: float
    """Seconds until the next run. Not given: the usual backoff."""
    operation_id: str


class Lease(msgspec.Struct, frozen=True, rename="camel"):
    """One of `renew_tasks`."""

    id: str
    fence: int
    progress: float | None = None
    """0 to 1."""


class Outcome(msgspec.Struct, frozen=True, rename="camel"):
    """One of `settle_tasks`: `complete_task`, `fail_task` and `release_task` in one form."""

    id: str
    fence: int
    ended: EndName | Ended
    result: Any = None
    message: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    retryable: bool = True
    after: float | None = None
    operation_id: str | None = None

    def checked(self) -> Self:
        return msgspec.structs.replace(self, result=payload_json(self.result, "result"))


class LogLine(msgspec.Struct, frozen=True, rename="camel"):
    """One of `append_logs`. `fields`: an object. `at`: an aware datetime; None: now."""

    id: str
    fence: int
    message: str
    level: str = "info"
    fields: Any = None
    at: datetime | None = None

    def checked(self) -> Self:
        fields = payload_json(self.fields, "fields")
        return msgspec.structs.replace(self, fields=fields, at=in_utc("at", self.at))


class WorkCalls(Calls):
    """`worker`: a UUID that a worker makes at its start, for all its calls. `fence`: as it came with the claim.

    Registering, renewing, settling and leaving are safe to repeat: the client does so when an answer is lost, and so may
    you, with the same content. `claim_tasks`, `append_logs` and `submit_tasks` are with an `operation_id`: a text that
    names this one call for ever, such as str(uuid4()), and again the same content. Without one a lost answer is
    CommitUnknown.
    """

    async def register_worker(self, /, worker: str, **about: Unpack[WorkerOptions]) -> WorkerSession:
        """Makes it known before its first claim. Not needed to claim. Forbidden: the key is for other queues."""
        values = {"worker": worker, **_about(about)}
        return await self._mutate(documents.REGISTER_WORKER, WorkerSession, repeat=True, input=values)

    async def deregister_worker(self, worker: str) -> None:
        """It is listed no longer. What it holds stays until its leases end: release it first."""
        await self._mutate(documents.DEREGISTER_WORKER, bool, repeat=True, input={"worker": worker})

    async def claim_tasks(
        self,
        /,
        worker: str,
        *,
        max: int = 1,
        wait_seconds: float = 0.0,
        suspects: int = 1,
        operation_id: str | None = None,
        again: bool = False,
        **about: Unpack[WorkerOptions],
    ) -> Claim:
        """Up to `max` tasks (100 at most) of its queues, each under a lease: at once, or as soon as there are any
        within `wait_seconds` (20 at most), which the client waits beside its time-out. One claim of a worker at a time.

        The same `operation_id` again brings the tasks of a lost answer, and no others; if it had none, it claims.
        `again`: only what it has claimed already.
        """
        values = {
            "worker": worker,
            "max": max,
            "waitSeconds": wait_seconds,
            "suspects": suspects,
            "operationId": operation_id,
            "again": again,
            **_about(about),
        }
        repeat = operation_id is not None
        return await self._mutate(
            documents.CLAIM_TASKS, Claim, repeat=repeat, wait=wait_seconds, input=values
        )

    async def cancel_signals(self, worker: str, *, wait_seconds: float = 0.0) -> list[CancelSignal]:
        """Runs of this worker that somebody wants stopped; waits for them as `claim_tasks`. A hint: one may be missed,
        `renew_tasks` tells them all."""
        return await self._query(
            documents.CANCEL_SIGNALS,
            list[CancelSignal],
            wait=wait_seconds,
            worker=worker,
            waitSeconds=wait_seconds,
        )

    async def renew_tasks(self, worker: str, leases: Sequence[Lease]) -> list[RenewedLease]:
        """Prolongs at most 500 leases; the answers are in their order. Do it every quarter of a lease, sooner after a
        failure."""
        values = {"worker": worker, "leases": leases}
        return await self._mutate(documents.RENEW_TASKS, list[RenewedLease], repeat=True, input=values)

    async def complete_task(
        self, worker: str, id: str, fence: int, result: Any = None, *, operation_id: str | None = None
    ) -> SettledRun:
        """The run succeeded. Stale: it is not this worker's (any more). Conflict: it was settled, with another outcome."""
        return await self._settle(
            documents.COMPLETE_TASK,
            worker=worker,
            id=id,
            fence=fence,
            operation_id=operation_id,
            result=payload_json(result, "result"),
        )

    async def fail_task(
        self, /, worker: str, id: str, fence: int, message: str, **why: Unpack[Failure]
    ) -> SettledRun:
        """The run failed: again later while attempts are left. Errors as those of `complete_task`."""
        values = {"worker": worker, "id": id, "fence": fence, "message": message, **_named(why, Failure)}
        return await self._settle(documents.FAIL_TASK, **values)

    async def release_task(
        self,
        worker: str,
        id: str,
        fence: int,
        reason: ReleaseName = "DRAIN",
        message: str | None = None,
        *,
        operation_id: str | None = None,
    ) -> SettledRun:
        """Gives the run back, unfinished; DRAIN spends no attempt. Errors as those of `complete_task`."""
        return await self._settle(
            documents.RELEASE_TASK,
            worker=worker,
            id=id,
            fence=fence,
            operation_id=operation_id,
            reason=reason,
            message=message,
        )

    async def settle_tasks(self, worker: str, outcomes: Sequence[Outcome]) -> list[SettledRun]:
        """At most 500 outcomes; each is told by its state, in their order, and a stale one stops no other."""
        values = {"worker": worker, "outcomes": [outcome.checked() for outcome in outcomes]}
        return await self._mutate(documents.SETTLE_TASKS, list[SettledRun], repeat=True, input=values)

    async def append_logs(
        self, worker: str, lines: Sequence[LogLine], *, operation_id: str | None = None
    ) -> int:
        """What runs say, at most 500 lines; how many were taken. A run keeps 1,000."""
        values = {
            "worker": worker,
            "operationId": operation_id,
            "lines": [line.checked() for line in lines],
        }
        return await self._mutate(documents.APPEND_LOGS, int, repeat=operation_id is not None, input=values)

    async def submit_tasks(
        self, worker: str, id: str, fence: int, tasks: Sequence[NewTask], *, operation_id: str | None = None
    ) -> list[str]:
        """Ids of tasks that a run submits in the name of its task's user: at most 1,000, all or none. Stale."""
        values = {
            "worker": worker,
            "id": id,
            "fence": fence,
            "operationId": operation_id,
            "inputs": [task.input() for task in tasks],
        }
        return await self._mutate(
            documents.SUBMIT_TASKS, list[str], repeat=operation_id is not None, input=values
        )

    async def _settle(self, document: str, **values: Any) -> SettledRun:
        return await self._mutate(document, SettledRun, repeat=True, input=given(**values))


def _about(about: Mapping[str, Any]) -> dict[str, Any]:
    values = _named(about, WorkerOptions)
    if "retries" in values:
        values["retries"] = [{"type": name or None, "maxRetries": n} for name, n in values["retries"].items()]
    return values


def _named(values: Mapping[str, Any], options: type) -> dict[str, Any]:
    """TypeError for a name that is none."""
    if unknown := values.keys() - options.__annotations__.keys():
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
    return dict(values)
