"""Any sequence of verbs and upkeep against a model: the rows are what the model says, the counts are a recount, and the
journal tells a lawful life of every task.

Of RELIABILITY.md's invariants: I2 (a run ends only with its own fence), I3 (fences of claims grow), I5 (one lease at a
time), I7 (terminal is final, but for redrive), I9 (attempts), I24 (counts).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskmill.errors import Conflict
from taskmill.model.decide import RunState, cancelled, decide
from taskmill.model.state import TERMINAL, Priority, Status, Verb, allowed
from taskmill.model.task import CRASH_LIMIT, Claimed, Ended, Outcome, Renewal
from taskmill.sql import schema
from taskmill.sql.engine import open_database
from taskmill.tasks.cancel import cancel
from taskmill.tasks.journal import decode
from taskmill.tasks.redrive import redrive
from taskmill.tasks.renew import renew_leases
from taskmill.tasks.update import TaskChanges, update
from taskmill.upkeep.fold import fold_journal, trim_journal
from taskmill.upkeep.promote import promote_due
from taskmill.upkeep.rescue import rescue_lost
from taskmill.upkeep.retain import retain_batch
from tests.databases import patient
from tests.tasks.kit import ANN, BOB, POLICY, World, new

T = TypeVar("T")
DAY = 86400.0
LOST = Outcome(Ended.LEASE_LOST)

numbers = st.integers(0, 10_000)

endings = st.sampled_from(
    [
        Outcome(Ended.SUCCEEDED, result="1"),
        Outcome(Ended.FAILED, message="m"),
        Outcome(Ended.FAILED, message="m", retry=False),
        Outcome(Ended.TIMEOUT),
        Outcome(Ended.CRASHED),
        Outcome(Ended.CRASHED),
        Outcome(Ended.RELEASED),
        Outcome(Ended.UNKNOWN_TYPE),
    ]
)


@dataclass
class Model:
    """What must be true of one task."""

    user: bytes
    queue: str
    priority: Priority
    status: Status
    max_retries: int | None
    planned: bool
    """scheduledAt is ahead."""
    age: float = 0.0
    """Seconds that were let pass since its last step."""
    fence: int = 0
    attempts: int = 0
    crashes: int = 0
    suspect: bool = False
    releases: int = 0
    asked: bool = False
    """A cancel was requested."""

    @property
    def run(self) -> RunState:
        return RunState(self.attempts, self.max_retries, self.crashes, self.suspect, self.releases)

    def end(self, outcome: Outcome) -> None:
        decision = (
            cancelled(self.run, outcome)
            if self.asked
            else decide(self.run, outcome, known_elsewhere=False, policy=POLICY, rng=Random(0))
        )
        self.status, self.attempts, self.crashes = decision.status, decision.attempts, decision.crashes
        self.suspect, self.releases, self.age = decision.suspect, decision.releases, 0.0

    def seen(self) -> tuple[Any, ...]:
        return (
            self.user,
            self.queue,
            self.priority,
            self.status,
            self.max_retries,
            self.fence,
            self.attempts,
            self.crashes,
            self.suspect,
            self.releases,
            self.asked,
        )


class Machine(RuleBasedStateMachine):
    """Bound to a database by `machine_on`."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World(self.go(open_database(patient(self.url))))
        self.go(self.world.db.write(_empty))
        self.tasks: dict[bytes, Model] = {}
        self.gone: set[bytes] = set()
        self.runs: list[Claimed] = []
        self.seq = 0
        self.low = 0
        self.state: dict[bytes, int | None] = {}
        self.fences: dict[bytes, int] = {}

    def go(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.go(self.world.mill.flush())
        self.go(self.world.db.close())
        self.runner.close()

    def pick(self, number: int, *wanted: Status) -> bytes:
        """A task; one of three times any of them, else one in a wanted state if there is one: steps that only a rare
        state allows would hardly ever come."""
        ids = [i for i, m in self.tasks.items() if m.status in wanted] if number % 3 else []
        ids = ids or list(self.tasks)
        return ids[number // 3 % len(ids)]

    def pick_run(self, number: int) -> Claimed:
        """Four of five times a run that goes on, else one of long ago."""
        live = [r for r in self.runs if self.holds(r)] if number % 5 else []
        runs = live or self.runs
        return runs[number // 5 % len(runs)]

    # -- clients -----------------------------------------------------------------------------------------

    @rule(
        n=st.integers(1, 4),
        user=st.sampled_from([ANN, BOB]),
        queue=st.sampled_from(["default", "mail"]),
        priority=st.sampled_from(Priority),
        max_retries=st.none() | st.integers(0, 4),
        planned=st.booleans(),
    )
    def submit(self, n: int, planned: bool, **how: Any) -> None:
        at = self.go(self.world.now()) + timedelta(hours=1) if planned else None
        task = new(
            scheduled_at=at,
            user_id=how["user"],
            queue=how["queue"],
            priority=how["priority"],
            max_retries=how["max_retries"],
        )
        status = Status.PENDING if planned else Status.QUEUED
        for row in self.go(self.world.submit(*[task] * n)):
            self.tasks[row.id] = Model(status=status, planned=planned, **how)

    @precondition(lambda self: self.tasks)
    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        id_ = self.pick(number, Status.PROCESSING)
        m = self.tasks[id_]
        try:
            row = self.go(cancel(self.world.mill, id_, m.user))
        except Conflict:
            assert m.status is Status.COMPLETED
            return
        m.asked = True
        if m.status not in (Status.PROCESSING, Status.CANCELLED):
            m.status, m.age = Status.CANCELLED, 0.0
        assert row.status is m.status

    @precondition(lambda self: self.tasks)
    @rule(number=numbers)
    def redrive(self, number: int) -> None:
        id_ = self.pick(number, Status.FAILED, Status.CANCELLED)
        m = self.tasks[id_]
        try:
            self.go(redrive(self.world.mill, id_, None))
        except Conflict:
            assert m.status not in (Status.FAILED, Status.CANCELLED)
            return
        assert m.status in (Status.FAILED, Status.CANCELLED)
        m.status = Status.PENDING if m.planned else Status.QUEUED
        m.attempts = m.crashes = m.releases = 0
        m.suspect = m.asked = False
        m.age = 0.0

    @precondition(lambda self: self.tasks)
    @rule(
        number=numbers,
        priority=st.none() | st.sampled_from(Priority),
        plan=st.sampled_from(["keep", "now", "later"]),
    )
    def update(self, number: int, priority: Priority | None, plan: str) -> None:
        id_ = self.pick(number, Status.PENDING, Status.QUEUED)
        m = self.tasks[id_]
        changes = TaskChanges(title="changed")
        if priority is not None:
            changes = replace(changes, priority=priority)
        if plan != "keep":
            at = self.go(self.world.now()) + timedelta(hours=1) if plan == "later" else None
            changes = replace(changes, scheduled_at=at)
        try:
            self.go(update(self.world.mill, id_, None, changes))
        except Conflict:
            assert m.status not in (Status.PENDING, Status.QUEUED)
            return
        assert m.status in (Status.PENDING, Status.QUEUED)
        m.priority = m.priority if priority is None else priority
        if plan != "keep":
            m.planned = plan == "later"
            m.status = Status.PENDING if m.planned else Status.QUEUED
            m.age = 0.0

    # -- workers -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.tasks)
    @rule(chosen=st.lists(numbers, min_size=3, max_size=8), suspects=st.integers(0, 2))
    def claim(self, chosen: list[int], suspects: int) -> None:
        ids = {self.pick(n, Status.QUEUED) for n in chosen} | set(list(self.gone)[:1])
        taken = self.go(self.world.take(sorted(ids), suspects=suspects))
        self.took(taken.claimed)
        queued = [i for i in ids if i in self.tasks and self.tasks[i].status is Status.QUEUED]
        mine = {c.id for c in taken.claimed}
        assert {i for i in queued if not self.tasks[i].suspect} == set()
        left = set(queued) - mine
        assert taken.parked == left
        assert not left or sum(c.suspect for c in taken.claimed) == suspects
        others = ids - mine - left
        assert taken.busy == {
            i for i in others if i in self.tasks and self.tasks[i].status is Status.PROCESSING
        }
        assert taken.dead == others - taken.busy

    @rule(n=st.integers(1, 4), suspects=st.integers(0, 1))
    def scan(self, n: int, suspects: int) -> None:
        queued = [m for m in self.tasks.values() if m.status is Status.QUEUED and m.queue == "default"]
        plain = sum(not m.suspect for m in queued)
        possible = min(n, plain + min(suspects, len(queued) - plain))
        claimed = self.go(self.world.scan(n, suspects=suspects)).claimed
        assert len(claimed) == possible
        self.took(claimed)

    @rule(ending=endings)
    def run_all(self, ending: Outcome) -> None:
        """What a busy worker does: promote, claim all there is, and end it all in one way."""
        self.promote()
        waiting = [i for i, m in self.tasks.items() if m.status is Status.QUEUED]
        claimed = self.go(self.world.take(waiting, suspects=99)).claimed if waiting else []
        self.took(claimed)
        if claimed:
            assert all(self.go(self.world.settle(*((c, ending) for c in claimed))))
        for c in claimed:
            self.tasks[c.id].end(ending)

    def took(self, claimed: list[Claimed]) -> None:
        for c in claimed:
            m = self.tasks[c.id]
            assert m.status is Status.QUEUED
            assert c.suspect == m.suspect
            m.status, m.age = Status.PROCESSING, 0.0
            m.fence += 1
            m.attempts += 1
            m.max_retries = POLICY.max_retries if m.max_retries is None else m.max_retries
            assert (c.fence, c.attempts) == (m.fence, m.attempts)
            self.runs.append(c)

    @precondition(lambda self: self.runs)
    @rule(ends=st.lists(st.tuples(numbers, endings), min_size=1, max_size=5))
    def settle(self, ends: list[tuple[int, Outcome]]) -> None:
        """Runs of now and of long ago, two fences of a task among them."""
        batch = {(r := self.pick_run(n)).id + bytes([r.fence]): (r, o) for n, o in ends}
        answers = self.go(self.world.settle(*batch.values()))
        for (run, outcome), answer in zip(batch.values(), answers, strict=True):
            assert answer == self.holds(run)
            if answer:
                self.tasks[run.id].end(outcome)

    @precondition(lambda self: self.runs)
    @rule(chosen=st.lists(numbers, min_size=1, max_size=5), progress=st.none() | st.floats(0, 1))
    def renew(self, chosen: list[int], progress: float | None) -> None:
        runs = {(r := self.pick_run(n)).id + bytes([r.fence]): r for n in chosen}
        answer = self.go(
            renew_leases(self.world.mill, [Renewal(r.id, r.fence, progress) for r in runs.values()])
        )
        for run in runs.values():
            key = (run.id, run.fence)
            assert (key in answer.lost) != self.holds(run)
            if self.holds(run):
                m = self.tasks[run.id]
                assert (key in answer.cancelled) == m.asked
                m.age = 0.0

    def holds(self, run: Claimed) -> bool:
        m = self.tasks.get(run.id)
        return m is not None and m.status is Status.PROCESSING and m.fence == run.fence

    # -- time and upkeep ---------------------------------------------------------------------------------

    @precondition(lambda self: self.tasks)
    @rule(number=numbers, seconds=st.sampled_from([60.0, 3700.0, 31 * DAY]))
    def time(self, number: int, seconds: float) -> None:
        id_ = self.pick(number, Status.PROCESSING)
        self.go(self.world.age(id_, seconds))
        m = self.tasks[id_]
        m.age += seconds
        if seconds > 3600:
            m.planned = False

    @rule()
    def promote(self) -> None:
        self.go(promote_due(self.world.mill, 500, 1.0))
        for m in self.tasks.values():
            # What waits for a retry is due at once (no backoff here); what was planned, when its hour is over.
            if m.status is Status.PENDING and not m.planned:
                m.status, m.age = Status.QUEUED, 0.0

    @rule()
    def rescue(self) -> None:
        lost = [m for m in self.tasks.values() if m.status is Status.PROCESSING and m.age > 30]
        assert self.go(rescue_lost(self.world.mill, 500)) == len(lost)
        for m in lost:
            m.end(LOST)

    @rule(n=st.integers(1, 10))
    def fold(self, n: int) -> None:
        self.go(fold_journal(self.world.mill, n))

    @rule(rows=st.integers(0, 20))
    def trim(self, rows: int) -> None:
        low = self.go(trim_journal(self.world.mill, self.low, age=3600.0, rows=rows, n=50))
        self.low = self.low if low is None else low

    @rule(status=st.sampled_from([Status.COMPLETED, Status.CANCELLED, Status.FAILED]))
    def retain(self, status: Status) -> None:
        old = {i for i, m in self.tasks.items() if m.status is status and m.age >= 30 * DAY}
        assert self.go(retain_batch(self.world.mill, status, 30.0)) == len(old)
        for id_ in old:
            del self.tasks[id_]
            self.gone.add(id_)

    # -- what holds always -------------------------------------------------------------------------------

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        rows = self.go(self.world.rows())
        seen = {
            r.id: (
                r.user_id,
                r.queue,
                r.priority,
                r.status,
                r.max_retries,
                r.fence,
                r.attempts,
                r.crashes,
                r.suspect,
                r.releases,
                r.cancel_requested_at is not None,
            )
            for r in rows
        }
        assert seen == {i: m.seen() for i, m in self.tasks.items()}
        for r in rows:
            assert (r.completed_at is not None) == (r.status in TERMINAL)

    @invariant()
    def attempts_are_within_bounds(self) -> None:
        for m in self.tasks.values():
            limit = POLICY.max_retries if m.max_retries is None else m.max_retries
            assert m.attempts <= limit + 1
            assert m.crashes <= CRASH_LIMIT

    @invariant()
    def counts_are_a_recount(self) -> None:
        self.go(self.world.exact())

    @invariant()
    def the_journal_is_lawful(self) -> None:
        """Every step starts where the last one ended, is in the table, and has the fence of its claim."""
        query = (
            sa.select(schema.journal).where(schema.journal.c.seq > self.seq).order_by(schema.journal.c.seq)
        )
        for row in self.go(self.world.db.read(lambda c: list(c.execute(query)))):
            self.seq = row.seq
            verb = Verb(row.verb)
            for change in decode(row.changes):
                assert change.source == self.state.get(change.task)
                source = None if change.source is None else Status(change.source)
                if change.target is None:
                    assert verb is Verb.RETAIN
                    assert source in TERMINAL
                else:
                    assert allowed(source, verb, Status(change.target)), (verb, change)
                if verb is Verb.CLAIM:
                    assert change.fence > self.fences.get(change.task, 0)
                    self.fences[change.task] = change.fence
                elif verb in (Verb.SETTLE, Verb.RESCUE, Verb.RENEW):
                    assert change.fence == self.fences[change.task]
                self.state[change.task] = change.target
        live = {i: s for i, s in self.state.items() if s is not None}
        assert live == {i: int(m.status) for i, m in self.tasks.items()}


def _empty(connection: sa.Connection) -> None:
    for table in schema.metadata.tables.values():
        connection.execute(sa.delete(table))


BUDGET = {"sqlite": (12, 50), "mariadb": (3, 40), "mysql": (3, 40)}
"""Examples, and steps in each."""


@pytest.mark.timeout(300)  # a failure is made smaller
def test_any_sequence_of_steps(sql_engine: str, store_url: str) -> None:
    """The state machine above, on each engine."""
    examples, steps = BUDGET[sql_engine]
    machine = type("MachineHere", (Machine,), {"url": store_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
