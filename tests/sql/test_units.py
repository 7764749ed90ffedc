"""Units of work: retried whole, closed when in doubt; schema versions; one process for a SQLite folder."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import StartError, Unavailable
from taskmill.model.ids import new_op
from taskmill.sql import hot, schema
from taskmill.sql import migrate as migrations
from taskmill.sql.engine import Database, SqlOptions, open_database
from taskmill.sql.hot import Hot
from taskmill.sql.migrate import HEAD, current, migrate, require
from tests.proxy import proxied
from tests.sql.kit import counting_conflicts
from tests.support import Processes, free_port

servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
sqlite = pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)
INSERT = sa.insert(schema.meta)


async def names(database: Database) -> list[str]:
    query = sa.select(schema.meta.c.name).order_by(schema.meta.c.name)
    return await database.read(lambda c: list(c.execute(query).scalars()))


async def test_a_unit_is_all_or_nothing(database: Database) -> None:
    """An exception in the middle leaves nothing, and comes out as it is."""

    def work(c: Connection) -> None:
        c.execute(INSERT.values(name="a", value=""))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.write(work)
    assert await names(database) == []
    await database.write(lambda c: c.execute(INSERT.values(name="b", value="")))
    assert await names(database) == ["b"]


async def test_reads_do_not_write(database: Database) -> None:
    """On SQLite the reader refuses to; a snapshot is read-only on every engine."""
    with pytest.raises((exc.DBAPIError, Unavailable)):
        await database.snapshot(lambda c: c.execute(INSERT.values(name="a", value="")))
    assert await names(database) == []


@servers
async def test_a_read_only_server_ends_the_connections_of_reads_too(database: Database) -> None:
    """After a failover they lead to the old primary as well, which answers them for as long as it stands."""

    async def connection_id() -> int:
        return int(await database.read(lambda c: c.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()))

    before, tries = await connection_id(), 0

    def work(c: Connection) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            c.exec_driver_sql("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290")

    await database.write(work)
    assert await connection_id() != before


@servers
async def test_a_deadlock_retries_the_whole_unit(database: Database) -> None:
    """Two units lock two rows in opposite orders: one is rolled back by the server, and both get done."""
    rows = [{"name": "a", "value": ""}, {"name": "b", "value": ""}]
    await database.write(lambda c: c.execute(INSERT.values(rows)))
    tries: list[str] = []

    async def unit(first: str, second: str) -> None:
        def work(c: Connection) -> None:
            tries.append(first)
            for name in (first, second):
                row = sa.update(schema.meta).where(schema.meta.c.name == name)
                c.execute(row.values(value=sa.func.concat(schema.meta.c.value, first)))
                c.exec_driver_sql("DO SLEEP(0.1)")

        await database.write(work)

    with counting_conflicts(database) as conflicts:
        await asyncio.gather(unit("a", "b"), unit("b", "a"))
    assert conflicts == [1213]
    assert len(tries) == 3
    query = sa.select(schema.meta.c.value)
    values = await database.read(lambda c: list(c.execute(query).scalars()))
    assert [sorted(v) for v in values] == [["a", "b"], ["a", "b"]]


@servers
async def test_a_statement_that_was_killed_is_tried_again(database: Database) -> None:
    """By an administrator, or for a limit of the server: the unit comes again as a whole, and is no refusal of its data."""
    tries: list[int] = []

    def work(c: Connection) -> None:
        tries.append(c.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
        c.execute(INSERT.values(name="killed", value=str(len(tries))))
        if len(tries) == 1:
            c.exec_driver_sql(f"KILL QUERY {tries[0]}")

    await database.write(work)
    query = sa.select(schema.meta.c.value)
    assert await database.read(lambda c: c.execute(query).scalar_one()) == "2"


@servers
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_replies_never_cross(store_url: str, how: str) -> None:
    """A unit that was cancelled or timed out in the middle of a statement: its connection is closed, and the next unit
    on this pool of one gets its own answer."""
    database = await open_database(SqlOptions(url=store_url, pool_size=1, patience=0.1))

    def slow(c: Connection) -> object:
        return c.exec_driver_sql("SELECT SLEEP(0.4), 'old'").one()

    def ask(c: Connection) -> tuple[int, str]:
        row = c.exec_driver_sql("SELECT CONNECTION_ID(), 'new'").one()
        return int(row[0]), str(row[1])

    for call in (database.write, database.read):
        before, _ = await call(ask)
        task = asyncio.create_task(call(slow, timeout=0.1 if how == "timed out" else 5.0))
        if how == "cancelled":
            await asyncio.sleep(0.1)
            task.cancel()
        with pytest.raises((asyncio.CancelledError, Unavailable)):
            await task
        after, text = await call(ask)
        assert text == "new"
        assert after != before
    await database.close()


@sqlite
async def test_a_cancelled_unit_stands_or_not_as_a_whole_on_sqlite(database: Database) -> None:
    """A thread cannot be stopped: the unit ends by itself, and the next one waits for it."""

    def slow(c: Connection) -> None:
        c.execute(INSERT.values(name="a", value=""))
        time.sleep(0.1)
        c.execute(INSERT.values(name="b", value=""))

    task = asyncio.create_task(database.write(slow))
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await database.write(lambda c: c.execute(INSERT.values(name="c", value="")))
    assert await names(database) == ["a", "b", "c"]


@servers
async def test_a_server_that_is_gone_is_unavailable(store_url: str) -> None:
    """No answer: Unavailable after the patience, not an error of the driver; and it goes on when the server is back."""
    async with proxied(store_url) as (url, proxy):
        database = await open_database(SqlOptions(url=url, patience=0.3))
        server, proxy._server = proxy._server, ("127.0.0.1", free_port())
        for engine in (database._write_engine, database._read_engine):  # type: ignore[attr-defined]
            await engine.dispose()
        with pytest.raises(Unavailable):
            await database.write(lambda c: c.exec_driver_sql("SELECT 1").all())
        with pytest.raises(Unavailable):
            await database.read(lambda c: c.exec_driver_sql("SELECT 1").all())
        proxy._server = server
        assert await database.write(lambda c: c.exec_driver_sql("SELECT 1").scalar()) == 1
        await database.close()


@servers
async def test_a_pooled_connection_that_died_is_replaced(database: Database) -> None:
    """The server closed it (a restart, wait_timeout): write and read go on with a fresh one."""
    mine = await database.write(lambda c: c.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
    theirs = await database.read(lambda c: c.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
    await database.read(lambda c: c.exec_driver_sql(f"KILL {mine}"))
    assert await database.write(lambda c: c.exec_driver_sql("SELECT 1").scalar()) == 1
    await database.write(lambda c: c.exec_driver_sql(f"KILL {theirs}"))
    assert await database.read(lambda c: c.exec_driver_sql("SELECT 1").scalar()) == 1


@servers
@pytest.mark.parametrize("wrong", ["port", "password", "database"])
async def test_a_wrong_url_is_one_line_without_the_password(store_url: str, wrong: str) -> None:
    """StartError that names DATABASE_URL and the reason."""
    url = sa.make_url(store_url)
    changed = {
        "port": url.set(port=free_port()),
        "password": url.set(password="geheim"),
        "database": url.set(database="tm_none"),
    }
    with pytest.raises(StartError, match="DATABASE_URL") as caught:
        await open_database(SqlOptions(url=changed[wrong].render_as_string(hide_password=False)))
    text = str(caught.value)
    assert "\n" not in text
    assert "geheim" not in text
    assert (url.password or "") not in text or wrong != "port"


@servers
async def test_a_driver_that_counts_changed_rows_is_refused(store_url: str) -> None:
    """Without CLIENT.FOUND_ROWS a renewal that changes nothing would look lost: refused at the start."""

    def without(_dialect: object, _record: object, _args: object, values: dict[str, Any]) -> None:
        values["client_flag"] &= ~2

    sa.event.listen(sa.Engine, "do_connect", without)
    try:
        with pytest.raises(StartError, match="FOUND_ROWS"):
            await opened(store_url)
    finally:
        sa.event.remove(sa.Engine, "do_connect", without)


# ---- the schema ---------------------------------------------------------------------------------------------------


async def opened(url: str) -> Database:
    return await open_database(SqlOptions(url=url))


async def test_an_empty_database_needs_a_migration(sql_url: str) -> None:
    """No tables: refused with the command to run; migrated once, then there is nothing to do."""
    database = await opened(sql_url)
    with pytest.raises(StartError, match="taskmill migrate"):
        await require(database)
    assert await migrate(database) is True
    assert await migrate(database) is False
    await require(database)
    assert await current(database) == HEAD
    await database.close()


async def test_two_migrations_at_once(sql_url: str, sql_engine: str) -> None:
    """Both come back, the schema is there once, and it is complete."""
    first = await opened(sql_url)
    second = first if sql_engine == "sqlite" else await opened(sql_url)
    await asyncio.gather(migrate(first), migrate(second))
    await require(second)
    tables = await first.read(lambda c: set(sa.inspect(c).get_table_names()))
    assert tables == {*schema.metadata.tables, "alembic_version"}
    for database in {first, second}:
        await database.close()


async def test_a_migration_that_was_cut_off_is_run_again(sql_url: str) -> None:
    """DDL is not transactional on MySQL: some tables are there, no version: the same revision goes through."""
    database = await opened(sql_url)

    def half(c: Connection) -> None:
        schema.metadata.create_all(c, tables=[schema.tasks, schema.runs])

    await database.define(half)
    assert await migrate(database) is True
    await require(database)
    await database.close()


@pytest.mark.parametrize(("revision", "words"), [("9999", "newer"), ("0000", "taskmill migrate")])
async def test_a_schema_that_is_not_ours_is_refused(database: Database, revision: str, words: str) -> None:
    """Newer than this program, or older: StartError that says what to run; a newer one is never migrated down."""
    to = sa.text("UPDATE alembic_version SET version_num = :v")
    await database.write(lambda c: c.execute(to, {"v": revision}))
    try:
        with pytest.raises(StartError, match=words):
            await require(database)
        if revision > HEAD:
            with pytest.raises(StartError, match=words):
                await migrate(database)
    finally:
        await database.write(lambda c: c.execute(to, {"v": HEAD}))


async def test_the_newest_revision_is_the_one_we_ask_for() -> None:
    """HEAD in sql/migrate.py is the last file of migrations/versions."""
    folder = Path(migrations.__file__).parent / "migrations" / "versions"
    revisions = sorted(f.name[1:5] for f in folder.glob("v*.py"))
    assert revisions[-1] == HEAD


# ---- SQLite -------------------------------------------------------------------------------------------------------


@sqlite
async def test_a_folder_in_use_names_the_process(store_url: str, processes: Processes) -> None:
    """A second process is kept out, and told who has it and what to do."""
    code = (
        "import asyncio, sys\n"
        "from taskmill.sql.engine import SqlOptions, open_database\n"
        "async def main():\n"
        "    await open_database(SqlOptions(url=sys.argv[1]))\n"
        "    print('open', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = processes.start([sys.executable, "-c", code, store_url])
    child.wait_for_output("open")
    with pytest.raises(StartError, match=f"in use by process {child.pid}") as caught:
        await opened(store_url)
    assert "TASKMILL_DATA" in str(caught.value)
    child.kill()
    database = await opened(store_url)
    await database.close()


@sqlite
async def test_the_same_process_is_kept_out_too(store_url: str) -> None:
    """One owner for a file; when it closes, the next may open it."""
    database = await opened(store_url)
    with pytest.raises(StartError, match=str(os.getpid())):
        await opened(store_url)
    await database.close()
    again = await opened(store_url)
    await again.close()


@sqlite
async def test_a_write_is_on_disk_when_it_returns(database: Database) -> None:
    """WAL, full sync, foreign readers wait: the settings of the writing connection."""

    def ask(c: Connection) -> list[object]:
        pragmas = ("journal_mode", "synchronous", "busy_timeout")
        return [c.exec_driver_sql(f"PRAGMA {p}").scalar() for p in pragmas]

    assert await database.write(ask) == ["wal", 2, 5000]


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A file of something else: StartError with the reason, and the file is left as it is."""
    path = tmp_path / "x.db"
    path.write_bytes(b"this is a text, and it is long enough not to be an empty database" * 100)
    before = path.read_bytes()
    with pytest.raises(StartError, match="DATABASE_URL"):
        await opened(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
async def test_a_commit_that_fails_leaves_nothing_behind(database: Database) -> None:
    """A last write that the server refuses rolls all back; the next unit on the same connection does not commit it."""
    first = Hot(sa.insert(schema.meta).values(name="first", value="x"))
    refused = Hot(sa.insert(schema.meta).values(name=None, value="x"))

    def unit(c: Connection) -> None:
        hot.run(c, (first, {}))
        hot.run_last(c, refused, {})

    with pytest.raises(exc.IntegrityError):
        await database.write(unit)
    for _ in range(database.options.pool_size):
        other = sa.insert(schema.meta).values(name=new_op().hex(), value="y")
        await database.write(lambda c, other=other: c.execute(other))  # type: ignore[misc]
    names = await database.read(lambda c: list(c.execute(sa.select(schema.meta.c.name)).scalars()))
    assert "first" not in names
