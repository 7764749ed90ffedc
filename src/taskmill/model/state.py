"""The states of a task and every way between them, as data.

The diagram in docs/reference/states.md is generated from `TRANSITIONS`, and a test walks the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Status(IntEnum):
    """Where a task is. The number is what SQL stores: it never changes its meaning."""

    PENDING = 1
    """Recorded, not yet eligible: scheduled for later, or waiting for a retry."""
    QUEUED = 2
    """Eligible: any worker of its queue may claim it."""
    PROCESSING = 3
    """Claimed by a worker, under a lease."""
    COMPLETED = 4
    FAILED = 5
    """No attempt left, or not retryable: the dead letters are the view of these."""
    CANCELLED = 6


TERMINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Priority(IntEnum):
    """How urgent a task is. The number is its band, in SQL and in the index: the lower one goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Verb(StrEnum):
    """One word per step: the file, the Lua script, the metric, the log event and the test have this name."""

    SUBMIT = "submit"
    CLAIM = "claim"
    SETTLE = "settle"
    RENEW = "renew"
    PROMOTE = "promote"
    RESCUE = "rescue"
    CANCEL = "cancel"
    UPDATE = "update"
    REDRIVE = "redrive"
    RETAIN = "retain"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: `verb` moves a task from `source` to one of `targets` when `when` holds."""

    source: Status | None
    verb: Verb
    targets: tuple[Status, ...]
    when: str


_S = Status
TRANSITIONS: Final = (
    Transition(None, Verb.SUBMIT, (_S.QUEUED, _S.PENDING), "PENDING when it is scheduled for later"),
    Transition(_S.PENDING, Verb.PROMOTE, (_S.QUEUED,), "it is due"),
    Transition(_S.PENDING, Verb.UPDATE, (_S.PENDING, _S.QUEUED), "as scheduledAt says"),
    Transition(_S.QUEUED, Verb.UPDATE, (_S.QUEUED, _S.PENDING), "as scheduledAt says"),
    Transition(_S.QUEUED, Verb.CLAIM, (_S.PROCESSING,), "fence + 1, attempts + 1"),
    Transition(_S.PROCESSING, Verb.SETTLE, (_S.COMPLETED,), "the handler returned"),
    Transition(_S.PROCESSING, Verb.SETTLE, (_S.PENDING,), "it failed and attempts are left"),
    Transition(
        _S.PROCESSING, Verb.SETTLE, (_S.FAILED,), "it failed and no attempt is left, or not retryable"
    ),
    Transition(_S.PROCESSING, Verb.SETTLE, (_S.QUEUED, _S.PENDING), "given back: the attempt is not spent"),
    Transition(_S.PROCESSING, Verb.SETTLE, (_S.CANCELLED,), "a cancel was requested"),
    Transition(_S.PROCESSING, Verb.RESCUE, (_S.PENDING, _S.FAILED), "its lease ran out"),
    Transition(_S.PROCESSING, Verb.RESCUE, (_S.CANCELLED,), "its lease ran out and a cancel was requested"),
    Transition(
        _S.PROCESSING, Verb.RENEW, (_S.PROCESSING,), "the worker lives: the lease is longer, progress"
    ),
    Transition(
        _S.PROCESSING, Verb.CANCEL, (_S.PROCESSING,), "cancel requested: every way out ends CANCELLED"
    ),
    Transition(_S.PENDING, Verb.CANCEL, (_S.CANCELLED,), "at once"),
    Transition(_S.QUEUED, Verb.CANCEL, (_S.CANCELLED,), "at once"),
    Transition(_S.FAILED, Verb.CANCEL, (_S.CANCELLED,), "at once"),
    Transition(_S.FAILED, Verb.REDRIVE, (_S.QUEUED, _S.PENDING), "PENDING when scheduledAt is still ahead"),
    Transition(
        _S.CANCELLED, Verb.REDRIVE, (_S.QUEUED, _S.PENDING), "PENDING when scheduledAt is still ahead"
    ),
    Transition(_S.COMPLETED, Verb.RETAIN, (), "older than its retention: deleted"),
    Transition(_S.FAILED, Verb.RETAIN, (), "older than its retention, when that is set: deleted"),
    Transition(_S.CANCELLED, Verb.RETAIN, (), "older than its retention: deleted"),
)


def allowed(source: Status | None, verb: Verb, target: Status) -> bool:
    """Whether the table has a row for this step."""
    return any(t.source == source and t.verb == verb and target in t.targets for t in TRANSITIONS)
