"""The hot path: submit, claim, settle and the journal, past SQLAlchemy's execution.

The same statements, on the same connection, in the same transaction. SQLAlchemy compiles each once; from then on its
text is filled here and sent by the driver, several in one packet, the last write of a transaction together with its
COMMIT. A statement through SQLAlchemy costs 150 µs of processor time where the driver's own query costs 50, and with 5
slots a cycle is nothing but statements (docs/adr/0006). SQLite has no round trips: there they are simply executed.

Values are written into the text as hexadecimal literals, numbers and NULL: nothing in a value can end its literal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from asyncmy.constants import CLIENT
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.engine import Connection
from sqlalchemy.util.concurrency import await_

DRIVER: Final = "mysql+taskmill"
FLAGS: Final = CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS
_PARAMETER: Final = re.compile(r"%%|%s|\(?__\[POSTCOMPILE_\w+\]\)?")
PACKET: Final = 1024 * 1024
"""Characters that statements may have together to travel in one packet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one statement brought: rows of a SELECT, or how many rows an UPDATE matched."""

    rows: Sequence[Sequence[Any]]
    matched: int


@dataclass(frozen=True, slots=True)
class _Text:
    """`pieces` of SQL, and between two of them the name of a value."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]
    constants: Mapping[str, str]

    def fill(self, values: Mapping[str, Any]) -> str:
        parts = [self.pieces[0]]
        for name, piece in zip(self.names, self.pieces[1:], strict=True):
            parts += (self.constants[name] if name in self.constants else literal(values[name]), piece)
        return "".join(parts)


class Hot:
    """A statement of the hot path. Values are bound by name; a list of ids to an `expanding` parameter."""

    def __init__(self, statement: sa.Executable) -> None:
        self.statement = statement
        self._texts: dict[str, _Text] = {}

    def text(self, connection: Connection, values: Mapping[str, Any]) -> str:
        dialect = connection.dialect
        kind = f"{dialect.name} {getattr(dialect, 'is_mariadb', False)}"
        if kind not in self._texts:
            self._texts[kind] = _compiled(self.statement, dialect)
        return self._texts[kind].fill(values)


def run(connection: Connection, *calls: tuple[Hot, Mapping[str, Any]]) -> list[Answer]:
    """Execute the statements one after the other, in one round trip as long as they are small; an answer each. The first
    error ends it, and is what SQLAlchemy would have raised."""
    if not isinstance(connection.dialect, Dialect):
        return [_execute(connection, hot, values) for hot, values in calls]
    answers: list[Answer] = []
    packet: list[str] = []
    for hot, values in calls:
        text = hot.text(connection, values)
        if packet and sum(map(len, packet)) + len(text) > PACKET:
            answers += connection.dialect.send(connection, ";".join(packet))
            packet = []
        packet.append(text)
    return answers + connection.dialect.send(connection, ";".join(packet))


def run_last(connection: Connection, hot: Hot, values: Mapping[str, Any]) -> None:
    """A write that nothing in the transaction reads again: it may travel with the COMMIT. Its failure is the commit's.

    What is put off keeps its order; once it is too much for one packet, the earlier ones are sent ahead.
    """
    if isinstance(connection.dialect, Dialect):
        connection.dialect.put_off(connection, hot.text(connection, values))
    else:
        _execute(connection, hot, values)


def in_packets(connection: Connection) -> bool:
    """Whether `run_last` puts off: then its statements must check each other, nobody looks in between."""
    return isinstance(connection.dialect, Dialect)


def literal(value: Any) -> str:
    """A value as SQL text."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return f"_utf8mb4 x'{value.encode().hex()}'" if value else "_utf8mb4 ''"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(literal(v) for v in value)})" if value else "(NULL)"
    if isinstance(value, (int, float)):
        return repr(float(value)) if isinstance(value, float) else str(int(value))
    raise TypeError(f"no literal for {type(value).__name__}")


def _execute(connection: Connection, hot: Hot, values: Mapping[str, Any]) -> Answer:
    result = connection.execute(hot.statement, dict(values))
    return Answer(result.all(), 0) if result.returns_rows else Answer((), result.rowcount)


def _compiled(statement: sa.Executable, dialect: sa.Dialect) -> _Text:
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    pieces, last, text = [], 0, ""
    for found in _PARAMETER.finditer(compiled.string):
        text += compiled.string[last : found.start()]
        last = found.end()
        if found[0] == "%%":
            text += "%"
        else:
            pieces.append(text)
            text = ""
    pieces.append(text + compiled.string[last:])
    constants = {n: literal(v) for n, v in compiled.params.items() if not compiled.binds[n].required}
    names = tuple(compiled.positiontup)
    if len(names) != len(pieces) - 1:
        raise AssertionError(f"{len(names)} values for {len(pieces) - 1} places: {compiled.string}")
    return _Text(tuple(pieces), names, constants)


class Dialect(MySQLDialect_asyncmy):
    """asyncmy, with statements in one packet and a last write that travels with the COMMIT."""

    driver = "taskmill"
    supports_statement_cache = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._last: dict[Any, list[str]] = {}

    def send(self, connection: Connection, text: str) -> list[Answer]:
        """All statements of `text`, in order."""
        _begun(connection)
        try:
            return await_(_query(connection.connection.driver_connection, text))
        except self.loaded_dbapi.Error as error:
            # As SQLAlchemy treats the errors of its own statements: wrapped, told to listeners, a lost connection closed.
            connection._handle_dbapi_exception(error, None, None, None, None)

    def put_off(self, connection: Connection, text: str) -> None:
        """Send `text` with the COMMIT."""
        _begun(connection)
        waiting = self._last.setdefault(connection.connection.dbapi_connection, [])
        if waiting and sum(map(len, waiting)) + len(text) > PACKET:
            self.send(connection, ";".join(waiting))
            waiting.clear()
        waiting.append(text)

    def do_commit(self, dbapi_connection: Any) -> None:
        waiting = self._last.pop(_key(dbapi_connection), None)
        if waiting is None:
            super().do_commit(dbapi_connection)  # type: ignore[no-untyped-call]
        else:
            # The first statement that fails ends the packet: then nothing is committed.
            try:
                await_(_query(dbapi_connection.driver_connection, ";".join([*waiting, "COMMIT"])))
            except self.loaded_dbapi.Error as error:
                # To SQLAlchemy the transaction has ended with this, whatever the server thinks.
                if not self.is_disconnect(error, dbapi_connection, None):
                    super().do_rollback(dbapi_connection)  # type: ignore[no-untyped-call]
                raise

    def do_rollback(self, dbapi_connection: Any) -> None:
        self._last.pop(_key(dbapi_connection), None)
        super().do_rollback(dbapi_connection)  # type: ignore[no-untyped-call]

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        self._last.pop(connection.connection.dbapi_connection, None)
        super().do_rollback_to_savepoint(connection, name)  # type: ignore[no-untyped-call]

    def do_close(self, dbapi_connection: Any) -> None:
        self._last.pop(_key(dbapi_connection), None)
        super().do_close(dbapi_connection)  # type: ignore[no-untyped-call]

    def do_terminate(self, dbapi_connection: Any) -> None:
        self._last.pop(_key(dbapi_connection), None)
        super().do_terminate(dbapi_connection)


def _begun(connection: Connection) -> None:
    """SQLAlchemy commits only what it knows to have begun, and it does not see these statements."""
    if not connection.in_transaction():
        connection.begin()


def _key(connection: Any) -> Any:
    """The connection itself, whether the pool's wrapper or it was given."""
    return getattr(connection, "dbapi_connection", connection)


async def _query(driver: Any, text: str) -> list[Answer]:
    answers: list[Answer] = []
    await driver.query(text)
    while True:
        result = driver._result
        answers.append(Answer(result.rows if result.rows is not None else (), result.affected_rows))
        if not result.has_next:
            return answers
        await driver.next_result()


registry.register("mysql.taskmill", "taskmill.sql.hot", "Dialect")
