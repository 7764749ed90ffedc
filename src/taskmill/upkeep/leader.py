"""The leader row: it saves double work, and nothing depends on it. Every job is safe with two leaders.

A term is a lease in SQL. Any failure, and the process's own clock at 0.8 of the term, concede.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.model.clock import boottime
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.engine import Database
from taskmill.sql.schema import leader

log = structlog.get_logger(__name__)

NAME: Final = "scheduler"
TRUST: Final = 0.8
_L: Final = leader.c


def hold(connection: Connection, holder: bytes, ttl: float) -> int | None:
    """Take or keep the term; its number while it is ours, None while it is another's."""
    kept = connection.execute(
        sa.update(leader)
        .where(_L.name == NAME, _L.holder == holder, _L.expires_at >= db_now())
        .values(expires_at=from_now(ttl))
    ).rowcount
    if not kept:
        connection.execute(
            sa.update(leader)
            .where(_L.name == NAME, _L.expires_at < db_now())
            .values(holder=holder, term=_L.term + 1, expires_at=from_now(ttl))
        )
    row = connection.execute(sa.select(_L.holder, _L.term).where(_L.name == NAME)).one_or_none()
    if row is None:
        try:
            with connection.begin_nested():
                connection.execute(
                    sa.insert(leader).values(name=NAME, holder=holder, term=1, expires_at=from_now(ttl))
                )
        except exc.IntegrityError:
            return None
        return 1
    return int(row.term) if row.holder == holder else None


async def vacate(db: Database) -> None:
    """End whatever term there is. Only for who knows that its holder is gone: the owner of a SQLite file's lock."""

    def work(connection: Connection) -> None:
        connection.execute(
            sa.update(leader).where(_L.name == NAME, _L.expires_at > db_now()).values(expires_at=db_now())
        )

    await db.write(work, resend=work)


class Leadership:
    """This process's view of the term."""

    def __init__(self, db: Database, holder: bytes, ttl: float) -> None:
        self._db = db
        self._holder = holder
        self._ttl = ttl
        self._until = 0.0
        self.term: int | None = None

    @property
    def held(self) -> bool:
        """Whether this process should work: false from 0.8 of a term after the last answer was asked for."""
        return boottime() < self._until

    async def run_once(self) -> float:
        """Ask once. Seconds until the next time."""
        sent = boottime()
        was = self.held
        try:
            self.term = await self._db.write(
                lambda c: hold(c, self._holder, self._ttl),
                resend=lambda c: hold(c, self._holder, self._ttl),
                patience=self._ttl / 3,
            )
        except BaseException:
            self._until = 0.0
            raise
        self._until = sent + TRUST * self._ttl if self.term is not None else 0.0
        if self.held != was:
            log.info("leader" if self.held else "follower", term=self.term)
        return self._ttl / 3

    async def resign(self) -> None:
        """Let the next one start at once."""
        self._until = 0.0
        await self._db.write(
            lambda c: c.execute(
                sa.update(leader)
                .where(_L.name == NAME, _L.holder == self._holder)
                .values(expires_at=db_now())
            ),
            resend=lambda c: None,
            patience=2.0,
        )
