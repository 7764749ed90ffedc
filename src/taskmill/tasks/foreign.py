"""submit within a transaction of the user's own: committed together with what else is in it, or not at all.

INDEX.md rule 7: the task is born PENDING and due, also when it is scheduled for later, since the commit may come long
after verify has passed; promote finds it by its state, sets its true time, and journals it again. No bell rings and
nothing goes to the index from here: only the commit tells that there is a task, and that is not ours to see.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from taskmill.errors import ConfigError, StartError
from taskmill.model.ids import new_id
from taskmill.model.port import Draft
from taskmill.sql.engine import code_of
from taskmill.tasks.producer import new_task
from taskmill.tasks.service import service_user
from taskmill.tasks.submit import submit

T = TypeVar("T")

NO_SUCH_TABLE: Final = 1146
_AUTOCOMMIT: Final = sa.text("SELECT @@autocommit")


def insert(connection: Connection, drafts: Sequence[Draft], service_name: str) -> list[bytes]:
    """Write the tasks, their journal row, and the service user when it is not there; the ids.

    ConfigError: the connection cannot do it (no MySQL or MariaDB, or AUTOCOMMIT). StartError: our tables are not there.
    What the database says otherwise comes through as SQLAlchemy raises it.
    """
    if connection.dialect.name not in ("mysql", "mariadb"):
        raise ConfigError(
            f"submit_in: the transaction must be on Taskmill's own MySQL or MariaDB database, not on {connection.dialect.name}"
        )
    # Asked of the session itself: it may come from SQLAlchemy's options, its engine's, or the driver's own.
    if connection.scalar(_AUTOCOMMIT):
        raise ConfigError("submit_in: the connection is in AUTOCOMMIT, so nothing is committed together")
    try:
        user = service_user(connection, service_name)
        new = [(new_id(), new_task(draft, user)) for draft in drafts]
        submit(connection, new, foreign=True)
    except exc.ProgrammingError as error:
        if code_of(error) == NO_SUCH_TABLE:
            raise StartError(
                "submit_in: Taskmill's tables are not in this database: run `taskmill migrate`"
            ) from error
        raise
    return [id_ for id_, _ in new]


def within(connection: object, work: Callable[[Connection], T]) -> T | Awaitable[T]:
    """`work` in the transaction of a Connection or Session; an awaitable of it for their async forms. ConfigError."""
    if isinstance(connection, Connection):
        return work(connection)
    if isinstance(connection, Session | scoped_session):
        return work(connection.connection())
    if isinstance(connection, AsyncConnection):
        return connection.run_sync(work)
    if isinstance(connection, AsyncSession | async_scoped_session):
        return _in_session(connection, work)
    raise ConfigError(
        "submit_in: give a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession, "
        f"not a {type(connection).__name__}"
    )


async def _in_session(
    session: AsyncSession | async_scoped_session[AsyncSession], work: Callable[[Connection], T]
) -> T:
    return await (await session.connection()).run_sync(work)
