"""Reading tasks: the index each page takes, with few and with many rows in a state, and the numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.ids import new_id
from taskmill.model.state import Status, Verb
from taskmill.sql.dialect import db_now
from taskmill.sql.engine import Database
from taskmill.sql.schema import counts, journal, tasks
from taskmill.tasks import journal as journalling
from taskmill.tasks import read
from taskmill.tasks.journal import Change
from taskmill.tasks.read import Filters

A, B = b"a" * 16, b"b" * 16
MANY = 3000


def insert(connection: Connection, n: int, **values: Any) -> list[bytes]:
    """Rows without the verbs: only what is read here counts."""
    rows = [
        {
            "id": new_id(),
            "user_id": A,
            "queue": "default",
            "type": None,
            "title": str(i),
            "status": 2,
            "priority": 2,
            **values,
        }
        for i in range(n)
    ]
    now = connection.execute(sa.select(db_now())).scalar_one()
    connection.execute(
        sa.insert(tasks), [r | dict.fromkeys(("check_at", "created_at", "updated_at"), now) for r in rows]
    )
    return [r["id"] for r in rows]


async def fill(database: Database, *groups: tuple[int, dict[str, Any]]) -> None:
    for n, values in groups:
        for start in range(0, n, 1000):
            size = min(1000, n - start)
            await database.write(lambda c, size=size, v=values: insert(c, size, **v))  # type: ignore[misc]
    if database.kind != "sqlite":
        await database.write(lambda c: c.exec_driver_sql("ANALYZE TABLE tasks").all())


def rows_read(connection: Connection, kind: str, work: Any) -> int:
    """How many rows the server touched for `work`."""
    if kind == "sqlite":
        raise AssertionError("not counted there")
    connection.exec_driver_sql("FLUSH STATUS")
    work(connection)
    found = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'").all()
    return sum(int(value) for _, value in found)


FILTERS = [
    Filters(),
    Filters(owner=A),
    Filters(owner=A, status=Status.FAILED),
    Filters(status=Status.FAILED),
    Filters(owner=A, status=Status.COMPLETED),
    Filters(status=Status.COMPLETED),
    Filters(queue="other"),
    Filters(type="T"),
    Filters(owner=A, type="T"),
    Filters(status=Status.COMPLETED, queue="other"),
]


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
async def test_few_rows_are_read(database: Database) -> None:
    """A page reads about as many rows as it shows, with few and with many rows in the state asked for."""
    await fill(
        database,
        (MANY, {"status": 4, "queue": "other", "type": "T"}),
        (MANY, {"status": 4, "user_id": B}),
        (30, {"status": 5}),
        (30, {"status": 5, "user_id": B}),
    )
    for filters in FILTERS:
        for after in (None, b"\xff" * 16):

            def page(connection: Connection, filters: Filters = filters, after: bytes | None = after) -> None:
                assert len(read.page(connection, filters, limit=20, after=after)) == 20

            touched = await database.read(lambda c, page=page: rows_read(c, database.kind, page))  # type: ignore[misc]
            # Whether a state is rare is seen in the index alone, after RARE entries; 60 newer rows are passed over.
            bound = 300 if filters.status in (None, Status.FAILED) else read.RARE + 300
            assert touched <= bound, (filters, touched)


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
async def test_index_of_a_page(database: Database, many: bool) -> None:
    """EXPLAIN names the index that was chosen: by state only where the state is rare."""
    await fill(database, (MANY if many else 20, {"status": 5}), (100, {"status": 4}))
    expected = {
        Filters(): "",
        Filters(owner=A): "owner",
        Filters(status=Status.FAILED): "" if many else "status",
        Filters(owner=A, status=Status.FAILED): "owner" if many else "status",
        Filters(queue="default"): "queue",
        Filters(type="T"): "type",
    }
    for filters, by in expected.items():
        assert await database.read(lambda c, f=filters: read._index(c, f)) == by  # type: ignore[misc]
        used = await database.read(lambda c, f=filters, by=by: explain(c, database.kind, f, by))  # type: ignore[misc]
        assert read._INDEXES[by] in used or (by == "" and "SCAN tasks" in used), (filters, used)
        assert "filesort" not in used or by == "status"


def explain(connection: Connection, kind: str, filters: Filters, by: str) -> str:
    """The plan of a page as text."""
    statement = read.page_statement(filters, by=by, after=False)
    values = {"limit": 20, **read._bound(filters)}
    compiled = statement.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    prefix = {"sqlite": "EXPLAIN QUERY PLAN ", "mysql": "EXPLAIN FORMAT=TRADITIONAL ", "mariadb": "EXPLAIN "}[
        kind
    ]
    parameters = compiled.construct_params(values)
    ordered = tuple(parameters[name] for name in compiled.positiontup or ())
    return json.dumps(
        [list(map(str, row)) for row in connection.exec_driver_sql(prefix + str(compiled), ordered)]
    )


async def test_foreign(database: Database) -> None:
    """Another's task is an absent one; without an owner all are there."""
    [task_id] = await database.write(lambda c: insert(c, 1))
    assert await database.read(lambda c: read.task(c, task_id, B)) is None
    assert await database.read(lambda c: read.task(c, new_id(), A)) is None
    for owner in (A, None):
        found = await database.read(lambda c, owner=owner: read.task(c, task_id, owner))  # type: ignore[misc]
        assert found is not None
        assert found.id == task_id


async def test_numbers(database: Database) -> None:
    """The numbers are what is folded plus what is not, of one owner or of all."""

    def work(connection: Connection) -> None:
        for user, n in ((A, 5), (B, 7)):
            connection.execute(sa.insert(counts).values(user_id=user, queue="q", priority=2, status=2, n=n))
        connection.execute(sa.insert(counts).values(user_id=A, queue="r", priority=0, status=2, n=1))
        moved = Change(new_id(), A, "q", 2, 2, int(Status.QUEUED), int(Status.PROCESSING), 1)
        new = Change(new_id(), B, "q", 2, 2, None, int(Status.PENDING), 0)
        gone = Change(new_id(), B, "q", 2, 2, int(Status.QUEUED), None, 0)
        journalling.append(connection, Verb.CLAIM, [moved])
        journalling.append(connection, Verb.SUBMIT, [new, gone])
        folded = Change(new_id(), A, "q", 2, 2, None, int(Status.FAILED), 0)
        journalling.append(connection, Verb.SETTLE, [folded])

    def fold_last(
        connection: Connection,
    ) -> None:  # another transaction: a journal row may travel with its COMMIT
        last = connection.execute(sa.select(sa.func.max(journal.c.seq))).scalar_one()
        connection.execute(sa.update(journal).where(journal.c.seq == last).values(folded=1))

    await database.write(work)
    await database.write(fold_last)
    of_all = await database.snapshot(lambda c: read.stats(c, None))
    of_a = await database.snapshot(lambda c: read.stats(c, A))
    assert of_all == dict.fromkeys(Status, 0) | {Status.QUEUED: 11, Status.PROCESSING: 1, Status.PENDING: 1}
    assert of_a == dict.fromkeys(Status, 0) | {Status.QUEUED: 5, Status.PROCESSING: 1}
