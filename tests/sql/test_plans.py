"""Every statement of the verbs goes by a key, with few and with many rows in a state, and reads what it needs.

The plans are asked for in a named format, and with the statements as the verbs send them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.clock import boottime
from taskmill.model.decide import Policy
from taskmill.model.ids import new_id, new_op
from taskmill.model.state import Priority, Status
from taskmill.model.task import Claimed, LogLine, Renewal
from taskmill.sql import schema
from taskmill.sql.dialect import from_now
from taskmill.sql.engine import Database, SqlOptions, open_database
from taskmill.sql.migrate import migrate
from taskmill.tasks import cancel, claim, log, redrive, renew, scan, settle, submit, update
from taskmill.upkeep import fold, promote, rescue, retain
from tests.databases import fresh_database
from tests.sql.kit import Undo, listening, plan, rows_read
from tests.support import run_blocking
from tests.tasks.kit import DONE, FAILED, REGISTRY, new

BATCH = 6
LIVE = (Status.PENDING, Status.QUEUED, Status.PROCESSING)
CROWDS = {
    "tiny": [s for s in Status for _ in range(BATCH)],
    "few": [s for s in Status for _ in range(2300 if s is Status.COMPLETED else 8)],
    "many": [s for s in Status for _ in range(700 if s in LIVE else 100)],
}
"""The states of the rows."""


async def _populate(url: str, crowd: str) -> None:
    database = await open_database(SqlOptions(url=url))
    await migrate(database)
    rng = Random(3)
    states = list(CROWDS[crowd])
    rng.shuffle(states)
    t = schema.tasks

    def fill(c: Connection) -> None:
        entries = [{"at": datetime(2020, 1, 1), "verb": "x", "folded": 1, "changes": b"\x90"}] * 1500
        c.execute(sa.insert(schema.journal), entries)
        ids = [new_id() for _ in states]
        tasks = [new(user_id=bytes([n % 7]) * 16, priority=Priority(n % 4)) for n in range(len(states))]
        part = min(400, len(ids) // 4)
        for start in range(0, len(ids), part):
            submit.submit(c, list(zip(ids, tasks, strict=True))[start : start + part])
        for status in Status:
            chosen = [i for i, s in zip(ids, states, strict=True) if s is status]
            running = status is Status.PROCESSING
            for start in range(0, len(chosen), 40):
                values = {"status": int(status), "fence": int(running), "attempts": int(running)}
                chunk = t.c.id.in_(chosen[start : start + 40])
                # Old, in several steps: every scan has an order to keep, and many rows that tie.
                aged = {"check_at": from_now(start / 40 - 40.0 * 86400)}
                c.execute(sa.update(t).where(chunk).values(**values, **aged))

    await database.write(fill, timeout=60)
    if database.kind != "sqlite":  # nothing of ours runs ANALYZE there, so its planner has no numbers either
        await database.read(
            lambda c: c.exec_driver_sql("ANALYZE TABLE tasks, journal, runs, task_payloads").all()
        )
    await database.close()


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], str]]:
    """(engine, crowd) → the URL of a database with that crowd; nothing in it is ever committed."""
    urls: dict[tuple[str, str], str] = {}
    with ExitStack() as stack:

        def get(engine: str, crowd: str) -> str:
            if (engine, crowd) not in urls:
                folder: Path = tmp_path_factory.mktemp("crowd")
                url = stack.enter_context(fresh_database(engine, folder))
                run_blocking(_populate(url, crowd))
                urls[engine, crowd] = url
            return urls[engine, crowd]

        yield get


@pytest.fixture(scope="module")
async def opened(crowds: Callable[[str, str], str]) -> AsyncIterator[dict[str, Database]]:
    """The crowds that are open, by URL: opening one costs more than a test."""
    databases: dict[str, Database] = {}
    yield databases
    for database in databases.values():
        await database.close()


@pytest.fixture
async def crowded(
    sql_engine: str, crowd: str, crowds: Callable[[str, str], str], opened: dict[str, Database]
) -> Database:
    url = crowds(sql_engine, crowd)
    if url not in opened:
        opened[url] = await open_database(SqlOptions(url=url))
    return opened[url]


# ---- what the verbs do ----------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """Some rows of each state."""

    rows: dict[Status, list[Any]]
    middle: dict[Priority, scan.Position]
    """Of the QUEUED rows of each priority, the place of the one in the middle."""

    def ids(self, status: Status) -> list[bytes]:
        return [r.id for r in self.rows[status]]

    def runs(self) -> list[Claimed]:
        return [
            Claimed(
                r.id,
                1,
                r.user_id,
                r.queue,
                Priority(r.priority),
                r.type,
                r.title,
                "{}",
                1,
                3,
                0,
                False,
                0,
                0.0,
            )
            for r in self.rows[Status.PROCESSING]
        ]


def _sample(c: Connection) -> Sample:
    t = schema.tasks
    rows = {s: list(c.execute(sa.select(t).where(t.c.status == int(s)).limit(BATCH))) for s in Status}
    middle: dict[Priority, scan.Position] = {}
    for priority in Priority:
        query = sa.select(t.c.check_at, t.c.id).where(t.c.status == 2, t.c.priority == int(priority))
        places = [(r.check_at, r.id) for r in c.execute(query.order_by(t.c.check_at, t.c.id))]
        if places:
            middle[priority] = places[len(places) // 2]
    return Sample(rows, middle)


def _claim(c: Connection, s: Sample) -> None:
    this = claim.Claim(new_id(), 30.0, boottime(), 1)
    taken = claim.claim(
        c, [*s.ids(Status.QUEUED), *s.ids(Status.COMPLETED)], this, claim.Statement(REGISTRY, 3)
    )
    assert len(taken.claimed) == BATCH
    claim.claim_again(c, s.ids(Status.QUEUED), this, claim.Statement(REGISTRY, 3))


def _claim_scanned(c: Connection, s: Sample) -> None:
    this = claim.Claim(new_id(), 30.0, boottime(), 1)
    taken = claim.claim_scanned(c, claim.Scan(["default"]), BATCH, this, claim.Statement(REGISTRY, 3))
    assert len(taken.claimed) == BATCH


def _settlements(s: Sample) -> list[settle.Settlement]:
    return [
        settle.prepare(r, FAILED if n % 2 else DONE, frozenset(), "w", Policy(), Random(1))
        for n, r in enumerate(s.runs())
    ]


def _settle(c: Connection, s: Sample) -> None:
    settle.settle(c, _settlements(s))


def _settle_looking(c: Connection, s: Sample) -> None:
    assert settle.settle_looking(c, _settlements(s)) == [True] * BATCH


def _renew(c: Connection, s: Sample) -> None:
    assert len(renew.renew(c, [Renewal(r.id, 1, 0.5) for r in s.runs()], 30.0)) == BATCH


def _promote(c: Connection, s: Sample) -> None:
    assert len(promote.promote(c, scan.due_ids(c, Status.PENDING, BATCH))) == BATCH


def _rescue(c: Connection, s: Sample) -> None:
    ids = scan.due_ids(c, Status.PROCESSING, BATCH)
    assert len(rescue.rescue(c, ids, Policy(), Random(1))) == BATCH


def _next_due(c: Connection, s: Sample) -> None:
    assert scan.next_due(c, Status.PENDING) is not None


def _verify(c: Connection, s: Sample) -> None:
    """A page from 0, and one behind a position in the middle of rows that tie."""
    c.execute(scan.page_query(Status.QUEUED, BATCH, {}, until=from_now(-2.0))).all()
    c.execute(scan.page_query(Status.QUEUED, BATCH, s.middle, until=from_now(-2.0))).all()


def _retain(c: Connection, s: Sample) -> None:
    ids = scan.due_ids(c, Status.CANCELLED, BATCH, 30 * 86400.0)
    assert retain.retain(c, ids, Status.CANCELLED, 30 * 86400.0) == BATCH


def _fold(c: Connection, s: Sample) -> None:
    assert fold.fold(c, 3, c.dialect.name) == 3


def _trim(c: Connection, s: Sample) -> None:
    seqs = fold.oldest(c, 0, 3600.0, 100, BATCH)
    assert len(seqs) == BATCH
    c.execute(fold._DROP, {"seqs": seqs})
    fold.oldest(c, seqs[-1], 1e9, 1400, BATCH)


def _one(c: Connection, s: Sample) -> None:
    """cancel, update and redrive: one row each."""
    cancel.cancel_task(c, s.ids(Status.QUEUED)[0], None)
    cancel.cancel_task(c, s.ids(Status.PROCESSING)[0], None)
    update.update_task(c, s.ids(Status.PENDING)[0], None, update.TaskChanges(title="x", payload="[]"))
    redrive.redrive_task(c, s.ids(Status.FAILED)[0], None, new_op())


def _log(c: Connection, s: Sample) -> None:
    lines = [LogLine(r.id, 1, "info", "m", None, datetime(2026, 1, 1)) for r in s.runs()]
    log.log(c, [(new_id(), line) for line in lines])


def _submit(c: Connection, s: Sample) -> None:
    submit.submit(c, [(new_id(), new()) for _ in range(BATCH)])


JOBS: dict[str, Callable[[Connection, Sample], None]] = {
    "submit": _submit,
    "claim": _claim,
    "scan": _claim_scanned,
    "settle": _settle,
    "settle-looking": _settle_looking,
    "renew": _renew,
    "promote": _promote,
    "next-due": _next_due,
    "rescue": _rescue,
    "verify": _verify,
    "retain": _retain,
    "fold": _fold,
    "trim": _trim,
    "one": _one,
    "log": _log,
}
READS = {"scan": 700, "settle-looking": 200}
"""Rows that a job may read; 150 for the others: a batch is six."""

each_job = pytest.mark.parametrize("job", JOBS)
each_crowd = pytest.mark.parametrize("crowd", CROWDS)


async def undone(database: Database, work: Callable[[Connection], None]) -> None:
    def unit(c: Connection) -> None:
        work(c)
        raise Undo

    with pytest.raises(Undo):
        await database.write(unit)


def _locks(text: str) -> bool:
    """By another key than the primary one it would lock in another order than everybody else."""
    return text.startswith(("UPDATE", "DELETE")) or "FOR UPDATE" in text


@each_crowd
@each_job
async def test_every_statement_goes_by_a_key(crowded: Database, job: str, crowd: str) -> None:
    """No table of ours is read whole, no scan over a state sorts, and tasks are locked by their primary key."""

    def work(c: Connection) -> None:
        sample = _sample(c)
        with listening(c) as sent:
            JOBS[job](c, sample)
        assert sent
        for statement in list(sent):
            if statement.text.startswith(("SAVEPOINT", "RELEASE")):
                continue
            for access in plan(c, statement):
                # A table of a few rows may be walked along its primary key: that is the order of locking.
                walk = crowd == "tiny" and access.how == "index" and access.key == "PRIMARY"
                if access.table in schema.metadata.tables and not walk:
                    assert access.how not in ("ALL", "index"), access
                    assert access.key or c.dialect.name == "sqlite", access
                if access.table == "tasks" and _locks(statement.text):
                    assert access.key in ("PRIMARY", "INDEX sqlite_autoindex_tasks_1"), access
                assert "filesort" not in access.extra, access
                assert "TEMP B-TREE" not in access.extra, access

    await undone(crowded, work)


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
@each_crowd
@each_job
async def test_a_batch_of_six_reads_few_rows(crowded: Database, job: str) -> None:
    """What the server counts: a small multiple of the batch, not the rows of the state, not the table."""

    def work(c: Connection) -> None:
        sample = _sample(c)
        before = rows_read(c)
        JOBS[job](c, sample)
        assert rows_read(c) - before <= READS.get(job, 150)

    await undone(crowded, work)
