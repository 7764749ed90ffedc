"""What the tests of the verbs share: a mill on a database of each engine, short ways to write and to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.index.wake import LocalBell
from taskmill.model.backoff import Backoff
from taskmill.model.clock import boottime
from taskmill.model.decide import Policy
from taskmill.model.ids import new_id
from taskmill.model.state import Status, Verb
from taskmill.model.task import Claimed, Ended, HandlerSpec, NewTask, Outcome, Registry
from taskmill.runtime.probes import Probes
from taskmill.sql import schema
from taskmill.sql.dialect import db_now, from_now, later
from taskmill.sql.engine import Database
from taskmill.tasks import claim as claiming
from taskmill.tasks.claim import Claim, Scan, Statement, Taken
from taskmill.tasks.journal import Change, decode, tally
from taskmill.tasks.mill import Mill, TaskOptions
from taskmill.tasks.row import TaskRow, select_rows, to_row
from taskmill.tasks.scan import due_ids
from taskmill.tasks.settle import settle_batch
from taskmill.tasks.submit import Submitter
from taskmill.upkeep.promote import promote

ANN, BOB = b"a" * 16, b"b" * 16
DONE = Outcome(Ended.SUCCEEDED, result='"done"')
FAILED = Outcome(Ended.FAILED, error_type="ValueError", message="no luck", traceback="tb")
RELEASED = Outcome(Ended.RELEASED)
CRASHED = Outcome(Ended.CRASHED, message="exit 139")
REGISTRY = Registry((HandlerSpec("T"), HandlerSpec("ONCE", max_retries=0), HandlerSpec(None)))
POLICY = Policy(max_retries=3, backoff=Backoff(0.0, 0.0), release=Backoff(1.0, 30.0))
"""No backoff: what fails is due at once. Tests of delays take a policy of their own."""
LEASE = 30.0


def new(title: str = "t", **changes: Any) -> NewTask:
    return replace(NewTask(user_id=ANN, title=title, payload='{"n":1}', type="T"), **changes)


class World:
    """A mill without an index, its database, and what a test asks of them."""

    def __init__(self, database: Database, policy: Policy = POLICY, index: Any = None) -> None:
        self.db = database
        self.mill = Mill(database, index, LocalBell(), TaskOptions(LEASE, policy), Probes(), rng=Random(5))
        self.submitter = Submitter(self.mill)

    # -- write -------------------------------------------------------------------------------------------

    async def submit(self, *tasks: NewTask, n: int = 1) -> list[TaskRow]:
        return await self.submitter.submit(tasks or [new() for _ in range(n)])

    async def take(
        self,
        ids: Sequence[bytes],
        *,
        suspects: int = 0,
        worker: bytes | None = None,
        registry: Registry = REGISTRY,
        db: Database | None = None,
    ) -> Taken:
        """claim of given ids, as after an index proposed them."""
        this = Claim(worker or new_id(), LEASE, boottime(), suspects)
        statement = Statement(registry, self.mill.options.policy.max_retries)
        return await (db or self.db).write(lambda c: claiming.claim(c, ids, this, statement))

    async def scan(self, n: int, scan: Scan | None = None, *, suspects: int = 0) -> Taken:
        """claim straight from SQL."""
        this = Claim(new_id(), LEASE, boottime(), suspects)
        statement = Statement(REGISTRY, self.mill.options.policy.max_retries)
        where = scan or Scan(["default"])
        return await self.db.write(lambda c: claiming.claim_scanned(c, where, n, this, statement))

    async def running(self, *tasks: NewTask, n: int = 1, **how: Any) -> list[Claimed]:
        """Tasks that were submitted and claimed, in the order given."""
        rows = await self.submit(*tasks, n=n)
        claimed = {c.id: c for c in (await self.take([r.id for r in rows], **how)).claimed}
        return [claimed[r.id] for r in rows]

    async def settle(
        self, *batch: tuple[Claimed, Outcome], worker: str = "w", patience: float = 10.0
    ) -> list[bool]:
        return await settle_batch(self.mill, batch, worker, patience=patience)

    async def promote(self) -> list[TaskRow]:
        ids = await self.db.read(lambda c: due_ids(c, Status.PENDING, 500))
        return await self.db.write(lambda c: promote(c, ids))

    async def again(self, task: bytes) -> Claimed:
        """Promote it if it waits, and claim it: its next run."""
        if (await self.row(task)).status is Status.PENDING:
            await self.promote()
        return (await self.take([task], suspects=1)).claimed[0]

    async def age(self, task: bytes, seconds: float) -> None:
        """Let time pass for one task: its due time, lease or end moves into the past, its plan too."""

        def work(c: Connection) -> None:
            t = schema.tasks
            back: sa.ColumnElement[float] = sa.literal(-seconds, sa.Double())
            c.execute(
                sa.update(t)
                .where(t.c.id == task)
                .values(check_at=later(t.c.check_at, back), scheduled_at=later(t.c.scheduled_at, back))
            )

        await self.db.write(work)

    async def set(self, task: bytes, **values: Any) -> None:
        """Write columns past the verbs."""
        t = schema.tasks
        await self.db.write(lambda c: c.execute(sa.update(t).where(t.c.id == task).values(**values)))

    # -- look --------------------------------------------------------------------------------------------

    async def row(self, task: bytes) -> TaskRow:
        return (await self.rows(task))[0]

    async def rows(self, *tasks: bytes) -> list[TaskRow]:
        """The rows of the tasks in the order given; of all tasks by id."""

        def read(c: Connection) -> list[TaskRow]:
            return [to_row(r) for r in c.execute(select_rows().order_by(schema.tasks.c.id))]

        found = await self.db.read(read)
        by_id = {r.id: r for r in found}
        return [by_id[t] for t in tasks] if tasks else found

    async def table(self, table: sa.Table) -> list[Any]:
        return await self.db.read(lambda c: list(c.execute(sa.select(table).order_by(*table.primary_key))))

    async def runs(self, task: bytes) -> list[Any]:
        return [r for r in await self.table(schema.runs) if r.task_id == task]

    async def payload(self, task: bytes) -> str:
        return next(r.payload for r in await self.table(schema.task_payloads) if r.id == task)

    async def journal(self, *verbs: Verb) -> list[tuple[str, list[Change]]]:
        """(verb, changes) of every journal row, or of those of some verbs, in order."""
        rows = await self.table(schema.journal)
        return [(r.verb, decode(r.changes)) for r in rows if not verbs or r.verb in verbs]

    async def steps(self, task: bytes) -> list[tuple[str, int | None, int | None, int]]:
        """What the journal says of one task: (verb, from, to, fence)."""
        return [
            (verb, c.source, c.target, c.fence)
            for verb, changes in await self.journal()
            for c in changes
            if c.task == task
        ]

    async def now(self) -> Any:
        return await self.db.read(lambda c: c.execute(sa.select(db_now())).scalar_one())

    async def due_in(self, task: bytes) -> float:
        """Seconds until its `check_at`."""
        row = await self.row(task)
        return float((row.check_at - await self.now()).total_seconds())

    async def exact(self) -> None:
        """Counts plus unfolded journal rows are what a recount of `tasks` gives, in one snapshot."""
        counted, recounted = await self.db.snapshot(numbers)
        assert counted == recounted


def numbers(c: Connection) -> tuple[Counter[Any], Counter[Any]]:
    """(user, queue, priority, status) → n, once by the counts and the unfolded journal, once by a recount."""
    counted: Counter[Any] = Counter()
    for r in c.execute(sa.select(schema.counts)):
        counted[r.user_id, r.queue, r.priority, r.status] += r.n
    unfolded = sa.select(schema.journal.c.changes).where(schema.journal.c.folded == 0)
    for blob in c.execute(unfolded).scalars():
        for key, n in tally(decode(blob)).items():
            counted[key] += n
    t = schema.tasks.c
    recount = sa.select(t.user_id, t.queue, t.priority, t.status, sa.func.count()).group_by(
        t.user_id, t.queue, t.priority, t.status
    )
    recounted = Counter({tuple(r)[:4]: r[4] for r in c.execute(recount)})
    return Counter({k: n for k, n in counted.items() if n}), recounted


def in_future(seconds: float = 3600.0) -> Any:
    return from_now(seconds)


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """A mill on each SQL engine, without an index."""
    w = World(database)
    yield w
    await w.submitter.drain()
    await w.mill.flush()
