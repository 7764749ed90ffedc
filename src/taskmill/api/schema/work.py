"""The protocol of remote workers: claim, renew, settle, log, submit. For the roles WORKER and ADMIN.

A worker is known by a UUID that it makes at its start, together with the key (or login) that it uses. A run is known by
(id, fence): what does not name the current run of a task, or comes from another worker, is STALE and changes nothing.
Every write is safe to send again, with the same operationId and the same content.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final, Self

import strawberry

from taskmill.api.schema.context import Context, Info
from taskmill.api.schema.roles import allow, open_to
from taskmill.api.schema.scalars import Json
from taskmill.api.schema.task_write import new_tasks
from taskmill.api.schema.work_input import (
    CLAIM_MOST,
    WAIT_MOST,
    AppendLogsInput,
    ClaimTasksInput,
    CompleteTaskInput,
    FailTaskInput,
    LeaveInput,
    OutcomeInput,
    RegisterWorkerInput,
    ReleaseReason,
    ReleaseTaskInput,
    RenewTasksInput,
    RunEnd,
    SettleTasksInput,
    SubmitTasksInput,
    bounded,
    brought,
    described,
    lease_of,
    leases_of,
    lines_of,
    operation_of,
    worker_of,
)
from taskmill.api.users import Role
from taskmill.errors import (
    BadUserInput,
    Conflict,
    Forbidden,
    PayloadTooLarge,
    Stale,
    Unauthenticated,
    Unavailable,
)
from taskmill.model.clock import boottime
from taskmill.model.ids import id_text
from taskmill.model.state import Priority
from taskmill.model.task import Claimed
from taskmill.tasks.remote import NOT_YOURS, Brought, Settled, submit_remote

WORKERS: Final = (Role.WORKER, Role.ADMIN)
ANOTHER: Final = "This run was settled before, with another outcome. That one stands."

_RELEASED: Final = {
    ReleaseReason.DRAIN: RunEnd.RELEASED,
    ReleaseReason.UNKNOWN_TYPE: RunEnd.UNKNOWN_TYPE,
    ReleaseReason.CRASHED: RunEnd.CRASHED,
    ReleaseReason.CANCELLED: RunEnd.CANCELLED,
}


class LeaseState(StrEnum):
    HELD = "HELD"
    CANCELLED = "CANCELLED"
    LOST = "LOST"


class SettleState(StrEnum):
    RECORDED = "RECORDED"
    STALE = "STALE"
    CONFLICT = "CONFLICT"


strawberry.enum(
    LeaseState,
    description="HELD: go on. CANCELLED: it is yours, and somebody wants it stopped. LOST: stop, and write nothing more.",
)
strawberry.enum(
    SettleState,
    description="RECORDED: it stands, by this send or an earlier one. STALE: the run is not yours. CONFLICT: you have "
    "settled it before, with another outcome.",
)


@open_to(*WORKERS)
@strawberry.type(
    description="A task under a lease: run it, and settle it within leaseSeconds of the request, or renew."
)
class ClaimedTask:
    id: strawberry.ID
    fence: int = strawberry.field(description="Which run this is: it goes into every call about it.")
    queue: str
    type: str | None
    title: str
    payload: Json
    priority: Priority
    attempt: int = strawberry.field(description="1 on the first run.")
    max_retries: int = strawberry.field(description="It runs at most once more than this.")
    suspect: bool = strawberry.field(
        description="A process that ran it died. Run it alone in its process: only then its death says something."
    )
    lease_seconds: float = strawberry.field(
        description="How long the lease holds. It began when the request was sent plus waitedSeconds, or later."
    )

    @classmethod
    def of(cls, run: Claimed, context: Context) -> Self:
        options = context.services.mill.options
        return cls(
            id=strawberry.ID(id_text(run.id)),
            fence=run.fence,
            queue=run.queue,
            type=run.type,
            title=run.title,
            payload=Json(run.payload),
            priority=run.priority,
            attempt=run.attempts,
            max_retries=options.policy.max_retries if run.max_retries is None else run.max_retries,
            suspect=run.suspect,
            lease_seconds=options.lease,
        )


@open_to(*WORKERS)
@strawberry.type
class ClaimTasksPayload:
    tasks: list[ClaimedTask]
    waited_seconds: float = strawberry.field(description="How long the request waited here until it claimed.")


@open_to(*WORKERS)
@strawberry.type
class WorkerSession:
    lease_seconds: float = strawberry.field(
        description="How long a lease holds, from when the request for it was sent."
    )
    max_retries: int = strawberry.field(description="For tasks and types that name no number.")


@open_to(*WORKERS)
@strawberry.type
class RenewedLease:
    id: strawberry.ID
    fence: int
    state: LeaseState
    lease_seconds: float = strawberry.field(description="0 when it is LOST.")


@open_to(*WORKERS)
@strawberry.type
class SettledRun:
    id: strawberry.ID
    fence: int
    state: SettleState


@open_to(*WORKERS)
@strawberry.type(description="A run that somebody wants stopped.")
class CancelSignal:
    id: strawberry.ID
    fence: int


@strawberry.type
class WorkQueries:
    @strawberry.field(
        description="Waits for cancels of this worker's runs and tells them at once. A hint: one may be missed, and "
        "renewTasks tells them all.",
        metadata={**allow(*WORKERS), "wait": float(WAIT_MOST)},
    )
    async def cancel_signals(
        self, info: Info, worker: strawberry.ID, wait_seconds: float = 0.0
    ) -> list[CancelSignal]:
        id_, owner = worker_of(info, worker)
        if not 0 <= wait_seconds <= WAIT_MOST:
            raise BadUserInput(f"waitSeconds: 0 to {WAIT_MOST} is expected")
        desk, connected = info.context.services.desk, _connected(info.context)
        signals = await desk.cancels(id_, owner, wait=wait_seconds, connected=connected)
        return [CancelSignal(id=strawberry.ID(id_text(task)), fence=fence) for task, fence in signals]


@strawberry.type
class WorkMutations:
    @strawberry.mutation(
        description="Up to `max` tasks of these queues, each under a lease: at once when there are any, else as soon as "
        "there are, within waitSeconds. One claim of a worker at a time: a newer one ends one that waits.",
        metadata={**allow(*WORKERS), "wait": float(WAIT_MOST), "size": 1},
    )
    async def claim_tasks(self, info: Info, input: ClaimTasksInput) -> ClaimTasksPayload:
        context, who = info.context, described(info, input)
        if not 1 <= input.max <= CLAIM_MOST:
            raise BadUserInput(f"max: 1 to {CLAIM_MOST} is expected")
        if not 0 <= input.wait_seconds <= WAIT_MOST:
            raise BadUserInput(f"waitSeconds: 0 to {WAIT_MOST} is expected")
        if input.wait_seconds and context.gone is None:
            # Nobody could tell that its caller has gone, and it would take tasks that nobody runs.
            raise BadUserInput("waitSeconds: over a WebSocket a claim does not wait; send it by POST")
        if not 0 <= input.suspects <= CLAIM_MOST:
            raise BadUserInput(f"suspects: 0 to {CLAIM_MOST} is expected")
        began = boottime()
        claimed = await context.services.desk.claim(
            who,
            input.max,
            suspects=input.suspects,
            wait=input.wait_seconds,
            op=operation_of(who.id, input.operation_id, "claim"),
            again=input.again,
            connected=_connected(context),
        )
        lease = context.services.mill.options.lease
        waited = min((run.deadline for run in claimed), default=boottime() + lease) - lease - began
        return ClaimTasksPayload(
            tasks=[ClaimedTask.of(run, context) for run in claimed], waited_seconds=max(waited, 0.0)
        )

    @strawberry.mutation(
        description="Makes the worker known before its first claim, and says how long leases hold. Not needed to claim.",
        metadata=allow(*WORKERS),
    )
    async def register_worker(self, info: Info, input: RegisterWorkerInput) -> WorkerSession:
        services = info.context.services
        await services.desk.register(described(info, input))
        options = services.mill.options
        return WorkerSession(lease_seconds=options.lease, max_retries=options.policy.max_retries)

    @strawberry.mutation(
        description="The worker ends: it is listed no longer. What it holds stays until its lease ends; release it first.",
        metadata=allow(*WORKERS),
    )
    async def deregister_worker(self, info: Info, input: LeaveInput) -> bool:
        await info.context.services.desk.leave(worker_of(info, input.worker)[0])
        return True

    @strawberry.mutation(
        description="Prolongs leases; do it every quarter of one, for all of them. The answer is in the order of the request.",
        metadata=allow(*WORKERS),
    )
    async def renew_tasks(self, info: Info, input: RenewTasksInput) -> list[RenewedLease]:
        services, leases = info.context.services, leases_of(input)
        renewed = await services.desk.renew(worker_of(info, input.worker)[0], leases)
        answers = []
        for given in input.leases:
            lease = lease_of(given.id, given.fence)
            state = LeaseState.HELD if lease in renewed.held else LeaseState.LOST
            state = LeaseState.CANCELLED if lease in renewed.cancelled else state
            seconds = 0.0 if state is LeaseState.LOST else services.mill.options.lease
            answers.append(RenewedLease(id=given.id, fence=given.fence, state=state, lease_seconds=seconds))
        return answers

    @strawberry.mutation(description="The run succeeded.", metadata=allow(*WORKERS))
    async def complete_task(self, info: Info, input: CompleteTaskInput) -> SettledRun:
        return await _settle_one(info, input, RunEnd.SUCCEEDED, result=input.result)

    @strawberry.mutation(
        description="The run failed: again later while attempts are left, else FAILED.",
        metadata=allow(*WORKERS),
    )
    async def fail_task(self, info: Info, input: FailTaskInput) -> SettledRun:
        return await _settle_one(
            info,
            input,
            RunEnd.FAILED,
            message=input.message,
            error_type=input.error_type,
            traceback=input.traceback,
            retryable=input.retryable,
            after=input.after,
        )

    @strawberry.mutation(description="The run is given back, unfinished.", metadata=allow(*WORKERS))
    async def release_task(self, info: Info, input: ReleaseTaskInput) -> SettledRun:
        return await _settle_one(info, input, _RELEASED[input.reason], message=input.message)

    @strawberry.mutation(
        description="Outcomes of many runs at once. A stale one is told by its state, and stops no other.",
        metadata=allow(*WORKERS),
    )
    async def settle_tasks(self, info: Info, input: SettleTasksInput) -> list[SettledRun]:
        worker, batch = worker_of(info, input.worker)[0], []
        bounded("outcomes", input.outcomes)
        for index, given in enumerate(input.outcomes):
            try:
                batch.append(brought(worker, given))
            except (BadUserInput, PayloadTooLarge) as error:
                raise type(error)(f"outcomes[{index}].{error.message}") from None
        return await _settle(info, batch)

    @strawberry.mutation(
        description="What runs say; how many lines were taken. Lines of runs that are not this worker's are not, and a "
        "run keeps at most 1,000.",
        metadata=allow(*WORKERS),
    )
    async def append_logs(self, info: Info, input: AppendLogsInput) -> int:
        worker, lines = worker_of(info, input.worker)[0], lines_of(input)
        op = operation_of(worker, input.operation_id, "log")
        return await info.context.services.desk.log(worker, lines, op)

    @strawberry.mutation(
        description="Tasks that a run submits, in the name of its task's user. Their ids.",
        metadata=allow(*WORKERS),
    )
    async def submit_tasks(self, info: Info, input: SubmitTasksInput) -> list[strawberry.ID]:
        worker, lease = worker_of(info, input.worker)[0], lease_of(input.id, input.fence)
        op = operation_of(worker, input.operation_id, "submit", lease)
        new = new_tasks(info.context, input.inputs, b"")  # whose they are, the run's task says
        ids = await submit_remote(info.context.services.mill, worker, lease, op, new)
        return [strawberry.ID(id_text(id_)) for id_ in ids]


async def _settle_one(
    info: Info, given: CompleteTaskInput | FailTaskInput | ReleaseTaskInput, ended: RunEnd, **said: Any
) -> SettledRun:
    outcome = OutcomeInput(
        id=given.id, fence=given.fence, operation_id=given.operation_id, ended=ended, **said
    )
    [answer] = await _settle(info, [brought(worker_of(info, given.worker)[0], outcome)])
    if answer.state is SettleState.STALE:
        raise Stale(NOT_YOURS)
    if answer.state is SettleState.CONFLICT:
        raise Conflict(ANOTHER)
    return answer


async def _settle(info: Info, batch: list[Brought]) -> list[SettledRun]:
    answers: list[Settled] = await info.context.services.desk.settle(batch) if batch else []
    return [
        SettledRun(id=strawberry.ID(id_text(b.id)), fence=b.fence, state=SettleState(a.value))
        for b, a in zip(batch, answers, strict=True)
    ]


def _connected(context: Context) -> Callable[[], Awaitable[bool]]:
    """Whether the caller is there, and its key or login still is what it was when the call came: calls wait for longer
    than a revoked key may count."""
    gone = context.gone

    async def connected() -> bool:
        if gone is not None and await gone():
            return False
        try:
            await context.viewer_now()
            context.admit("This", WORKERS)
        except Unavailable:
            return True  # nothing is known; what it brings is refused if it comes to that
        except (Unauthenticated, Forbidden):
            return False
        return True

    return connected
