"""The port to the record: whole units of work, each a plain function over one `sqlalchemy.Connection`.

    write     one transaction, retried whole when the database asks for it; a lost COMMIT reply goes to `resend`
    read      statements without locks
    snapshot  statements that see one state

A unit that was cancelled or timed out has its connection closed, never returned to a pool: replies would cross.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection

from taskmill.errors import CommitUnknown, StartError, Unavailable
from taskmill.model.clock import boottime
from taskmill.runtime.probes import Probes

T = TypeVar("T")
Work = Callable[[Connection], T]
Kind = Literal["sqlite", "mysql", "mariadb"]
Pool = Literal["write", "read"]

log = structlog.get_logger(__name__)

UNIT_TIMEOUT: Final = 5.0
"""Seconds for one try of a unit of work."""
PATIENCE: Final = 15.0
"""Seconds for all tries of a write together."""

RETRY_CODES: Final = frozenset({1213, 1205, 1020, 1206})
"""Deadlock, lock wait timeout (which rolls back only the statement), changed snapshot, full lock table: the whole unit
again."""
LOST_CODES: Final = frozenset({2006, 2013, 2014, 2055, 1053, 1927, 4031, 1317, 1969, 3024})
"""The last three: somebody, or a limit of the server, ended the statement. It may have been the COMMIT."""
READ_ONLY_CODES: Final = frozenset({1290, 1836, 1792})
FULL_CODES: Final = frozenset({1021, 1114, 1040, 1203, 1226})


@dataclass(frozen=True, slots=True)
class SqlOptions:
    """Where the record is. `url` is `mysql://user:pass@host:port/db` or `sqlite:///file`."""

    url: str = field(repr=False)
    pool_size: int = 10
    unit_timeout: float = UNIT_TIMEOUT
    patience: float = PATIENCE


@dataclass(frozen=True, slots=True)
class Connections:
    """Of one pool, now. `idle`: open and not in use."""

    in_use: int
    idle: int
    limit: int

    @property
    def unopened(self) -> int:
        return self.limit - self.in_use - self.idle


class CommitLost(Exception):
    """Inside the engine only: the connection broke after COMMIT was sent."""


class Database(ABC):
    """A database that is open. All methods are safe to call from any task of the loop that opened it."""

    kind: Kind
    version: str = ""

    def __init__(self, options: SqlOptions) -> None:
        self.options = options
        self._rng = random.Random()
        self._waits: dict[Pool, Callable[[float], None]] = {}

    def show(self, probes: Probes) -> None:
        """Show the pools in these metrics from now on."""
        for pool in self.pools():
            self._waits[pool] = probes.database_wait_seconds.labels(pool).observe
            for state in ("in_use", "idle", "unopened"):
                probes.database_connections.labels(pool, state).set_function(
                    lambda pool=pool, state=state: getattr(self.pools()[pool], state)  # type: ignore[misc]
                )

    def _waited(self, pool: Pool, seconds: float) -> None:
        if (observe := self._waits.get(pool)) is not None:
            observe(seconds)

    async def write(
        self,
        work: Work[T],
        *,
        resend: Work[T] | None = None,
        timeout: float | None = None,
        patience: float | None = None,
    ) -> T:
        """Run `work` in one transaction and commit it.

        Tried again as a whole on a deadlock, a lock timeout, or a connection lost before COMMIT. When the reply to
        COMMIT was lost, the next try runs `resend`, which must look whether the first stands; without one the caller
        gets CommitUnknown. Unavailable when no try came through within `patience` seconds. Whatever `work` raises
        rolls back and comes out as it is.
        """
        deadline = boottime() + (self.options.patience if patience is None else patience)
        unit, tries = work, 0
        while True:
            tries += 1
            unknown = False
            try:
                return await self._transaction(unit, timeout or self.options.unit_timeout)
            except CommitLost as error:
                unknown, cause = True, error.__cause__ or error
                if resend is None:
                    raise CommitUnknown(
                        "The database did not confirm the write: it may or may not stand."
                    ) from cause
                unit = resend
            except (exc.DBAPIError, TimeoutError, OSError, exc.TimeoutError) as error:
                if not is_transient(error):
                    raise
                cause = error
            wait = self._rng.uniform(0.005, min(0.02 * 2**tries, 1.0))
            if boottime() + wait >= deadline:
                error_class = CommitUnknown if unknown or unit is not work else Unavailable
                raise error_class("The database does not answer. Nothing is lost: try again.") from cause
            log.debug("sql.retry", tries=tries, unknown=unknown, error=describe(cause))
            await asyncio.sleep(wait)

    async def read(self, work: Work[T], *, timeout: float | None = None) -> T:
        """Run statements that lock nothing. Tried once more on a fresh connection when the first was dead."""
        return await self._reading(self._read, work, timeout)

    async def snapshot(self, work: Work[T], *, timeout: float | None = None) -> T:
        """Run statements that all see the state at one moment."""
        return await self._reading(self._snapshot, work, timeout)

    async def _reading(
        self, how: Callable[[Work[T], float], object], work: Work[T], timeout: float | None
    ) -> T:
        seconds = timeout or self.options.unit_timeout
        for last in (False, True):
            try:
                return await how(work, seconds)  # type: ignore[misc, no-any-return]
            except (exc.DBAPIError, TimeoutError, OSError, exc.TimeoutError) as error:
                if not is_transient(error):
                    raise
                if last or isinstance(error, (TimeoutError, exc.TimeoutError)):
                    raise Unavailable("The database does not answer. Try again.") from error
        raise AssertionError("unreachable")

    @abstractmethod
    async def _transaction(self, work: Work[T], timeout: float) -> T: ...

    @abstractmethod
    async def _read(self, work: Work[T], timeout: float) -> T: ...

    @abstractmethod
    async def _snapshot(self, work: Work[T], timeout: float) -> T: ...

    @abstractmethod
    async def define(self, work: Work[T]) -> T:
        """Run DDL, alone: one process at a time, with a short lock timeout. For migrations."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def pools(self) -> Mapping[Pool, Connections]:
        """How far the connections are in use, for health and metrics."""


def code_of(error: BaseException) -> int | None:
    """The server's error number, when it has one."""
    original = getattr(error, "orig", None)
    args = getattr(original, "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def is_lost(error: BaseException) -> bool:
    """The connection is gone."""
    if isinstance(error, exc.DBAPIError) and (
        error.connection_invalidated or isinstance(error.orig, OSError)
    ):
        return True
    return code_of(error) in LOST_CODES or isinstance(error, OSError)


def is_transient(error: BaseException) -> bool:
    """Whether the same unit may succeed in a moment."""
    if isinstance(error, (TimeoutError, exc.TimeoutError, OSError)) or is_lost(error):
        return True
    if code_of(error) in RETRY_CODES | READ_ONLY_CODES | FULL_CODES or code_of(error) in {2003, 2002, 1129}:
        return True
    # SQLite says "database is locked" or "disk is full"; the driver's other OperationalErrors are ours.
    text = str(getattr(error, "orig", ""))
    return isinstance(error, exc.OperationalError) and any(s in text for s in ("locked", "full", "disk I/O"))


def describe(error: BaseException) -> str:
    """An error for the log: class and number, never the statement or its parameters."""
    code = code_of(error)
    return f"{type(getattr(error, 'orig', None) or error).__name__}{f' {code}' if code else ''}"


async def open_database(options: SqlOptions) -> Database:
    """Open the record and check that it is what we need. StartError when it is not."""
    url = sa.make_url(options.url)
    if url.get_backend_name() == "sqlite":
        from taskmill.sql.sqlite import SqliteDatabase

        return await SqliteDatabase.open(options, sqlite_path(url))
    if url.get_backend_name() in ("mysql", "mariadb"):
        from taskmill.sql.mysql import MysqlDatabase

        return await MysqlDatabase.open(options, url)
    raise StartError(
        f"DATABASE_URL: no driver for {url.get_backend_name()}://. Use mysql://… or sqlite:///…."
    )


def sqlite_path(url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise StartError("DATABASE_URL: sqlite needs a file, as in sqlite:///taskmill.db")
    return Path(url.database)
