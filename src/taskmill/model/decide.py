"""What becomes of a task when a run ends. Pure: the row and the outcome in, the next state out.

`settle` asks here with what the claim read, `rescue` with the row it has locked. Who writes the decision guards it by
fence and state; a cancel request always wins (`cancelled`), and is checked under the row's lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from taskmill.model.backoff import Backoff
from taskmill.model.state import Status
from taskmill.model.task import CRASH_LIMIT, ERROR_LIMIT, Ended, Outcome


@dataclass(frozen=True, slots=True)
class Policy:
    """The installation's bounds. Seconds."""

    max_retries: int = 3
    backoff: Backoff = Backoff(base=1.0, cap=3600.0)
    release: Backoff = Backoff(base=1.0, cap=30.0)
    """For a type that only other workers know: grows with the releases, not with chance."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The counters of a task during a run, this run included in `attempts`."""

    attempts: int
    max_retries: int | None
    crashes: int
    suspect: bool
    releases: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The next state, and every counter as it will be."""

    status: Status
    delay: float = 0.0
    """Seconds until it is due, when PENDING."""
    attempts: int = 0
    crashes: int = 0
    suspect: bool = False
    releases: int = 0
    result: str | None = None
    error: str | None = None
    ran: Ended = Ended.SUCCEEDED
    """What `runs` records."""
    error_type: str | None = None


def decide(
    run: RunState, outcome: Outcome, *, known_elsewhere: bool, policy: Policy, rng: Random
) -> Decision:
    """The decision for an outcome, when no cancel was requested.

    `known_elsewhere`: another live worker of the queue knows the task's type; asked only for UNKNOWN_TYPE.
    """
    match outcome.ended:
        case Ended.SUCCEEDED:
            return Decision(
                Status.COMPLETED,
                attempts=run.attempts,
                crashes=run.crashes,
                releases=run.releases,
                result=outcome.result,
            )
        case Ended.RELEASED:
            return _given_back(run, Status.QUEUED, 0.0, run.releases, Ended.RELEASED)
        case Ended.UNKNOWN_TYPE if known_elsewhere:
            wait = policy.release.ceiling(run.releases + 1)
            return _given_back(run, Status.PENDING, wait, run.releases + 1, Ended.UNKNOWN_TYPE)
        case Ended.CRASHED | Ended.LEASE_LOST:
            return _died(run, outcome, policy, rng)
        case _:
            return _failed(run, outcome, policy, rng)


def cancelled(run: RunState, outcome: Outcome) -> Decision:
    """The decision when a cancel was requested: whatever the run brought, the task ends CANCELLED."""
    spent = outcome.ended not in (Ended.RELEASED, Ended.UNKNOWN_TYPE)
    return Decision(
        Status.CANCELLED,
        attempts=run.attempts if spent else run.attempts - 1,
        crashes=run.crashes,
        releases=run.releases,
        error=None,
        ran=Ended.CANCELLED if outcome.ended is Ended.SUCCEEDED else outcome.ended,
        error_type=outcome.error_type,
    )


def retries_left(run: RunState, policy: Policy) -> bool:
    """`max_retries` n means at most n + 1 runs."""
    limit = policy.max_retries if run.max_retries is None else run.max_retries
    return run.attempts <= limit


def _given_back(run: RunState, status: Status, delay: float, releases: int, ran: Ended) -> Decision:
    return Decision(
        status,
        delay=delay,
        attempts=run.attempts - 1,
        crashes=run.crashes,
        suspect=run.suspect,
        releases=releases,
        ran=ran,
    )


def _died(run: RunState, outcome: Outcome, policy: Policy, rng: Random) -> Decision:
    """Its process died. Only a death alone says who did it: with others in the process, all are suspects."""
    crashes = run.crashes + 1 if run.suspect else run.crashes
    error_type = outcome.error_type or outcome.ended.value
    if crashes >= CRASH_LIMIT or not retries_left(run, policy):
        return Decision(
            Status.FAILED,
            attempts=run.attempts,
            crashes=crashes,
            suspect=True,
            releases=run.releases,
            error=_poison_text(run, crashes, outcome),
            ran=outcome.ended,
            error_type="POISON",
        )
    return Decision(
        Status.PENDING,
        delay=policy.backoff.delay(crashes, rng) if run.suspect else 0.0,
        attempts=run.attempts,
        crashes=crashes,
        suspect=True,
        releases=run.releases,
        error=_text(outcome),
        ran=outcome.ended,
        error_type=error_type,
    )


def _failed(run: RunState, outcome: Outcome, policy: Policy, rng: Random) -> Decision:
    again = outcome.retry and retries_left(run, policy)
    delay = 0.0
    if again:
        delay = outcome.after if outcome.after is not None else policy.backoff.delay(run.attempts, rng)
    return Decision(
        Status.PENDING if again else Status.FAILED,
        delay=delay,
        attempts=run.attempts,
        crashes=run.crashes,
        releases=run.releases,
        error=_text(outcome),
        ran=_failure(outcome),
        error_type=outcome.error_type or outcome.ended.value,
    )


def _failure(outcome: Outcome) -> Ended:
    return Ended.TIMEOUT if outcome.ended is Ended.TIMEOUT else Ended.FAILED


def _text(outcome: Outcome) -> str:
    text = outcome.message or outcome.error_type or outcome.ended.value
    return text[:ERROR_LIMIT]


def _poison_text(run: RunState, crashes: int, outcome: Outcome) -> str:
    if crashes >= CRASH_LIMIT:
        return f"POISON: it ran alone and its process died {crashes} times; last: {_text(outcome)}"[
            :ERROR_LIMIT
        ]
    return f"POISON: its process died in run {run.attempts}, the last one allowed: {_text(outcome)}"[
        :ERROR_LIMIT
    ]
