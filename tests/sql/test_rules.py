"""SQL.md's rules of statements, each with the test that fails without it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.model.clock import boottime
from taskmill.model.decide import Policy
from taskmill.model.ids import new_id
from taskmill.model.task import Claimed, Ended, LogLine, Outcome, Renewal
from taskmill.sql import schema
from taskmill.sql.dialect import Shape, db_now, doc, from_now, unhex
from taskmill.sql.engine import Database, SqlOptions, open_database
from taskmill.tasks import claim, renew, settle, submit
from taskmill.tasks.cancel import cancel
from taskmill.tasks.log import log
from taskmill.tasks.renew import renew_leases
from taskmill.upkeep import fold
from taskmill.upkeep.rescue import rescue_lost
from tests.sql.kit import Sent, counting_conflicts, listening
from tests.tasks.kit import ANN, BOB, DONE, FAILED, REGISTRY, World, new

servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
NASTY = [
    "NUL as an escape: \\u0000",
    "emoji 🎉👩‍👩‍👧 and RTL \u202eabc",
    "quotes ' \" ` and \\ backslash \\\\ % %s :name ? {}",
    "line\nbreaks\r\n\ttabs",
    "ﬀ ß İ combining é é",
]


# ---- 1: locks in one order ----------------------------------------------------------------------------------------


@servers
async def test_hot_rows_give_no_deadlock(world: World, store_url: str) -> None:
    """Claimers, settlers, renewers, cancellers and rescuers on the same few rows: 0 deadlocks, 0 lock timeouts."""
    await world.submit(n=120)
    dbs = [await open_database(SqlOptions(url=store_url)) for _ in range(2)]
    rng = Random(11)
    statement = claim.Statement(REGISTRY, 3)

    async def worker(db: Database) -> None:
        mine = World(db)
        for _ in range(12):
            ids = [r.id for r in await world.rows()]
            rng.shuffle(ids)
            this = claim.Claim(new_id(), 30.0, boottime(), 5)
            taken = await db.write(partial(claim.claim, ids=ids[:60], this=this, statement=statement))
            runs = list(taken.claimed)
            rng.shuffle(runs)
            outcomes = [rng.choice([DONE, FAILED, Outcome(Ended.RELEASED)]) for _ in runs]
            if runs:
                await asyncio.gather(
                    mine.settle(*zip(runs, outcomes, strict=True)),
                    renew_leases(mine.mill, [Renewal(r.id, r.fence, 0.5) for r in runs]),
                    *(cancel(mine.mill, i, None) for i in ids[60:63]),
                    return_exceptions=True,
                )
            await mine.promote()
            await rescue_lost(mine.mill, 50)

    with counting_conflicts(dbs[0]) as one, counting_conflicts(dbs[1]) as two:
        await asyncio.gather(*(worker(db) for db in dbs for _ in range(2)))
    for db in dbs:
        await db.close()
    assert one + two == []
    await world.exact()


@servers
async def test_settle_writes_in_the_order_of_ids(world: World) -> None:
    """The batch comes in the order in which runs end; its rows are locked in the order of their keys."""
    runs = await world.running(n=20)
    Random(2).shuffle(runs)
    batch = [settle.prepare(r, DONE, frozenset(), "w", Policy(), Random(1)) for r in runs]

    def work(c: Connection) -> list[Sent]:
        with listening(c) as sent:
            settle.settle(c, batch)
        return list(sent)

    sent = await world.db.write(work)
    document = next(v for s in sent if s.text.startswith("UPDATE tasks") for v in s.values if _is_batch(v))
    ids = [row[0] for row in json.loads(document)]
    assert ids == sorted(ids)


def _is_batch(value: object) -> bool:
    return isinstance(value, str) and value.startswith("[[")


# ---- 3 and 4: one statement for every size ------------------------------------------------------------------------


async def texts(world: World, work: Callable[[Connection], Any]) -> list[str]:
    def unit(c: Connection) -> list[str]:
        with listening(c) as sent:
            work(c)
        assert not any(s.many for s in sent)
        return [s.text for s in sent]

    return await world.db.write(unit)


@pytest.mark.parametrize("verb", ["submit", "settle", "renew", "log"])
async def test_a_batch_is_one_text_for_every_size(world: World, verb: str) -> None:
    """1 row and 300: the same statements, as many, with the same text: cached by driver and server."""
    small, large = await world.running(n=1), await world.running(n=300)

    def job(runs: list[Claimed]) -> Callable[[Connection], Any]:
        if verb == "submit":
            return lambda c: submit.submit(c, [(new_id(), new()) for _ in runs])
        if verb == "renew":
            return lambda c: renew.renew(c, [Renewal(r.id, 1, 0.5) for r in runs], 30.0)
        if verb == "log":
            lines = [(new_id(), LogLine(r.id, 1, "info", "m", None, datetime(2026, 1, 1))) for r in runs]
            return lambda c: log(c, lines)
        batch = [settle.prepare(r, FAILED, frozenset(), "w", Policy(), Random(1)) for r in runs]
        return lambda c: settle.settle(c, batch)

    one, many = await texts(world, job(small)), await texts(world, job(large))
    # What is asked by key (renew's answer) has one placeholder an id.
    assert [_folded(t) for t in one] == [_folded(t) for t in many]
    batches = [t for t in one if "JSON_TABLE" in t or "json_each" in t]
    assert len(batches) == len([t for t in many if "JSON_TABLE" in t or "json_each" in t])
    assert batches
    assert len(one) <= 4


def _folded(text: str) -> str:
    text = re.sub(r"x'[0-9a-f]*'", "?", text)  # a value of the hot path
    return text if "IN (" not in text else text.split("IN (", maxsplit=1)[0]


async def test_a_claim_is_as_many_statements_for_every_size(world: World) -> None:
    """UPDATE, read back, journal: three for one task and for 300."""
    counts = []
    statement = claim.Statement(REGISTRY, 3)
    for n in (1, 300):
        ids = [r.id for r in await world.submit(n=n)]
        this = claim.Claim(new_id(), 30.0, boottime(), 1)
        work = partial(claim.claim, ids=ids, this=this, statement=statement)
        counts.append(len(await texts(world, work)))
    assert counts == [3, 3]


async def test_statements_are_compiled_once(world: World) -> None:
    """SQLAlchemy's cache knows each of them the second time: no verb builds a statement it cannot find again."""
    hits: list[str] = []

    def cached(conn: Any, cursor: Any, text: str, values: Any, context: Any, many: bool) -> None:
        if context.compiled is not None:
            hits.append(f"{context.cache_hit.name}: {text[:60]}")

    async def all_verbs() -> None:
        runs = await world.running(n=3)
        await world.settle((runs[0], DONE), (runs[1], FAILED))
        await renew_leases(world.mill, [Renewal(runs[2].id, 1)])
        await cancel(world.mill, runs[2].id, ANN)
        await world.promote()
        await world.scan(2)
        await fold.fold_journal(world.mill, 10)

    await all_verbs()
    engine = world.db._writer._engine if world.db.kind == "sqlite" else world.db._write_engine.sync_engine  # type: ignore[attr-defined]
    sa.event.listen(engine, "before_cursor_execute", cached)
    try:
        await all_verbs()
    finally:
        sa.event.remove(engine, "before_cursor_execute", cached)
    assert len(hits) > 10
    assert [h for h in hits if not h.startswith("CACHE_HIT")] == []


async def test_a_batch_says_its_character_set(world: World) -> None:
    """Every kind of column comes through the JSON parameter as it went in, NULL as NULL."""
    shape = Shape("x", a="hex", b="int", c="real", d="time", e="text")
    v = shape.of()
    moment = (await world.now()).replace(microsecond=123456)
    rows = [(b"\x00\xff" * 8, -(2**62), 0.1, moment, "🎉 ñ"), (None, None, None, None, None)]
    query = sa.select(unhex(v.c.a), v.c.b, v.c.c, v.c.d, v.c.e)
    back = await world.db.read(lambda c: c.execute(query, {"rows": doc(rows)}).all())
    assert [tuple(r) for r in back] == rows


# ---- 5, 6, 8, 10: values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NASTY)
async def test_texts_come_back_as_they_went(world: World, text: str) -> None:
    """Payload, title, description, result, error: byte for byte through the JSON parameter, on every engine."""
    payload = json.dumps(text)
    [run] = await world.running(new(text, description=text, payload=payload))
    assert run.payload == payload
    await world.settle((run, Outcome(Ended.SUCCEEDED, result=payload)))
    [other] = await world.running(new())
    await world.settle((other, Outcome(Ended.FAILED, message=text, traceback=text)))
    rows = await world.rows(run.id, other.id)
    assert (rows[0].title, rows[0].description, rows[0].result) == (text, text, payload)
    assert rows[1].error == text
    [kept] = await world.runs(other.id)
    assert (kept.message, kept.traceback) == (text, text)


@pytest.mark.parametrize("size", [70_000, 262_000])
async def test_large_texts_are_not_cut_through_the_joined_update(world: World, size: int) -> None:
    """70,000 bytes and 256 KiB of result, beside a small one: MariaDB cuts them to 4,464 in a TEXT column."""
    large, small = await world.running(n=2)
    result = json.dumps("é" * (size // 2 - 2), ensure_ascii=False)
    await world.settle((large, Outcome(Ended.SUCCEEDED, result=result)), (small, DONE))
    assert (await world.row(large.id)).result == result
    assert (await world.row(small.id)).result == DONE.result


@servers
@pytest.mark.parametrize("character", ["x", "\\"], ids=["plain", "quoted"])
async def test_large_batches_fit_into_packets(world: World, character: str) -> None:
    """More text than a packet of MariaDB (16 MiB) holds, or would once it is quoted: several parameters, one transaction.

    Submitted in one call, and settled in one batch; a packet too large is "server has gone away", retried for ever.
    """
    text = json.dumps(character * (250_000 if character == "x" else 120_000))
    n = (18 if character == "x" else 6) * 2**20 // len(text) + 1
    runs = await world.running(*(new(payload=text) for _ in range(n)))
    assert {r.payload for r in runs} == {text}
    assert all(await world.settle(*((r, Outcome(Ended.SUCCEEDED, result=text)) for r in runs)))
    lengths = sa.select(sa.func.char_length(schema.tasks.c.result)).distinct()
    assert await world.db.read(lambda c: list(c.execute(lengths).scalars())) == [len(text)]
    assert len(await world.journal()) == 3


async def test_keys_compare_byte_by_byte(world: World) -> None:
    """Case, accents and emoji tell queues apart, in the counts too. (Spaces at the end do not, on the servers: names
    with spaces are refused before.)"""
    names = ["abc", "ABC", "abç", "🎉", "👍"]
    await world.submit(*(new(queue=n) for n in names))
    await fold.fold_journal(world.mill, 10)
    rows = await world.table(schema.counts)
    assert sorted((r.queue, r.n) for r in rows) == sorted((n, 1) for n in names)
    for name in names:
        taken = await world.scan(10, claim.Scan([name]))
        assert [c.queue for c in taken.claimed] == [name]


async def test_matched_rows_are_counted_not_changed_ones(world: World) -> None:
    """An UPDATE that writes what is there already reports its row."""
    [row] = await world.submit()
    same = sa.update(schema.tasks).where(schema.tasks.c.id == row.id).values(title=row.title)
    assert await world.db.write(lambda c: c.execute(same).rowcount) == 1


async def test_operations_are_found_by_id_and_op(world: World) -> None:
    """One op_id for a claim, one for each outcome of a settle."""
    runs = await world.running(n=3)
    assert len({r.op_id for r in await world.rows()}) == 1
    await world.settle(*((r, DONE) for r in runs))
    assert len({r.op_id for r in await world.rows()}) == 3


# ---- 7: the clock -------------------------------------------------------------------------------------------------


@servers
async def test_the_session_is_as_we_need_it(world: World) -> None:
    """READ COMMITTED, strict mode, UTC, utf8mb4, short lock waits: on the writing and the reading connections."""
    isolation = "tx_isolation" if world.db.kind == "mariadb" else "transaction_isolation"
    query = sa.text(
        f"SELECT @@{isolation}, @@sql_mode, @@time_zone, @@character_set_connection,"
        " @@innodb_lock_wait_timeout, @@lock_wait_timeout"
    )
    for ask in (world.db.write, world.db.read):
        level, mode, zone, charset, row_wait, table_wait = await ask(lambda c: tuple(c.execute(query).one()))
        assert (level, zone, charset) == ("READ-COMMITTED", "+00:00", "utf8mb4")
        assert "STRICT_TRANS_TABLES" in mode
        assert (row_wait, table_wait) == (5, 5)


@servers
async def test_a_snapshot_leaves_no_trace(world: World) -> None:
    """REPEATABLE READ holds for the snapshot alone: the same connection reads committed rows afterwards."""
    await world.db.snapshot(
        lambda c: c.execute(sa.select(sa.func.count()).select_from(schema.tasks)).scalar()
    )
    await world.submit()
    count = sa.select(sa.func.count()).select_from(schema.tasks)
    assert await world.db.read(lambda c: c.execute(count).scalar()) == 1


async def test_a_snapshot_sees_one_moment(world: World) -> None:
    """What is committed during it is not in it."""
    await world.submit()
    loop = asyncio.get_running_loop()
    count = sa.select(sa.func.count()).select_from(schema.tasks)
    counted: list[int] = []

    def work(c: Connection) -> None:
        counted.append(c.execute(count).scalar_one())
        if world.db.kind == "sqlite":  # it runs in a thread: the other side's unit can be awaited there
            asyncio.run_coroutine_threadsafe(world.submit(), loop).result(5)
        else:
            c.exec_driver_sql("DO SLEEP(0.2)")
        counted.append(c.execute(count).scalar_one())

    if world.db.kind == "sqlite":
        await world.db.snapshot(work)
    else:
        _, rows = await asyncio.gather(world.db.snapshot(work), _later(world))
        assert len(rows) == 1
    assert counted == [1, 1]
    assert len(await world.rows()) == 2


async def _later(world: World) -> list[Any]:
    await asyncio.sleep(0.1)
    return await world.submit()


@servers
async def test_the_clock_can_be_set_for_tests_and_is_utc(world: World) -> None:
    """`SET timestamp` moves db_now, whatever the session's time zone."""

    def work(c: Connection) -> tuple[Any, Any]:
        c.exec_driver_sql("SET timestamp = 1700000000.25, time_zone = '+05:00'")
        try:
            return tuple(c.execute(sa.select(db_now(), from_now(-0.25))).one())  # type: ignore[return-value]
        finally:
            c.exec_driver_sql("SET timestamp = DEFAULT, time_zone = '+00:00'")

    now, before = await world.db.write(work)
    assert now.isoformat() == "2023-11-14T22:13:20.250000"
    assert before.isoformat() == "2023-11-14T22:13:20"


async def test_one_unit_has_one_clock_on_sqlite(database: Database, sql_engine: str) -> None:
    """db_now does not go back within a unit; on SQLite it stands still."""
    query = sa.select(db_now())
    times = await database.write(lambda c: [c.execute(query).scalar_one() for _ in range(50)])
    assert times == sorted(times)
    if sql_engine == "sqlite":
        assert len(set(times)) == 1


# ---- the counts' upsert -------------------------------------------------------------------------------------------


async def test_the_upsert_adds_without_a_warning(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """A second fold adds to the same keys, below zero and back, and the server has nothing to remark."""
    for _ in range(2):
        await world.submit(new(), new(user_id=BOB))
        await fold.fold_journal(world.mill, 10)
    runs = (await world.scan(4)).claimed
    await world.settle(*((r, DONE) for r in runs))
    await fold.fold_journal(world.mill, 10)
    await world.exact()
    assert "arning" not in capfd.readouterr().err
