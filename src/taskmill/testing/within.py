"""submit_in on a bench: the task is kept when the transaction of the code under test commits, on any database.

What a Connection or Session tells of itself decides; nothing of ours is written, so a test needs no MySQL. A Session's
own commit counts, also when the test rolls back around it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from taskmill.errors import ConfigError

Keep = Callable[[], object]


def on_commit(connection: object, keep: Keep, answer: Any) -> Any:
    """Calls `keep` once the transaction commits; `answer`, or an awaitable of it for an async form. ConfigError."""
    if isinstance(connection, scoped_session | async_scoped_session):
        connection = connection()
    if isinstance(connection, AsyncSession):
        _of_session(connection.sync_session, keep)
        return _later(answer)
    if isinstance(connection, AsyncConnection):
        _of_connection(connection.sync_connection, keep)
        return _later(answer)
    if isinstance(connection, Session):
        _of_session(connection, keep)
    elif isinstance(connection, Connection):
        _of_connection(connection, keep)
    else:
        raise ConfigError(
            "submit_in: give a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession, "
            f"not a {type(connection).__name__}"
        )
    return answer


def _later(answer: Any) -> Coroutine[Any, Any, Any]:
    async def answered() -> Any:
        return answer

    return answered()


class _Pending:
    """One task. Its listeners stay on the session, and do nothing once its transaction has ended."""

    def __init__(self, keep: Keep) -> None:
        self._keep: Keep | None = keep

    def commit(self) -> None:
        keep, self._keep = self._keep, None
        if keep is not None:
            keep()

    def forget(self) -> None:
        self._keep = None


def _of_session(session: Session, keep: Keep) -> None:
    pending = _Pending(keep)
    if not session.in_transaction():
        session.begin()
    within: list[SessionTransaction] = []
    inner = session.get_nested_transaction() or session.get_transaction()
    while inner is not None:
        within.append(inner)
        inner = inner.parent

    def committed(session: Session) -> None:
        if not session.in_nested_transaction():  # the release of a savepoint commits nothing
            pending.commit()

    def rolled_back(session: Session, ended: SessionTransaction) -> None:
        if ended in within:
            pending.forget()

    def ended(session: Session, ended: SessionTransaction) -> None:
        if ended is within[-1]:
            pending.forget()

    event.listen(session, "after_commit", committed)
    event.listen(session, "after_soft_rollback", rolled_back)
    event.listen(session, "after_transaction_end", ended)


def _of_connection(connection: Connection | None, keep: Keep) -> None:
    if connection is None:
        raise ConfigError("submit_in: the AsyncConnection is not open")
    pending = _Pending(keep)
    if not connection.in_transaction():
        connection.begin()
    nested = connection.get_nested_transaction()

    def to_savepoint(connection: Connection, name: str, context: object) -> None:
        if nested is not None and connection.get_nested_transaction() is nested:
            pending.forget()

    event.listen(connection, "commit", lambda connection: pending.commit())
    event.listen(connection, "rollback", lambda connection: pending.forget())
    event.listen(connection, "rollback_savepoint", to_savepoint)
