"""What becomes of a task when a run ends: every outcome, with every kind of counters."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmill.model.backoff import Backoff
from taskmill.model.decide import Decision, Policy, RunState, cancelled, decide, retries_left
from taskmill.model.state import TERMINAL, Status, Verb, allowed
from taskmill.model.task import CRASH_LIMIT, ERROR_LIMIT, Ended, Outcome

POLICY = Policy(max_retries=3, backoff=Backoff(1.0, 60.0), release=Backoff(1.0, 30.0))
DEATHS = (Ended.CRASHED, Ended.LEASE_LOST)

runs = st.builds(
    RunState,
    attempts=st.integers(1, 1002),
    max_retries=st.none() | st.integers(0, 1000),
    crashes=st.integers(0, CRASH_LIMIT - 1),
    suspect=st.booleans(),
    releases=st.integers(0, 10_000),
)
outcomes = st.builds(
    Outcome,
    ended=st.sampled_from(Ended),
    result=st.none() | st.just('"r"'),
    error_type=st.none() | st.just("ValueError"),
    message=st.none() | st.text(max_size=40),
    retry=st.booleans(),
    after=st.none() | st.floats(0, 1e6),
)


def decided(run: RunState, outcome: Outcome, *, elsewhere: bool = False) -> Decision:
    return decide(run, outcome, known_elsewhere=elsewhere, policy=POLICY, rng=Random(7))


def state(attempts: int = 1, **changes: object) -> RunState:
    values: dict = {"max_retries": None, "crashes": 0, "suspect": False, "releases": 0} | changes
    return RunState(attempts, **values)


@given(runs, outcomes, st.booleans())
def test_every_decision_is_a_row_of_the_table(run: RunState, outcome: Outcome, elsewhere: bool) -> None:
    """decide never invents a transition: what it says, settle may write, and for a lost lease rescue."""
    verb = Verb.RESCUE if outcome.ended is Ended.LEASE_LOST else Verb.SETTLE
    assert allowed(Status.PROCESSING, verb, decided(run, outcome, elsewhere=elsewhere).status)


@given(runs, outcomes, st.booleans())
def test_a_task_runs_again_only_while_attempts_are_left(
    run: RunState, outcome: Outcome, elsewhere: bool
) -> None:
    """A spent attempt leads to another run only when fewer than max_retries + 1 runs were spent."""
    decision = decided(run, outcome, elsewhere=elsewhere)
    if decision.status not in TERMINAL and decision.attempts == run.attempts:
        limit = POLICY.max_retries if run.max_retries is None else run.max_retries
        assert run.attempts < limit + 1


@given(st.integers(0, 20), st.data())
def test_failing_for_ever_is_max_retries_plus_one_runs(max_retries: int, data: st.DataObject) -> None:
    """Whatever kinds of failure follow each other, the task ends FAILED after max_retries + 1 runs at most."""
    run = state(0, max_retries=max_retries)
    spent = 0
    for _ in range(100):
        ended = data.draw(st.sampled_from([Ended.FAILED, Ended.TIMEOUT, *DEATHS]))
        spent += 1
        before = RunState(spent, max_retries, run.crashes, run.suspect, run.releases)
        decision = decided(before, Outcome(ended))
        if decision.status is Status.FAILED:
            break
        run = RunState(decision.attempts, max_retries, decision.crashes, decision.suspect, decision.releases)
    assert spent <= max_retries + 1


@given(runs)
def test_given_back_by_a_drain_spends_nothing(run: RunState) -> None:
    """RELEASED is QUEUED again with the attempt returned and every other counter as it was."""
    decision = decided(run, Outcome(Ended.RELEASED))
    assert decision.status is Status.QUEUED
    assert decision.attempts == run.attempts - 1
    assert (decision.crashes, decision.suspect, decision.releases) == (
        run.crashes,
        run.suspect,
        run.releases,
    )


@given(runs)
def test_a_type_known_elsewhere_waits_for_that_worker(run: RunState) -> None:
    """UNKNOWN_TYPE that another worker knows: the attempt is returned, due in 1 s growing to 30 s."""
    decision = decided(run, Outcome(Ended.UNKNOWN_TYPE), elsewhere=True)
    assert decision.status is Status.PENDING
    assert decision.attempts == run.attempts - 1
    assert decision.releases == run.releases + 1
    assert decision.delay == min(30.0, 2.0 ** min(run.releases, 60))


@given(runs)
def test_a_type_that_nobody_knows_is_a_failed_attempt(run: RunState) -> None:
    """UNKNOWN_TYPE with no worker that knows it goes the way of any failure."""
    unknown = decided(run, Outcome(Ended.UNKNOWN_TYPE, error_type="UNKNOWN_TYPE", message="m"))
    failed = decided(run, Outcome(Ended.FAILED, error_type="UNKNOWN_TYPE", message="m"))
    assert unknown == failed


@pytest.mark.parametrize("ended", DEATHS)
def test_the_first_death_makes_a_suspect_at_once(ended: Ended) -> None:
    """A death among others spends the attempt, counts no crash, and the task goes on at once, alone."""
    decision = decided(state(), Outcome(ended))
    assert (decision.status, decision.delay) == (Status.PENDING, 0.0)
    assert (decision.suspect, decision.crashes, decision.attempts) == (True, 0, 1)


@pytest.mark.parametrize("ended", DEATHS)
def test_a_death_alone_counts_and_waits(ended: Ended) -> None:
    """A suspect ran alone: its death is a crash of its own, with backoff before the next run."""
    decision = decided(state(2, suspect=True), Outcome(ended))
    assert (decision.status, decision.crashes, decision.suspect) == (Status.PENDING, 1, True)
    assert decision.delay > 0


@pytest.mark.parametrize("ended", DEATHS)
def test_three_deaths_alone_are_poison(ended: Ended) -> None:
    """The third lone crash ends the task as POISON although attempts are left."""
    decision = decided(state(4, max_retries=100, suspect=True, crashes=CRASH_LIMIT - 1), Outcome(ended))
    assert (decision.status, decision.error_type) == (Status.FAILED, "POISON")
    assert decision.crashes == CRASH_LIMIT
    assert decision.error is not None
    assert decision.error.startswith("POISON")


@pytest.mark.parametrize("ended", DEATHS)
def test_a_death_in_the_last_run_is_poison(ended: Ended) -> None:
    """No attempt is left: a death ends the task, also the first one."""
    decision = decided(state(3, max_retries=2), Outcome(ended))
    assert (decision.status, decision.error_type, decision.crashes) == (Status.FAILED, "POISON", 0)


@given(runs, st.sampled_from([Ended.FAILED, Ended.TIMEOUT, Ended.SUCCEEDED]))
def test_a_run_that_ends_by_itself_clears_the_suspicion(run: RunState, ended: Ended) -> None:
    """It came back from its run: it killed nothing this time."""
    assert decided(run, Outcome(ended)).suspect is False


@given(runs, st.text(max_size=10))
def test_success_keeps_the_result_and_no_error(run: RunState, text: str) -> None:
    """SUCCEEDED is COMPLETED with the result, whatever happened in earlier runs."""
    decision = decided(run, Outcome(Ended.SUCCEEDED, result=text))
    assert (decision.status, decision.result, decision.error) == (Status.COMPLETED, text, None)


@given(runs)
def test_no_retry_means_no_retry(run: RunState) -> None:
    """Fail ends the task at once, whatever attempts are left."""
    assert decided(run, Outcome(Ended.FAILED, retry=False)).status is Status.FAILED


def test_retry_after_is_exact() -> None:
    """Retry(after=…) is taken as it is, without jitter; 0 is at once."""
    for after in (0.0, 12.5, 86400.0):
        assert decided(state(), Outcome(Ended.FAILED, after=after)).delay == after


@given(runs, outcomes)
def test_a_cancel_request_wins(run: RunState, outcome: Outcome) -> None:
    """Whatever the run brought, the task ends CANCELLED, and no result is kept."""
    decision = cancelled(run, outcome)
    assert (decision.status, decision.result) == (Status.CANCELLED, None)
    spent = outcome.ended not in (Ended.RELEASED, Ended.UNKNOWN_TYPE)
    assert decision.attempts == run.attempts - (not spent)


@given(runs, outcomes, st.booleans())
def test_delays_are_never_negative(run: RunState, outcome: Outcome, elsewhere: bool) -> None:
    """A task is due now or later, and only PENDING ones have a delay."""
    decision = decided(run, outcome, elsewhere=elsewhere)
    assert decision.delay >= 0
    assert decision.status is Status.PENDING or decision.delay == 0


@given(st.integers(0, 5000))
def test_error_texts_are_bounded(extra: int) -> None:
    """An error longer than ERROR_LIMIT is cut, also with POISON before it."""
    outcome = Outcome(Ended.CRASHED, message="x" * (ERROR_LIMIT - 2500 + extra))
    for run in (state(), state(5, suspect=True, crashes=2)):
        error = decided(run, outcome).error
        assert error is not None
        assert len(error) <= ERROR_LIMIT


def test_the_default_holds_while_max_retries_is_unknown() -> None:
    """max_retries None is the installation's default; 0 is a real 0: one run."""
    assert retries_left(state(3), POLICY)
    assert not retries_left(state(4), POLICY)
    assert not retries_left(state(1, max_retries=0), POLICY)
