"""The reply to a COMMIT is lost: every verb is applied once, journalled once, and answered rightly.

A real proxy cuts the connection between the COMMIT and its reply ("after"), before the COMMIT ("before"), or just when
it is sent ("during"). Whatever of these happened looks the same to us.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa

from taskmill.errors import CommitUnknown, Conflict
from taskmill.model.clock import boottime
from taskmill.model.ids import new_id
from taskmill.model.state import Status, Verb
from taskmill.model.task import Outcome, Renewal
from taskmill.sql import schema
from taskmill.sql.engine import Database, open_database
from taskmill.tasks.cancel import cancel
from taskmill.tasks.claimer import Claimer
from taskmill.tasks.redrive import redrive
from taskmill.tasks.renew import renew_leases
from taskmill.tasks.settle import Kept, settle_batch
from taskmill.tasks.update import TaskChanges, update
from taskmill.upkeep.fold import fold_journal
from taskmill.upkeep.promote import promote_due
from taskmill.upkeep.rescue import rescue_lost
from tests.databases import patient
from tests.proxy import Proxy, When, proxied
from tests.tasks.kit import ANN, DONE, FAILED, REGISTRY, RELEASED, World, new

pytestmark = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
CUTS: tuple[When, ...] = ("after", "before", "during")
each_cut = pytest.mark.parametrize("when", CUTS)
NO_RETRY = replace(FAILED, retry=False)


@dataclass
class Lossy:
    """A world behind the proxy; `direct` is the same database past it."""

    far: World
    direct: World
    proxy: Proxy
    worker: bytes

    def claimer(self, world: World | None = None) -> Claimer:
        return Claimer((world or self.far).mill, self.worker, ["default"], REGISTRY)


@pytest.fixture
async def lossy(store_url: str, database: Database) -> AsyncIterator[Lossy]:
    async with proxied(store_url) as (url, proxy):
        behind = await open_database(patient(url))
        far = World(behind)
        yield Lossy(far, World(database), proxy, new_id())
        await far.mill.flush()
        await behind.close()


# ---- submit -------------------------------------------------------------------------------------------------------


@each_cut
async def test_submit(lossy: Lossy, when: When) -> None:
    """The tasks are there once, under the ids that were answered, with one journal row."""
    lossy.proxy.cut(when)
    rows = await lossy.far.submit(n=3)
    assert lossy.proxy.happened == 1
    assert {r.id for r in await lossy.direct.rows()} == {r.id for r in rows}
    assert [len(changes) for _, changes in await lossy.direct.journal(Verb.SUBMIT)] == [3]
    assert len(await lossy.direct.table(schema.task_payloads)) == 3


async def test_submit_twice_lost(lossy: Lossy) -> None:
    """The reply of the resend is lost too: still once."""
    lossy.proxy.cut("after")
    lossy.proxy.cut("after")
    rows = await lossy.far.submit(n=2)
    assert lossy.proxy.happened == 2
    assert [r.id for r in await lossy.direct.rows()] == [r.id for r in rows]
    assert len(await lossy.direct.journal()) == 1


async def test_concurrent_submits(lossy: Lossy) -> None:
    """A shared batch whose reply is lost answers each of its calls."""
    lossy.proxy.cut("after")
    lossy.proxy.cut("before")
    answers = await asyncio.gather(*(lossy.far.submit(new(str(n))) for n in range(10)))
    assert [rows[0].title for rows in answers] == [str(n) for n in range(10)]
    assert sorted(r.title for r in await lossy.direct.rows()) == [str(n) for n in range(10)]
    await lossy.direct.exact()


# ---- claim --------------------------------------------------------------------------------------------------------


@each_cut
async def test_claim(lossy: Lossy, when: When) -> None:
    """Claimed once: fence 1, attempt 1, one journal row, and the worker has its tasks."""
    rows = await lossy.direct.submit(n=3)
    lossy.proxy.cut(when)
    claimed = await lossy.claimer().claim(5, suspects=0)
    assert lossy.proxy.happened == 1
    assert {c.id for c in claimed} == {r.id for r in rows}
    assert {(r.fence, r.attempts, r.status) for r in await lossy.direct.rows()} == {(1, 1, Status.PROCESSING)}
    assert len(await lossy.direct.journal(Verb.CLAIM)) == 1


@pytest.mark.parametrize("cuts", [("after", "after"), ("before", "after"), ("before", "before")])
async def test_claim_twice_lost(lossy: Lossy, cuts: tuple[When, When]) -> None:
    """The reply of the resend is lost as well: no task is left running for nobody until its lease ends."""
    await lossy.direct.submit(n=2)
    for when in cuts:
        lossy.proxy.cut(when)
    claimed = await lossy.claimer().claim(5, suspects=0)
    assert lossy.proxy.happened == 2
    assert len(claimed) == 2
    assert {(r.fence, r.attempts) for r in await lossy.direct.rows()} == {(1, 1)}
    assert len(await lossy.direct.journal(Verb.CLAIM)) == 1


async def test_claim_that_never_happened_and_was_taken_by_another(lossy: Lossy) -> None:
    """Nothing was committed and another worker was faster: the resend takes what is left, nothing of the other's."""
    rows = await lossy.direct.submit(n=2)

    async def other() -> None:
        await lossy.direct.take([rows[0].id])

    lossy.proxy.cut("before", other)
    claimed = await lossy.claimer().claim(5, suspects=0)
    assert [c.id for c in claimed] == [rows[1].id]
    assert [r.attempts for r in await lossy.direct.rows(rows[0].id, rows[1].id)] == [1, 1]


async def test_the_deadline_counts_from_the_first_send(lossy: Lossy) -> None:
    """Time that passes before the resend is not added to the worker's lease."""
    await lossy.direct.submit()
    lossy.proxy.cut("after", lambda: asyncio.sleep(0.3))
    sent = boottime()
    [run] = await lossy.claimer().claim(1, suspects=0)
    assert run.deadline < sent + 30.0 + 0.2


# ---- settle -------------------------------------------------------------------------------------------------------


@each_cut
@pytest.mark.parametrize(
    "outcome", [DONE, FAILED, RELEASED, NO_RETRY], ids=["done", "failed", "released", "fail"]
)
async def test_settle(lossy: Lossy, when: When, outcome: Outcome) -> None:
    """Every outcome stands once: one journal row, one run row at most, and the answer is yes."""
    runs = await lossy.direct.running(n=3)
    lossy.proxy.cut(when)
    assert await lossy.far.settle(*((r, outcome) for r in runs)) == [True] * 3
    assert lossy.proxy.happened == 1
    assert len(await lossy.direct.journal(Verb.SETTLE)) == 1
    assert len(await lossy.direct.table(schema.runs)) == (0 if outcome is DONE else 3)
    await lossy.direct.exact()


@pytest.mark.parametrize("outcome", [FAILED, RELEASED], ids=["failed", "released"])
async def test_settle_of_a_task_that_was_claimed_elsewhere_meanwhile(lossy: Lossy, outcome: Outcome) -> None:
    """Applied, then another worker claimed it before the resend: the first outcome stands, the new run is untouched."""
    [run] = await lossy.direct.running()

    async def elsewhere() -> None:
        await lossy.direct.again(run.id)

    lossy.proxy.cut("after", elsewhere)
    assert await lossy.far.settle((run, outcome)) == [True]
    row = await lossy.direct.row(run.id)
    assert (row.status, row.fence) == (Status.PROCESSING, 2)
    assert len(await lossy.direct.journal(Verb.SETTLE)) == 1


async def test_settle_of_a_task_that_was_redriven_meanwhile(lossy: Lossy) -> None:
    """Failed for good, redriven and claimed again before the resend: nothing fails the new run."""
    [run] = await lossy.direct.running()

    async def again() -> None:
        await redrive(lossy.direct.mill, run.id, ANN)
        await lossy.direct.again(run.id)

    lossy.proxy.cut("after", again)
    assert await lossy.far.settle((run, NO_RETRY)) == [True]
    row = await lossy.direct.row(run.id)
    assert (row.status, row.fence, row.attempts) == (Status.PROCESSING, 2, 1)
    assert len(await lossy.direct.journal(Verb.SETTLE)) == 1


async def test_settle_that_never_happened_and_was_rescued(lossy: Lossy) -> None:
    """Nothing was committed and the lease ran out meanwhile: the outcome is stale, rescue's word stands."""
    [run] = await lossy.direct.running()

    async def rescue() -> None:
        await lossy.direct.age(run.id, 3600)
        assert await rescue_lost(lossy.direct.mill, 10) == 1

    lossy.proxy.cut("before", rescue)
    assert await lossy.far.settle((run, DONE)) == [False]
    row = await lossy.direct.row(run.id)
    assert (row.status, row.suspect, row.result) == (Status.PENDING, True, None)


async def test_settle_that_never_happened_and_was_cancelled(lossy: Lossy) -> None:
    """A cancel request came before the resend: the task ends CANCELLED."""
    [run] = await lossy.direct.running()
    lossy.proxy.cut("before", lambda: cancel(lossy.direct.mill, run.id, ANN))
    assert await lossy.far.settle((run, DONE)) == [True]
    assert (await lossy.direct.row(run.id)).status is Status.CANCELLED


@pytest.mark.parametrize("when", ["after", "before"])
async def test_settle_of_two_fences_of_a_task(lossy: Lossy, when: When) -> None:
    """A batch with an old and the current run of a task: the old is stale, the current one is written once."""
    [old] = await lossy.direct.running()
    await lossy.direct.settle((old, FAILED))
    newer = await lossy.direct.again(old.id)
    settled = len(await lossy.direct.journal(Verb.SETTLE))
    lossy.proxy.cut(when)
    assert await lossy.far.settle((old, replace(DONE, result='"old"')), (newer, DONE)) == [False, True]
    assert (await lossy.direct.row(old.id)).result == DONE.result
    assert len(await lossy.direct.journal(Verb.SETTLE)) == settled + 1


async def test_an_outcome_is_batched_again_with_the_next_run_of_its_task(lossy: Lossy) -> None:
    """Its reply was lost for good; the same worker then ran the task again: both outcomes in one batch, both stand."""
    [run] = await lossy.direct.running()
    kept: Kept = {}
    for _ in range(50):
        lossy.proxy.cut("after")
    with pytest.raises(CommitUnknown):
        await settle_batch(lossy.far.mill, [(run, FAILED)], "w", patience=0.3, kept=kept)
    lossy.proxy._cuts.clear()
    newer = await lossy.direct.again(run.id)
    batch = [(run, FAILED), (newer, DONE)]
    assert await settle_batch(lossy.far.mill, batch, "w", patience=10, kept=kept) == [True, True]
    row = await lossy.direct.row(run.id)
    assert (row.status, row.attempts) == (Status.COMPLETED, 2)
    assert len(await lossy.direct.runs(run.id)) == 1
    assert len(await lossy.direct.journal(Verb.SETTLE)) == 2


# ---- the others -----------------------------------------------------------------------------------------------------


@each_cut
async def test_redrive(lossy: Lossy, when: When) -> None:
    """Redriven once, no CONFLICT."""
    [run] = await lossy.direct.running()
    await lossy.direct.settle((run, NO_RETRY))
    lossy.proxy.cut(when)
    assert (await redrive(lossy.far.mill, run.id, ANN)).status is Status.QUEUED
    assert len(await lossy.direct.journal(Verb.REDRIVE)) == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_redrive_of_a_task_that_ran_meanwhile(lossy: Lossy, fails: bool) -> None:
    """Redriven and claimed (and failed again) before the resend: no CONFLICT, and not redriven a second time."""
    [run] = await lossy.direct.running()
    await lossy.direct.settle((run, NO_RETRY))

    async def runs() -> None:
        newer = await lossy.direct.again(run.id)
        if fails:
            await lossy.direct.settle((newer, NO_RETRY))

    lossy.proxy.cut("after", runs)
    answer = await redrive(lossy.far.mill, run.id, ANN)
    assert answer.status is (Status.FAILED if fails else Status.PROCESSING)
    assert len(await lossy.direct.journal(Verb.REDRIVE)) == 1


@each_cut
async def test_cancel(lossy: Lossy, when: When) -> None:
    """Cancelled once, answered with the row."""
    [row] = await lossy.direct.submit()
    lossy.proxy.cut(when)
    assert (await cancel(lossy.far.mill, row.id, ANN)).status is Status.CANCELLED
    assert len(await lossy.direct.journal(Verb.CANCEL)) == 1


async def test_update_of_a_task_that_started_meanwhile(lossy: Lossy) -> None:
    """The change stands and the task runs: we cannot know, and do not say CONFLICT."""
    [row] = await lossy.direct.submit()
    lossy.proxy.cut("after", lambda: lossy.direct.take([row.id]))
    with pytest.raises(CommitUnknown):
        await update(lossy.far.mill, row.id, ANN, TaskChanges(title="new"))
    assert (await lossy.direct.row(row.id)).title == "new"
    with pytest.raises(Conflict):
        await update(lossy.far.mill, row.id, ANN, TaskChanges(title="newer"))


@each_cut
async def test_renew_promote_rescue_and_fold(lossy: Lossy, when: When) -> None:
    """Each stands once: progress, the step to QUEUED, the spent attempt, the counts."""
    lost, waits, runs = await lossy.direct.running(n=3)
    lossy.proxy.cut(when)
    answer = await renew_leases(lossy.far.mill, [Renewal(runs.id, 1, 0.5)])
    assert answer.held == {(runs.id, 1)}
    await lossy.direct.age(lost.id, 3600)
    lossy.proxy.cut(when)
    await rescue_lost(lossy.far.mill, 10)
    await lossy.direct.settle((waits, FAILED))
    lossy.proxy.cut(when)
    await promote_due(lossy.far.mill, 10, 1.0)
    assert {r.status for r in await lossy.direct.rows(lost.id, waits.id)} == {Status.QUEUED}
    assert (await lossy.direct.row(lost.id)).attempts == 1
    lossy.proxy.cut(when)
    await fold_journal(lossy.far.mill, 500)
    assert lossy.proxy.happened == 4
    assert len(await lossy.direct.journal(Verb.RESCUE, Verb.PROMOTE)) == 2
    await lossy.direct.exact()


async def test_without_a_resend_the_caller_is_told(lossy: Lossy) -> None:
    """A write that cannot look whether it stands ends as CommitUnknown, and is not tried again."""
    lossy.proxy.cut("after")
    insert = sa.insert(schema.meta).values(name="n", value="v")
    with pytest.raises(CommitUnknown):
        await lossy.far.db.write(lambda c: c.execute(insert))
    assert len(await lossy.direct.table(schema.meta)) == 1


async def test_a_payload_that_says_commit_is_no_commit(lossy: Lossy) -> None:
    """The proxy itself: it cuts at packets that are a COMMIT, not at texts that hold one."""
    lossy.proxy.cut("after")
    [row] = await lossy.far.submit(new(payload='"COMMIT"', description="COMMIT"))
    assert lossy.proxy.commits == 2
    assert await lossy.direct.payload(row.id) == '"COMMIT"'
