"""Users: who they are, their passwords, and what the command line does with them.

Passwords are hashed with bcrypt, which reads 72 bytes and no more: longer ones are refused, never cut. Hashing takes a
quarter of a second of CPU, so it runs in two threads, and beyond a bound of waiting sign-ins callers are turned away.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import structlog
from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.bcrypt import BcryptHasher
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.api.text import line
from taskmill.errors import BadUserInput, Conflict, NotFound, Unauthenticated, Unavailable
from taskmill.model.clock import boottime
from taskmill.model.ids import id_text, new_id
from taskmill.sql.dialect import db_now
from taskmill.sql.engine import Database
from taskmill.sql.schema import meta, users

PASSWORD_LEAST: Final = 8
PASSWORD_MOST: Final = 72
"""Bytes in UTF-8."""
NAME_MOST: Final = 200
EMAIL_MOST: Final = 254
HASHING_THREADS: Final = 2
HASHING_WAITERS: Final = 64
CACHE_SECONDS: Final = 2.0
"""How long a process may act on what it knows of a user: bounds the delay of a new role or a revoked token."""
CACHE_USERS: Final = 10_000
FIRST_ADMIN: Final = "first_admin"

_EMAIL: Final = re.compile(
    r"[^\s@\"(),:;<>\[\\\]\x00-\x1f\x7f-\x9f]{1,64}@[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)*"
)
_REFUSED: Final = "Wrong e-mail address or password."

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Role(IntEnum):
    """What a user may do. The number is what SQL stores."""

    ADMIN = 1
    USER = 2
    WORKER = 3


@dataclass(frozen=True, slots=True)
class User:
    """One row of `users`, without the password's hash. Times are naive UTC."""

    id: bytes
    email: str
    name: str
    role: Role
    token_version: int
    created_at: datetime
    disabled: bool

    @property
    def owner(self) -> bytes | None:
        """Whose tasks this user sees: its own; None, all of them, for an ADMIN."""
        return None if self.role is Role.ADMIN else self.id


_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    users.c.id,
    users.c.email,
    users.c.name,
    users.c.role,
    users.c.token_version,
    users.c.created_at,
    users.c.disabled_at,
)
_select: Final[sa.Select[Any]] = sa.select(*_COLUMNS)


def _user(row: sa.Row[*tuple[Any, ...]]) -> User:
    return User(row[0], row[1], row[2], Role(row[3]), row[4], row[5], row[6] is not None)


class Accounts:
    """All that is done with users. Close it: it owns threads."""

    def __init__(self, db: Database, *, rounds: int = 12, first_admin: bool = False) -> None:
        self._db = db
        self._first_admin = first_admin
        self._hasher = PasswordHash((BcryptHasher(rounds=rounds),))
        self._pool = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobody: str | None = None
        self._known: dict[bytes, tuple[float, User | None]] = {}

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def register(self, email: str, password: str, name: str) -> User:
        """A new USER, or the ADMIN of an empty installation when the options say so. Conflict: the address is taken."""
        return await self._add(email, password, name, Role.USER, first_admin=self._first_admin)

    async def create(self, email: str, password: str, name: str, role: Role) -> User:
        """A new user with a role, by the operator. Conflict: the address is taken."""
        return await self._add(email, password, name, role, first_admin=False)

    async def _add(self, email: str, password: str, name: str, role: Role, *, first_admin: bool) -> User:
        address, named = normal_email(email), line("name", name, NAME_MOST)
        check_password(password)
        hashed = await self._hash(self._hasher.hash, password)
        user_id = new_id()

        def work(connection: Connection) -> User:
            granted = Role.ADMIN if first_admin and _take_first(connection, user_id) else role
            values = {
                "id": user_id,
                "email": address,
                "name": named,
                "password_hash": hashed,
                "role": int(granted),
            }
            try:
                connection.execute(_insert, values)
            except exc.IntegrityError:
                raise Conflict("This e-mail address is registered already.") from None
            return _user(connection.execute(_select.where(users.c.id == user_id)).one())

        def resend(connection: Connection) -> User:
            """The reply to COMMIT was lost: the row, by its id, tells whether the first try stands."""
            row = connection.execute(_select.where(users.c.id == user_id)).one_or_none()
            return work(connection) if row is None else _user(row)

        user = await self._db.write(work, resend=resend)
        if user.role is Role.ADMIN and first_admin:
            log.info("The first user of this installation is its ADMIN.", user=id_text(user.id))
        return user

    async def login(self, email: str, password: str) -> User:
        """The user with this address and password. Unauthenticated says not which of the two was wrong."""
        check_longest(password)
        address = email.strip().lower()[: EMAIL_MOST + 1]
        row = await self._db.read(
            lambda c: c.execute(
                sa.select(*_COLUMNS, users.c.password_hash).where(users.c.email == address)
            ).one_or_none()
        )
        # An unknown address takes as long as a wrong password.
        known = row.password_hash if row is not None else await self._nobodys_hash()
        try:
            right, fresh = await self._hash(self._hasher.verify_and_update, password, known)
        except UnknownHashError:
            log.exception(
                "A password hash cannot be read.", user=id_text(row.id) if row is not None else None
            )
            right, fresh = False, None
        if row is None or not right:
            raise Unauthenticated(_REFUSED)
        user = _user(row)
        if user.disabled:
            raise Unauthenticated(_REFUSED)
        if fresh is not None:
            await self._db.write(
                lambda c: c.execute(
                    sa.update(users)
                    .where(users.c.id == user.id, users.c.password_hash == known)
                    .values(password_hash=fresh)
                ),
                resend=lambda c: None,
            )
        return user

    async def by_id(self, user_id: bytes) -> User | None:
        """The user, as it was at most CACHE_SECONDS ago."""
        now = boottime()
        known = self._known.get(user_id)
        if known is not None and known[0] > now:
            return known[1]
        row = await self._db.read(lambda c: c.execute(_select.where(users.c.id == user_id)).one_or_none())
        user = None if row is None else _user(row)
        if len(self._known) >= CACHE_USERS:
            self._known.clear()
        self._known[user_id] = (now + CACHE_SECONDS, user)
        return user

    async def set_role(self, email: str, role: Role) -> User:
        """Gives the user another role; every process acts on it within CACHE_SECONDS. NotFound."""
        address = normal_email(email)

        def work(connection: Connection) -> User:
            connection.execute(sa.update(users).where(users.c.email == address).values(role=int(role)))
            row = connection.execute(_select.where(users.c.email == address)).one_or_none()
            if row is None:
                raise NotFound("No user has this e-mail address.")
            return _user(row)

        user = await self._db.write(work, resend=work)
        self._known.pop(user.id, None)
        return user

    async def list(self, *, limit: int = 1000) -> list[User]:
        """The oldest `limit` users, oldest first."""
        rows = await self._db.read(lambda c: c.execute(_select.order_by(users.c.id).limit(limit)).all())
        return [_user(row) for row in rows]

    async def _hash(self, work: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= HASHING_WAITERS:
            raise Unavailable("Too many sign-ins at once. Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._waiting -= 1

    async def _nobodys_hash(self) -> str:
        if self._nobody is None:
            self._nobody = await self._hash(self._hasher.hash, "nobody's password")
        return self._nobody


async def is_empty(db: Database) -> bool:
    """Whether the installation has no user yet: the start-up log then says who will be ADMIN."""
    return await db.read(lambda c: c.execute(sa.select(users.c.id).limit(1)).first() is None)


def load_users(connection: Connection, ids: Iterable[bytes]) -> Mapping[bytes, User]:
    """The users of these ids, in one statement."""
    rows = connection.execute(_by_ids, {"ids": list(ids)})
    return {row[0]: _user(row) for row in rows}


_insert: Final = sa.insert(users).values(token_version=1, created_at=db_now())
_by_ids: Final = _select.where(users.c.id.in_(sa.bindparam("ids", expanding=True)))


def _take_first(connection: Connection, user_id: bytes) -> bool:
    """Whether this is the first user. Two at once meet at the key of one row of `meta`, which is there once."""
    if connection.execute(sa.select(users.c.id).limit(1)).first() is not None:
        return False
    try:
        connection.execute(sa.insert(meta).values(name=FIRST_ADMIN, value=id_text(user_id)))
    except exc.IntegrityError:
        return False
    return True


def normal_email(email: str) -> str:
    """The address as it is stored: trimmed, lower case. BadUserInput when it cannot be one."""
    address = unicodedata.normalize("NFC", email.strip()).lower()
    if len(address) > EMAIL_MOST or not _EMAIL.fullmatch(address):
        raise BadUserInput("email: an address such as user@example.com is expected")
    return address


def check_password(password: str) -> None:
    """BadUserInput unless it has PASSWORD_LEAST to PASSWORD_MOST bytes."""
    check_longest(password)
    if len(password.encode()) < PASSWORD_LEAST:
        raise BadUserInput(f"password: {PASSWORD_LEAST} bytes or more are expected")


def check_longest(password: str) -> None:
    size = len(password.encode())
    if size > PASSWORD_MOST:
        raise BadUserInput(
            f"password: {size} bytes; at most {PASSWORD_MOST} are taken, since bcrypt would ignore the rest"
        )
