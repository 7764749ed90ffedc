"""What the three databases say differently, in one place.

A batch is one JSON parameter (`JSON_TABLE` on the servers, `json_each` on SQLite): one statement text for every batch
size, always cached by driver, SQLAlchemy and server. Rows are arrays, so a column is its position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import mysql as mysql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

# ---- the clock ----------------------------------------------------------------------------------------------------


class db_now(FunctionElement[datetime]):
    """The database's clock, UTC, microseconds: the start of the statement on the servers, of the unit of work on SQLite.

    `NOW()` and column defaults follow the session's time zone, so nothing else is used.
    """

    type = sa.DateTime()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "mysql", "mariadb")
def _now_mysql(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    return "UTC_TIMESTAMP(6)"


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    return "db_now()"


class later(FunctionElement[datetime]):
    """`later(time, seconds)`: the time moved by a number of seconds (fractions count, negative is earlier)."""

    type = sa.DateTime()
    inherit_cache = True
    name = "later"


@compiles(later, "mysql", "mariadb")
def _later_mysql(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    at, seconds = list(element.clauses)
    # The seconds come as a double; MICROSECOND takes whole ones only.
    micros = f"CAST({compiler.process(seconds, **kw)} * 1000000 AS SIGNED)"
    return f"TIMESTAMPADD(MICROSECOND, {micros}, {compiler.process(at, **kw)})"


@compiles(later, "sqlite")
def _later_sqlite(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    at, seconds = list(element.clauses)
    return f"db_later({compiler.process(at, **kw)}, {compiler.process(seconds, **kw)})"


class elapsed(FunctionElement[float]):
    """`elapsed(from, to)`: microseconds between two times."""

    type = sa.Double()
    inherit_cache = True
    name = "elapsed"


@compiles(elapsed, "mysql", "mariadb")
def _elapsed_mysql(element: elapsed, compiler: SQLCompiler, **kw: Any) -> str:
    start, end = (compiler.process(c, **kw) for c in element.clauses)
    return f"TIMESTAMPDIFF(MICROSECOND, {start}, {end})"


@compiles(elapsed, "sqlite")
def _elapsed_sqlite(element: elapsed, compiler: SQLCompiler, **kw: Any) -> str:
    start, end = (compiler.process(c, **kw) for c in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400000000.0)"


def from_now(seconds: float | sa.ColumnElement[float]) -> later:
    """`seconds` after the database's now."""
    value = sa.literal(float(seconds), sa.Double) if isinstance(seconds, (int, float)) else seconds
    return later(db_now(), value)


# ---- batches ------------------------------------------------------------------------------------------------------

_SERVER = {
    "hex": "VARCHAR(64) CHARACTER SET ascii",
    "int": "BIGINT",
    "real": "DOUBLE",
    "time": "DATETIME(6)",
    # Stated, else MariaDB takes the database's character set, which may be latin1.
    "text": "MEDIUMTEXT CHARACTER SET utf8mb4",
}
_TYPES: Mapping[str, sa.types.TypeEngine[Any]] = {
    "hex": sa.String(),
    "int": sa.BigInteger(),
    "real": sa.Double(),
    "time": sa.DateTime(),
    "text": sa.Text(),
}


class Rows(FunctionElement[Any]):
    """The base of every batch shape. Do not use it itself: `shape` makes a class for each list of columns."""

    inherit_cache = True
    columns_: tuple[tuple[str, str], ...] = ()


@compiles(Rows, "mysql", "mariadb")
def _rows_server(element: Rows, compiler: SQLCompiler, **kw: Any) -> str:
    doc = compiler.process(next(iter(element.clauses)), **kw)
    columns = ", ".join(
        f"{name} {_SERVER[kind]} PATH '$[{i}]' NULL ON EMPTY NULL ON ERROR"
        for i, (name, kind) in enumerate(element.columns_)
    )
    return f"JSON_TABLE({doc}, '$[*]' COLUMNS ({columns}))"


@compiles(Rows, "sqlite")
def _rows_sqlite(element: Rows, compiler: SQLCompiler, **kw: Any) -> str:
    doc = compiler.process(next(iter(element.clauses)), **kw)
    columns = ", ".join(
        f"json_extract(value, '$[{i}]') AS {name}" for i, (name, _) in enumerate(element.columns_)
    )
    return f"(SELECT {columns} FROM json_each({doc}))"


class Shape:
    """The columns of a batch: `Shape("settle", id="hex", fence="int")`. Kinds: hex, int, real, time, text.

    `of()` is the batch as a table of one bound parameter, `doc(rows)` the parameter's value.
    """

    def __init__(self, name: str, **columns: str) -> None:
        self.name = name
        self.columns = columns
        # A class for each shape: the statement cache is keyed by class, and a class names one list of columns.
        self._element = type(
            f"Rows_{name}", (Rows,), {"columns_": tuple(columns.items()), "inherit_cache": True}
        )

    def of(self, parameter: str = "rows") -> sa.TableValuedAlias:
        element = self._element(sa.bindparam(parameter, type_=sa.Text()))
        columns = [sa.column(name, _TYPES[kind]) for name, kind in self.columns.items()]
        table: sa.TableValuedAlias = element.table_valued(*columns, name=self.name, joins_implicitly=True)
        return table


_encoder = msgspec.json.Encoder()


def doc(rows: Iterable[Sequence[object]]) -> str:
    """The JSON text of a batch. Bytes go as hex, times as `YYYY-MM-DD HH:MM:SS.ffffff`."""
    return _encoder.encode(_plain_rows(rows)).decode()


DOC_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one batch parameter. The driver's quoting can double them, and MariaDB takes 16 MiB a packet: a larger one
shows up as "server has gone away", and would be retried for ever."""


def docs(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The rows as one batch, or as several when they are large: the same statement for each, in one transaction."""
    return _cut(_plain_rows(rows))


def _cut(plain: list[list[object]]) -> Iterator[str]:
    text = _encoder.encode(plain)
    if len(text) <= DOC_BYTES or len(plain) < 2:
        yield text.decode()
        return
    middle = len(plain) // 2
    yield from _cut(plain[:middle])
    yield from _cut(plain[middle:])


def _plain_rows(rows: Iterable[Sequence[object]]) -> list[list[object]]:
    # Every value of every batch passes here: no call for those that stay as they are.
    return [[_plain(v) if type(v) in _CONVERTED else v for v in row] for row in rows]


_CONVERTED = frozenset({bytes, datetime})


def _plain(value: Any) -> object:
    if type(value) is bytes:
        return value.hex()
    return value.isoformat(" ", "microseconds")


class unhex(FunctionElement[bytes]):
    """The bytes of a hex column of a batch: a binary parameter inside JSON is an error on MySQL (3144)."""

    type = sa.LargeBinary()
    inherit_cache = True
    name = "unhex"


@compiles(unhex)
def _unhex(element: unhex, compiler: SQLCompiler, **kw: Any) -> str:
    # SQLite has `unhex` of its own only since 3.41: the engine registers ours.
    return f"UNHEX({compiler.process(next(iter(element.clauses)), **kw)})"


# ---- statements ---------------------------------------------------------------------------------------------------


def insert_or_add(
    table: sa.Table, columns: Sequence[str], source: sa.Select[Any], added: str, delta: sa.ColumnElement[int]
) -> Mapping[str, sa.sql.dml.Insert]:
    """INSERT … SELECT; where the key exists, add `delta` to column `added`. One statement for each kind of server.

    `VALUES(n)` warns on MySQL at each call and its alias form does not exist on MariaDB: the select's own column is
    understood by both.
    """
    names = list(columns)
    server = mysql_dialect.insert(table).from_select(names, source)
    # SQLite's parser would read ON CONFLICT as the ON of a join without a WHERE.
    lite = sqlite_dialect.insert(table).from_select(names, source.where(sa.true()))
    return {
        "mysql": server.on_duplicate_key_update({added: table.c[added] + delta}),
        "mariadb": server.on_duplicate_key_update({added: table.c[added] + delta}),
        "sqlite": lite.on_conflict_do_update(
            index_elements=[c.name for c in table.primary_key],
            set_={added: table.c[added] + lite.excluded[added]},
        ),
    }
