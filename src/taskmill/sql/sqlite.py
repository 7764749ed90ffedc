"""SQLite, embedded: one writer thread and one reader thread, one process per file.

WAL with one writer: SQLite before 3.51.3 can corrupt a WAL that two connections write or checkpoint at the same
instant, so only the writer's connection writes and checkpoints, and a lock file keeps a second process out. A whole
unit of work is one hop to a thread.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from binascii import unhexlify
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool

from taskmill.errors import StartError
from taskmill.sql.engine import Connections, Database, Pool, SqlOptions, Work

if os.name == "posix":
    import fcntl

T = TypeVar("T")
log = structlog.get_logger(__name__)

_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


class _Side:
    """One thread with one connection."""

    def __init__(self, path: Path, name: str, waited: Callable[[float], None], *, writer: bool) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._now = ""
        self._waited = waited
        self._pending = 0
        self._writer = writer
        self._engine = sa.create_engine(
            f"sqlite:///{path}",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False, "timeout": 5.0, "cached_statements": 512},
        )
        sa.event.listen(self._engine, "connect", self._connected)

    def _connected(self, connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own BEGIN would be a deferred one, whose upgrade to a write fails at once under a reader.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute(f"PRAGMA wal_autocheckpoint = {1000 if self._writer else 0}")
        if not self._writer:
            connection.execute("PRAGMA query_only = ON")
        connection.create_function("db_now", 0, lambda: self._now)
        connection.create_function("db_later", 2, _later, deterministic=True)
        connection.create_function("unhex", 1, _unhex, deterministic=True)

    @property
    def connections(self) -> Connections:
        return Connections(in_use := min(self._pending, 1), 1 - in_use, 1)

    def run(self, work: Callable[[Connection], T], begin: str, submitted: float) -> T:
        self._waited(time.perf_counter() - submitted)
        self._now = datetime.now(UTC).strftime(_FORMAT)
        with self._engine.connect() as connection:
            connection.exec_driver_sql(begin)
            try:
                result = work(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                    connection.exec_driver_sql("ROLLBACK")
                raise
            return result

    async def submit(self, work: Callable[[Connection], T], begin: str, timeout: float) -> T:
        # A thread cannot be stopped: the unit ends by itself (busy_timeout bounds its only wait), and what it did
        # stands or not as a whole. Until it has ended nobody else uses its connection.
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(
            self._pool, self.run, work, begin, time.perf_counter()
        )
        future.add_done_callback(self._ended)
        return await asyncio.shield(future) if timeout <= 0 else await _within(future, timeout)

    def _ended(self, _future: asyncio.Future[T]) -> None:
        self._pending -= 1

    def close(self) -> None:
        self._pool.submit(self._engine.dispose).result(timeout=10)
        self._pool.shutdown(wait=True)


async def _within(future: asyncio.Future[T], timeout: float) -> T:
    """The unit's own end counts: SQLite has no network to wait for, so a slow disk is waited out, with a warning."""
    done, _ = await asyncio.wait({future}, timeout=timeout)
    if not done:
        log.warning("sql.slow", seconds=timeout)
        await asyncio.wait({future})
    return future.result()


class SqliteDatabase(Database):
    """The embedded record. A write that returned is on disk (synchronous = FULL)."""

    kind = "sqlite"

    def __init__(self, options: SqlOptions, path: Path, lock: _FolderLock) -> None:
        super().__init__(options)
        self.path = path
        self.version = sqlite3.sqlite_version
        self._lock = lock
        self._writer = _Side(path, "sqlite-writer", partial(self._waited, "write"), writer=True)
        self._reader = _Side(path, "sqlite-reader", partial(self._waited, "read"), writer=False)

    @classmethod
    async def open(cls, options: SqlOptions, path: Path) -> Self:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _FolderLock(path.with_name(path.name + ".lock"))
        try:
            database = cls(options, path, lock)
            await database.write(lambda c: c.exec_driver_sql("SELECT 1"))
        except (sa.exc.DatabaseError, OSError) as error:
            lock.release()
            raise StartError(
                f"DATABASE_URL: cannot open {path} as a SQLite database: {_reason(error)}"
            ) from error
        if sqlite3.sqlite_version_info < (3, 38):
            raise StartError(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or newer is needed")
        return database

    async def _transaction(self, work: Work[T], timeout: float) -> T:
        return await self._writer.submit(work, "BEGIN IMMEDIATE", timeout)

    async def _read(self, work: Work[T], timeout: float) -> T:
        return await self._reader.submit(work, "BEGIN", timeout)

    async def _snapshot(self, work: Work[T], timeout: float) -> T:
        return await self._reader.submit(work, "BEGIN", timeout)

    async def define(self, work: Work[T]) -> T:
        return await self._writer.submit(work, "BEGIN IMMEDIATE", 60.0)

    def pools(self) -> Mapping[Pool, Connections]:
        return {"write": self._writer.connections, "read": self._reader.connections}

    async def close(self) -> None:
        self._reader.close()
        self._writer.close()
        self._lock.release()


class _FolderLock:
    """Keeps a second process off the file. The kernel releases it with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        if os.name != "posix":
            return
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 64).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StartError(
                f"{path.parent} is in use by process {holder}. SQLite serves one process: stop that one, "
                "choose another folder with TASKMILL_DATA, or use MySQL (DATABASE_URL)."
            ) from None
        except OSError as error:
            raise StartError(f"Cannot write in {path.parent}: {error.strerror}") from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _later(at: str | None, seconds: float | None) -> str | None:
    if at is None or seconds is None:
        return None
    return (datetime.fromisoformat(at) + timedelta(seconds=seconds)).strftime(_FORMAT)


def _unhex(text: Any) -> bytes | None:
    return None if text is None else unhexlify(text)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error)
