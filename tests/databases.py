"""Databases for the tests: an empty one each, or a migrated one that is emptied after each test."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from tests.support import SERVER_VARIABLES, run_blocking

if TYPE_CHECKING:
    from taskmill.sql.engine import SqlOptions


def patient(url: str) -> SqlOptions:
    """Of a test that is not about slow servers: on a busy machine a read took longer than the product waits."""
    from taskmill.sql.engine import SqlOptions

    return SqlOptions(url=url, unit_timeout=20.0, patience=40.0)


@contextmanager
def fresh_database(engine: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database of the engine; it is gone afterwards."""
    name = f"tm_{secrets.token_hex(6)}"
    if engine == "sqlite":
        yield f"sqlite:///{folder / name}.db"
        return
    server = os.environ[SERVER_VARIABLES[engine]]
    execute(server, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        execute(server, "SET lock_wait_timeout = 5", f"DROP DATABASE {name}")


class MigratedStores:
    """One migrated database an engine and test process: a migration costs half a second on a server, a DELETE does not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._urls: dict[str, str] = {}

    @contextmanager
    def lend(self, engine: str, folder: Path) -> Iterator[str]:
        """The URL of a database with our tables, all empty. On a server the next test gets the same one, emptied."""
        if engine not in self._urls:
            self._urls[engine] = self._stack.enter_context(fresh_database(engine, self._folder))
            run_blocking(_migrate(self._urls[engine]))
        url = self._urls[engine]
        if engine == "sqlite":
            copy = folder / f"tm_{secrets.token_hex(6)}.db"
            shutil.copyfile(url.removeprefix("sqlite:///"), copy)
            yield f"sqlite:///{copy}"
            return
        try:
            yield url
        finally:
            run_blocking(_empty(url))

    def close(self) -> None:
        self._stack.close()


async def _migrate(url: str) -> None:
    from taskmill.sql.engine import SqlOptions, open_database
    from taskmill.sql.migrate import migrate

    database = await open_database(SqlOptions(url=url))
    try:
        await migrate(database)
    finally:
        await database.close()


async def _empty(url: str) -> None:
    from taskmill.sql.schema import metadata

    # A connection that a test forgot fails that test after five seconds, not the run after fifty.
    limits = [
        "SET innodb_lock_wait_timeout = 5, lock_wait_timeout = 5",
        f"USE {urlsplit(url).path.strip('/')}",
    ]
    await _execute(url, [*limits, *(f"DELETE FROM {table}" for table in metadata.tables)])


def execute(url: str, *statements: str) -> None:
    """Runs statements on a MySQL or MariaDB server over a connection of its own, each in a transaction of its own."""
    run_blocking(_execute(url, statements))


async def _execute(url: str, statements: list[str] | tuple[str, ...]) -> None:
    import asyncmy  # here: most tests never talk to a server

    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=10,
    )
    try:
        async with connection.cursor() as cursor:
            for statement in statements:
                await cursor.execute(statement)
    finally:
        connection.close()
