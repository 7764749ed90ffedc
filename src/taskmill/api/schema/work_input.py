"""What remote workers send: the inputs of their protocol, and how they are checked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import strawberry

from taskmill.api.schema.context import Info
from taskmill.api.schema.scalars import Json
from taskmill.api.schema.task import QUEUE, TYPE
from taskmill.api.schema.task_write import CreateTaskInput, checked_retries
from taskmill.api.text import line
from taskmill.api.work import Who
from taskmill.errors import BadUserInput, PayloadTooLarge
from taskmill.model.clock import to_utc
from taskmill.model.ids import parse_id
from taskmill.model.jsontext import json_text
from taskmill.model.task import (
    ERROR_LIMIT,
    PAYLOAD_LIMIT,
    TRACEBACK_LIMIT,
    Ended,
    HandlerSpec,
    LogLine,
    Outcome,
    Registry,
    Renewal,
)
from taskmill.runner.text import clean, cut, log_fields, log_message
from taskmill.tasks.remote import Brought, operation, worker_id

CLAIM_MOST: Final = 100
WAIT_MOST: Final = 20
BATCH_MOST: Final = 500
"""Leases, outcomes or log lines in one call."""
QUEUES_MOST: Final = 100
TYPES_MOST: Final = 200
NAME_MOST: Final = 100
VERSION_MOST: Final = 32
SLOTS_MOST: Final = 10_000
AFTER_MOST: Final = 366 * 86400
OPERATION_MOST: Final = 100
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

WORKER: Final = "A UUID that the worker makes at its start, for all its calls."
OPERATION: Final = "A text that names this call for ever, such as a UUID. Sent again with the same content, it does nothing twice."
FENCE: Final = "Which run of the task: it came with the claim."


class ReleaseReason(StrEnum):
    DRAIN = "DRAIN"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    CRASHED = "CRASHED"
    CANCELLED = "CANCELLED"


class RunEnd(StrEnum):
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CRASHED = "CRASHED"
    RELEASED = "RELEASED"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    CANCELLED = "CANCELLED"


strawberry.enum(
    ReleaseReason,
    description="DRAIN: the worker stops; no attempt is spent. UNKNOWN_TYPE: it has no handler for the type; no attempt "
    "is spent when another live worker of the queue has one. CRASHED: the process that ran it died. CANCELLED: the run "
    "stopped because a cancel was requested.",
)
strawberry.enum(RunEnd, description="How a run ended.")


@strawberry.input(description="How often a type is retried, when the task itself does not say.")
class TypeRetriesInput:
    type: str | None = strawberry.field(default=None, description="null: tasks without a type.")
    max_retries: int


@strawberry.input
class ClaimTasksInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    name: str | None = strawberry.field(default=None, description="Shown with its runs.")
    queues: list[str] = strawberry.field(default_factory=lambda: ["default"])
    max: int = strawberry.field(default=1, description="1 to 100: no more than can be begun at once.")
    wait_seconds: float = strawberry.field(
        default=0.0, description="0 to 20: how long the answer may wait for the first task."
    )
    types: list[str] | None = strawberry.field(
        default=None,
        description="What this worker knows; an empty text stands for tasks without a type. It selects nothing: queues "
        "do. It lets others give back what only this worker knows.",
    )
    retries: list[TypeRetriesInput] = strawberry.field(default_factory=list)
    suspects: int = strawberry.field(
        default=1,
        description="How many of them may be suspects: tasks whose process died, to be run alone in theirs.",
    )
    operation_id: str | None = strawberry.field(
        default=None, description=OPERATION + " The tasks that it brought come again."
    )
    again: bool = strawberry.field(
        default=False,
        description="Only what this operation has claimed already: for a worker that wants its waiting claim back.",
    )
    host: str = ""
    slots: int = strawberry.field(default=1, description="Tasks that it runs at a time; only shown.")
    version: str = ""


@strawberry.input(description="What claimTasks tells too: for workers that start without claiming.")
class RegisterWorkerInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    name: str | None = None
    queues: list[str] = strawberry.field(default_factory=lambda: ["default"])
    types: list[str] | None = None
    retries: list[TypeRetriesInput] = strawberry.field(default_factory=list)
    host: str = ""
    slots: int = 1
    version: str = ""


@strawberry.input
class LeaveInput:
    worker: strawberry.ID


@strawberry.input
class LeaseInput:
    id: strawberry.ID
    fence: int = strawberry.field(description=FENCE)
    progress: float | None = strawberry.field(
        default=None, description="0 to 1. Written once a second at most."
    )


@strawberry.input
class RenewTasksInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    leases: list[LeaseInput] = strawberry.field(description="At most 500.")


@strawberry.input
class CompleteTaskInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    id: strawberry.ID
    fence: int = strawberry.field(description=FENCE)
    operation_id: str | None = strawberry.field(default=None, description=OPERATION)
    result: Json | None = strawberry.field(default=None, description="Any JSON value of at most 256 KiB.")


@strawberry.input
class FailTaskInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    id: strawberry.ID
    fence: int = strawberry.field(description=FENCE)
    operation_id: str | None = strawberry.field(default=None, description=OPERATION)
    message: str
    error_type: str | None = strawberry.field(
        default=None, description="The class of the error; at most 100."
    )
    traceback: str | None = None
    retryable: bool = strawberry.field(
        default=True, description="false: no retry, whatever attempts are left."
    )
    after: float | None = strawberry.field(
        default=None, description="Seconds until the next run. Not given: the usual backoff."
    )


@strawberry.input
class ReleaseTaskInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    id: strawberry.ID
    fence: int = strawberry.field(description=FENCE)
    operation_id: str | None = strawberry.field(default=None, description=OPERATION)
    reason: ReleaseReason = ReleaseReason.DRAIN
    message: str | None = None


@strawberry.input(description="One run that ended: completeTask, failTask and releaseTask in one form.")
class OutcomeInput:
    id: strawberry.ID
    fence: int = strawberry.field(description=FENCE)
    operation_id: str | None = strawberry.field(default=None, description=OPERATION)
    ended: RunEnd
    result: Json | None = None
    message: str | None = None
    error_type: str | None = None
    traceback: str | None = None
    retryable: bool = True
    after: float | None = None


@strawberry.input
class SettleTasksInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    outcomes: list[OutcomeInput] = strawberry.field(description="At most 500.")


@strawberry.input
class LogLineInput:
    id: strawberry.ID = strawberry.field(description="Of the task.")
    fence: int = strawberry.field(description=FENCE)
    message: str = strawberry.field(description="At most 4,096 characters are kept.")
    level: str = strawberry.field(default="info", description="debug, info, warning or error.")
    fields: Json | None = strawberry.field(default=None, description="An object, of at most 8 KiB.")
    at: datetime | None = strawberry.field(default=None, description="Not given: now.")


@strawberry.input
class AppendLogsInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    operation_id: str | None = strawberry.field(default=None, description=OPERATION)
    lines: list[LogLineInput] = strawberry.field(description="At most 500.")


@strawberry.input
class SubmitTasksInput:
    worker: strawberry.ID = strawberry.field(description=WORKER)
    id: strawberry.ID = strawberry.field(description="The task whose run submits: the new ones get its user.")
    fence: int = strawberry.field(description=FENCE)
    operation_id: str | None = strawberry.field(default=None, description=OPERATION)
    inputs: list[CreateTaskInput] = strawberry.field(description="At most 1,000, all or none of them.")


# ---- checks -------------------------------------------------------------------------------------------------------


def worker_of(info: Info, boot: str) -> tuple[bytes, bytes]:
    """Its id in the record, and whose it is."""
    user, key = info.context.viewer(), info.context.key
    raw = parse_id(boot)
    if raw is None:
        raise BadUserInput("worker: a UUID is expected, made anew at each start of the worker")
    owner = user.id if key is None else key.id
    return worker_id(owner, raw), owner


def described(info: Info, given: ClaimTasksInput | RegisterWorkerInput) -> Who:
    """The worker as it describes itself. BadUserInput; Forbidden when its key is bound to other queues."""
    id_, owner = worker_of(info, given.worker)
    queues = tuple(dict.fromkeys(given.queues))
    if not 1 <= len(queues) <= QUEUES_MOST or not all(QUEUE.fullmatch(q) for q in queues):
        raise BadUserInput(f"queues: 1 to {QUEUES_MOST} names of queues are expected")
    for queue in queues:
        info.context.check_queue(queue)
    if not 0 <= given.slots <= SLOTS_MOST:
        raise BadUserInput(f"slots: 0 to {SLOTS_MOST} is expected")
    key = info.context.key
    return Who(
        id_,
        owner,
        line("name", given.name, NAME_MOST)
        if given.name
        else clean(key.name if key else "remote")[:NAME_MOST],
        queues,
        _registry(given.types, given.retries),
        clean(given.host)[:255],
        given.slots,
        clean(given.version)[:VERSION_MOST],
    )


def _registry(types: Sequence[str] | None, retries: Sequence[TypeRetriesInput]) -> Registry:
    known = {(r.type or None): checked_retries(r.max_retries) for r in retries}
    names = {t or None for t in types or ()} | set(known)
    if len(names) > TYPES_MOST or not all(name is None or TYPE.fullmatch(name) for name in names):
        raise BadUserInput(f"types: at most {TYPES_MOST} names of types are expected")
    ordered = sorted(names, key=lambda name: name or "")
    return Registry(tuple(HandlerSpec(name, max_retries=known.get(name)) for name in ordered))


def operation_of(worker: bytes, given: str | None, *what: object) -> bytes:
    """The operation's id in the record. One that is not given is never met again."""
    if given is not None and not 1 <= len(given) <= OPERATION_MOST:
        raise BadUserInput(f"operationId: 1 to {OPERATION_MOST} characters are expected")
    return operation(worker, *what, given) if given is not None else secrets.token_bytes(16)


def _fence(fence: int) -> int:
    if fence < 1:
        raise BadUserInput("fence: a number from 1 is expected, as it came with the claim")
    return fence


def bounded(name: str, items: Sequence[Any]) -> None:
    """BadUserInput beyond BATCH_MOST."""
    if len(items) > BATCH_MOST:
        raise BadUserInput(f"{name}: at most {BATCH_MOST} are taken at once")


def lease_of(id_: str, fence: int) -> tuple[bytes, int]:
    """(id, fence). A malformed id names no task: it is that of none."""
    return parse_id(id_) or bytes(16), _fence(fence)


def leases_of(given: RenewTasksInput) -> list[Renewal]:
    """Each lease once: the last that was said of it."""
    bounded("leases", given.leases)
    return list({(r.id, r.fence): r for r in (_renewal(lease) for lease in given.leases)}.values())


def _renewal(lease: LeaseInput) -> Renewal:
    return Renewal(*lease_of(lease.id, lease.fence), lease.progress)


def brought(worker: bytes, given: OutcomeInput) -> Brought:
    """One outcome, checked. Its operation is made of all that it says."""
    id_, fence = lease_of(given.id, given.fence)
    if given.operation_id is not None:
        operation_of(worker, given.operation_id)
    outcome = Outcome(
        Ended(given.ended.value),
        _result(given.result) if given.ended is RunEnd.SUCCEEDED else None,
        None if given.error_type is None else clean(given.error_type)[:100],
        None if given.message is None else clean(cut(given.message, ERROR_LIMIT)),
        None if given.traceback is None else clean(cut(given.traceback, TRACEBACK_LIMIT)),
        given.retryable,
        _after(given.after),
    )
    said = (outcome.ended.value, outcome.result, outcome.error_type, outcome.message, outcome.traceback)
    op = operation(worker, id_, fence, given.operation_id, *said, outcome.retry, outcome.after)
    return Brought(worker, id_, fence, outcome, op)


def _result(value: object) -> str:
    try:
        text = json_text(value, limit=2**62)
    except ValueError as error:
        raise BadUserInput(f"result: {error}") from None
    size = len(text.encode())
    if size > PAYLOAD_LIMIT:
        raise PayloadTooLarge(f"result: {size} bytes; at most {PAYLOAD_LIMIT} are taken")
    return text


def _after(after: float | None) -> float | None:
    if after is not None and not 0 <= after <= AFTER_MOST:
        raise BadUserInput("after: seconds from 0 to 366 days are expected")
    return after


def lines_of(given: AppendLogsInput) -> list[LogLine]:
    """The lines, made safe to keep and to show as those of other runs are."""
    bounded("lines", given.lines)
    now = to_utc(datetime.now(UTC))
    return [_line(item, now) for item in given.lines]


def _line(item: LogLineInput, now: datetime) -> LogLine:
    level = item.level[:10].upper()
    if level not in LEVELS:
        raise BadUserInput("level: debug, info, warning or error is expected")
    if item.fields is not None and not isinstance(item.fields, dict):
        raise BadUserInput("fields: an object is expected")
    fields = log_fields(item.fields) if item.fields else None
    id_, fence = lease_of(item.id, item.fence)
    return LogLine(id_, fence, level, log_message(item.message), fields, item.at or now)
