"""Looking over the engine's shoulder: the statements it sends, their plans, and the rows that the server reads for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from taskmill.sql import hot
from taskmill.sql.engine import Database


@dataclass(frozen=True)
class Sent:
    """One statement as the driver got it."""

    text: str
    values: Any
    many: bool


@contextmanager
def listening(connection: Connection) -> Iterator[list[Sent]]:
    """The statements of one connection."""
    sent: list[Sent] = []
    query = hot._query

    def heard(_c: Any, _cursor: Any, text: str, values: Any, _context: Any, many: bool) -> None:
        sent.append(Sent(text, values, many))

    async def packet(driver: Any, text: str) -> Any:
        """The hot path goes past SQLAlchemy: several statements in one text, values in it as hexadecimal."""
        if driver is connection.connection.driver_connection:
            sent.extend(Sent(one, _documents(one), False) for one in text.split(";"))
        return await query(driver, text)

    sa.event.listen(connection, "before_cursor_execute", heard)
    put_off = hot.Dialect.put_off

    def heard_last(dialect: hot.Dialect, c: Connection, text: str) -> None:
        if c is connection:
            sent.append(Sent(text, _documents(text), False))
        put_off(dialect, c, text)

    hot._query, hot.Dialect.put_off = packet, heard_last  # type: ignore[assignment]
    try:
        yield sent
    finally:
        hot._query, hot.Dialect.put_off = query, put_off  # type: ignore[method-assign]
        sa.event.remove(connection, "before_cursor_execute", heard)


def _documents(text: str) -> list[str]:
    return [bytes.fromhex(found).decode() for found in re.findall(r"_utf8mb4 x'([0-9a-f]*)'", text)]


class Undo(Exception):
    """Raised at the end of a unit, so that its transaction is rolled back."""


@dataclass(frozen=True)
class Access:
    """How one table of one statement is read."""

    text: str
    table: str
    how: str
    key: str | None
    extra: str


def plan(connection: Connection, sent: Sent) -> list[Access]:
    """The plan of a statement, in a format that is named: MySQL 9.7's default is another one."""
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sent.text}", sent.values).all()
        return [_sqlite(sent.text, r[3]) for r in rows]
    found = connection.exec_driver_sql(
        f"EXPLAIN FORMAT=TRADITIONAL {sent.text}", () if isinstance(sent.values, list) else sent.values
    ).mappings()
    # The table that an INSERT writes to is shown as one that is read whole.
    inserts = sent.text.lstrip().upper().startswith("INSERT")
    accesses = [
        Access(sent.text, str(r["table"]), str(r["type"]), r["key"], str(r["Extra"] or "")) for r in found
    ]
    return accesses[1:] if inserts else accesses


def _sqlite(text: str, detail: str) -> Access:
    words = detail.split()
    table = words[1] if words[0] in ("SEARCH", "SCAN") and len(words) > 1 else ""
    key = detail.partition("USING ")[2].split(" (")[0] or None
    how = {"SCAN": "ALL", "SEARCH": "range"}.get(words[0], "")
    return Access(text, table, how, key, detail)


def rows_read(connection: Connection) -> int:
    """Rows that this session has read from the storage engine so far, by key, in order or by position."""
    status = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'", ()).all()
    counted = ("Handler_read_key", "Handler_read_next", "Handler_read_prev", "Handler_read_rnd_next")
    return sum(int(r[1]) for r in status if r[0] in counted)


def engines(database: Database) -> list[Any]:
    """The SQLAlchemy engines under a database: for events."""
    if database.kind == "sqlite":
        return [database._writer._engine, database._reader._engine]  # type: ignore[attr-defined]
    return [database._write_engine.sync_engine, database._read_engine.sync_engine]  # type: ignore[attr-defined]


@contextmanager
def counting_conflicts(database: Database) -> Iterator[list[int]]:
    """The numbers of the deadlocks (1213) and lock timeouts (1205) that the server reported."""
    seen: list[int] = []

    def failed(context: Any) -> None:
        code = getattr(context.original_exception, "args", (0,))[0]
        if code in (1213, 1205, 1020):
            seen.append(code)

    for engine in engines(database):
        sa.event.listen(engine, "handle_error", failed)
    yield seen
    for engine in engines(database):
        sa.event.remove(engine, "handle_error", failed)
