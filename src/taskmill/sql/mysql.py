"""MySQL 8.0.4+ and MariaDB 10.6+: a pool of connections, each asserted at its start.

READ COMMITTED, strict mode, UTC, utf8mb4, matched row counts (CLIENT.FOUND_ROWS): without the last a heartbeat that
changes nothing reports 0, and every claim would look lost.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util.concurrency import greenlet_spawn

from taskmill.errors import StartError, Unavailable
from taskmill.sql.engine import (
    READ_ONLY_CODES,
    CommitLost,
    Connections,
    Database,
    Pool,
    SqlOptions,
    Work,
    code_of,
    describe,
    is_lost,
)
from taskmill.sql.hot import DRIVER, FLAGS

T = TypeVar("T")
log = structlog.get_logger(__name__)

_MODE: Final = (
    "STRICT_TRANS_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
)
SESSION: Final = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET SESSION sql_mode = '{_MODE}', time_zone = '+00:00', innodb_lock_wait_timeout = 5, lock_wait_timeout = 5",
)
MIGRATION_LOCK: Final = "taskmill.migrate"
OLDEST: Final = {"mysql": (8, 0, 4), "mariadb": (10, 6, 0)}


class MysqlDatabase(Database):
    """A pool for writes (manual commit) and one for reads (autocommit: no COMMIT round trip for a SELECT)."""

    def __init__(self, options: SqlOptions, url: URL) -> None:
        super().__init__(options)
        self._write_engine = _engine(url, options.pool_size, autocommit=False)
        self._read_engine = _engine(url, options.pool_size, autocommit=True)

    @classmethod
    async def open(cls, options: SqlOptions, url: URL) -> Self:
        """Connect once and check the server. StartError says what is wrong, without the password."""
        database = cls(options, url.set(drivername=DRIVER, query={**url.query, "charset": "utf8mb4"}))
        where = f"{url.host or 'localhost'}:{url.port or 3306}/{url.database}"
        try:
            database.version = await asyncio.wait_for(database._checked(), 15)
        except (exc.DBAPIError, OSError, TimeoutError) as error:
            await database.close()
            raise StartError(
                f"DATABASE_URL: {where} does not take the connection: {_reason(error)}"
            ) from error
        except StartError:
            await database.close()
            raise
        return database

    async def _checked(self) -> str:
        async with self._write_engine.connect() as connection:
            return await connection.run_sync(self._check)

    def _check(self, connection: Connection) -> str:
        text = str(connection.exec_driver_sql("SELECT VERSION()").scalar_one())
        self.kind = "mariadb" if "mariadb" in text.lower() else "mysql"
        version = tuple(int(n) for n in re.findall(r"\d+", text)[:3])
        if version < OLDEST[self.kind]:
            oldest = ".".join(map(str, OLDEST[self.kind]))
            raise StartError(f"{self.kind} {text} is too old: {oldest} or newer is needed")
        flush = connection.exec_driver_sql("SELECT @@innodb_flush_log_at_trx_commit").scalar_one()
        if int(flush) != 1:
            log.warning(
                "sql.not_durable", setting="innodb_flush_log_at_trx_commit", value=int(flush), needed=1
            )
        # A statement that matches a row and changes nothing must count it.
        connection.exec_driver_sql("CREATE TEMPORARY TABLE taskmill_probe (n INT)")
        connection.exec_driver_sql("INSERT INTO taskmill_probe VALUES (1)")
        matched = connection.exec_driver_sql("UPDATE taskmill_probe SET n = 1").rowcount
        connection.exec_driver_sql("DROP TEMPORARY TABLE taskmill_probe")
        connection.rollback()
        if matched != 1:
            raise StartError(
                "The driver counts changed rows instead of matched ones (CLIENT.FOUND_ROWS is off)"
            )
        return text

    async def _transaction(self, work: Work[T], timeout: float) -> T:
        held: list[Connection] = []
        committing = False

        def unit() -> T:
            # All on one stack: each step through the async connection (borrow, work, commit, close) costs a switch and a
            # spawn, together a third of the processor time of a small transaction.
            nonlocal committing
            connection = self._borrow("write", self._write_engine)
            held.append(connection)
            result = work(connection)
            committing = True
            connection.commit()
            connection.close()
            return result

        try:
            async with asyncio.timeout(timeout):
                return await greenlet_spawn(unit)
        except BaseException as error:
            for connection in held:
                await self._give_back_failed(connection, error)
            if committing and (is_lost(error) or isinstance(error, TimeoutError)):
                raise CommitLost from error
            raise

    async def _read(self, work: Work[T], timeout: float) -> T:
        return await self._plain(work, timeout)

    async def _snapshot(self, work: Work[T], timeout: float) -> T:
        def unit(connection: Connection) -> T:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            result = work(connection)
            connection.exec_driver_sql("COMMIT")
            return result

        return await self._plain(unit, timeout)

    async def _plain(self, work: Work[T], timeout: float) -> T:
        held: list[Connection] = []

        def unit() -> T:
            connection = self._borrow("read", self._read_engine)
            held.append(connection)
            result = work(connection)
            connection.close()
            return result

        try:
            async with asyncio.timeout(timeout):
                return await greenlet_spawn(unit)
        except BaseException:
            for connection in held:
                await _discard(connection)
            raise

    def _borrow(self, pool: Pool, engine: AsyncEngine) -> Connection:
        began = time.perf_counter()
        try:
            return engine.sync_engine.connect()
        finally:
            self._waited(pool, time.perf_counter() - began)

    async def _give_back_failed(self, connection: Connection, error: BaseException) -> None:
        """Roll back where the connection is sound (our own refusal, a deadlock); close it where it may not be."""
        if isinstance(error, exc.DBAPIError) and code_of(error) in READ_ONLY_CODES:
            # A failover left us with a replica: none of the pooled connections is to the primary. Those of reads would
            # never notice: promote would look for due tasks where nothing becomes due any more.
            await _discard(connection)
            await self._write_engine.dispose()
            await self._read_engine.dispose()
            return
        sound = (
            isinstance(error, Exception)
            and not isinstance(error, (TimeoutError, OSError))
            and not is_lost(error)
        )
        if not sound:
            await _discard(connection)
            return
        try:
            async with asyncio.timeout(2.0):
                await greenlet_spawn(connection.rollback)
                await greenlet_spawn(connection.close)
        except (exc.DBAPIError, TimeoutError, OSError) as failure:
            log.debug("sql.rollback_failed", error=describe(failure))
            await _discard(connection)

    async def define(self, work: Work[T]) -> T:
        connection = await asyncio.wait_for(self._write_engine.connect(), 15.0)
        try:
            got = await connection.run_sync(
                lambda c: c.execute(sa.text("SELECT GET_LOCK(:n, 60)"), {"n": MIGRATION_LOCK}).scalar()
            )
            if got != 1:
                raise Unavailable("Another process is migrating the schema: try again when it has ended.")
            result = await connection.run_sync(work)
            await connection.commit()
            return result
        finally:
            # Closed, not pooled: the lock goes with the session.
            await _discard(connection.sync_connection)

    async def close(self) -> None:
        await self._write_engine.dispose()
        await self._read_engine.dispose()

    def pools(self) -> Mapping[Pool, Connections]:
        pools: dict[Pool, Any] = {"write": self._write_engine.pool, "read": self._read_engine.pool}
        return {name: Connections(p.checkedout(), p.checkedin(), p.size()) for name, p in pools.items()}


def _engine(url: URL, size: int, *, autocommit: bool) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=30.0,
        pool_recycle=1800,
        pool_use_lifo=True,
        # We commit or roll back ourselves, and close what is in doubt: no ROLLBACK at each return.
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT" if autocommit else None,
        connect_args={"connect_timeout": 5, "client_flag": FLAGS},
        query_cache_size=1000,
        skip_autocommit_rollback=True,
    )
    sa.event.listen(engine.sync_engine, "connect", _connected, insert=True)
    return engine


def _connected(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for statement in SESSION:
        cursor.execute(statement)
    cursor.close()


async def _discard(connection: Connection | None) -> None:
    """Close the server's connection for good, even while we are being cancelled."""

    async def close() -> None:
        if connection is None:
            return
        try:
            async with asyncio.timeout(2.0):
                await greenlet_spawn(connection.invalidate)
                await greenlet_spawn(connection.close)
        except (exc.SQLAlchemyError, TimeoutError, OSError) as error:
            log.debug("sql.close_failed", error=describe(error))

    await asyncio.shield(asyncio.ensure_future(close()))


def _reason(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    args: tuple[object, ...] = getattr(original, "args", ())
    text = str(args[1]) if len(args) > 1 else str(original) or "no answer"
    return text.splitlines()[0][:200]
