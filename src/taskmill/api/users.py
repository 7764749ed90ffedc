"""Users: who they are, what they may do, and how their logins end.

A token carries the version of its user. Whatever takes something away (another role, disabling, a new password,
`logoutEverywhere`) raises the version in the same transaction, and each process acts on it within CACHE_SECONDS.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.api.identity import CACHE_SECONDS, Role, User
from taskmill.api.keys import ApiKeys
from taskmill.api.passwords import Passwords, checked_password, presented_password
from taskmill.api.text import line
from taskmill.errors import BadUserInput, Conflict, NotFound, Unauthenticated
from taskmill.model.clock import boottime
from taskmill.model.ids import id_text, new_id
from taskmill.sql.dialect import db_now
from taskmill.sql.engine import Database
from taskmill.sql.schema import meta, users
from taskmill.tasks.service import NO_PASSWORD

NAME_MOST: Final = 200
EMAIL_MOST: Final = 254
SPELLED_MOST: Final = 4 * EMAIL_MOST
"""Characters that are brought into NFC: it takes time that grows with the square of their number, a minute for 200,000."""
CACHE_USERS: Final = 10_000
FIRST_ADMIN: Final = "first_admin"

_EMAIL: Final = re.compile(
    r"[^\s@\"(),:;<>\[\\\]\x00-\x1f\x7f-\x9f]{1,64}@[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)*"
)
_REFUSED: Final = "Wrong e-mail address or password."
_ABSENT: Final = "There is no such user."
_LAST_ADMIN: Final = "This is the last ADMIN that is not disabled: make another one first."

__all__ = ["Accounts", "Role", "User", "is_empty", "load_users", "normal_email", "spelled"]

log = structlog.get_logger(__name__)


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
# A service user is nobody who could administer the installation.
_people: Final[sa.Select[Any]] = sa.select(users.c.id).where(users.c.password_hash != NO_PASSWORD)


def _user(row: sa.Row[*tuple[Any, ...]]) -> User:
    return User(row[0], row[1], row[2], Role(row[3]), row[4], row[5], row[6] is not None)


class Accounts:
    """All that is done with users. Close it: it owns threads."""

    def __init__(self, db: Database, *, rounds: int = 12, first_admin: bool = False) -> None:
        self._db = db
        self._first_admin = first_admin
        self.passwords = Passwords(rounds)
        self.keys = ApiKeys(db, self.by_id)
        self.cache = CACHE_SECONDS
        self._known: dict[bytes, tuple[float, User | None]] = {}

    def close(self) -> None:
        self.passwords.close()
        self.keys.close()

    async def register(self, email: str, password: str, name: str) -> User:
        """A new USER, or the ADMIN of an empty installation when the options say so. Conflict: the address is taken."""
        return await self._add(email, password, name, Role.USER, first_admin=self._first_admin)

    async def create(self, email: str, password: str, name: str, role: Role) -> User:
        """A new user with a role, by the operator. Conflict: the address is taken."""
        return await self._add(email, password, name, role, first_admin=False)

    async def _add(self, email: str, password: str, name: str, role: Role, *, first_admin: bool) -> User:
        address, named = normal_email(email), line("name", name, NAME_MOST)
        hashed = await self.passwords.hash(checked_password(password))
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
        """The user with this address and password. Unauthenticated says not what was wrong, and takes the time of one
        hash for an unknown address and a disabled user too."""
        plain = presented_password(password)
        address = spelled(email) or ""
        row = await self._db.read(
            lambda c: c.execute(
                sa.select(*_COLUMNS, users.c.password_hash).where(users.c.email == address)
            ).one_or_none()
        )
        right = await self.passwords.verify(plain, None if row is None else row.password_hash)
        if row is None or not right or row.disabled_at is not None:
            log.info("login.refused", user=id_text(row.id) if row is not None else None)
            raise Unauthenticated(_REFUSED)
        user, known = _user(row), row.password_hash
        if self.passwords.outdated(known):
            fresh = await self.passwords.hash(plain)
            await self._db.write(
                lambda c: c.execute(
                    sa.update(users)
                    .where(users.c.id == user.id, users.c.password_hash == known)
                    .values(password_hash=fresh)
                ),
                resend=lambda c: None,
            )
        log.info("login", user=id_text(user.id))
        return user

    async def by_id(self, user_id: bytes) -> User | None:
        """The user, as it was at most `cache` seconds ago."""
        now = boottime()
        known = self._known.get(user_id)
        if known is not None and known[0] > now:
            return known[1]
        row = await self._db.read(lambda c: c.execute(_select.where(users.c.id == user_id)).one_or_none())
        user = None if row is None else _user(row)
        if len(self._known) >= CACHE_USERS:
            self._known.clear()
        self._known[user_id] = (now + self.cache, user)
        return user

    async def set_role(self, email: str, role: Role) -> User:
        """Gives the user another role, by the operator, and ends its logins. NotFound."""
        address = normal_email(email)

        def work(connection: Connection) -> User:
            row = connection.execute(_select.where(users.c.email == address).with_for_update()).one_or_none()
            if row is None:
                raise NotFound("No user has this e-mail address.")
            return _with_role(connection, _user(row), role)

        return self._changed("user.role", await self._db.write(work, resend=work))

    async def change_role(self, user_id: bytes, role: Role) -> User:
        """Gives the user another role and ends its logins; the same role again does nothing. NotFound; Conflict: the
        last ADMIN stays one."""

        def work(connection: Connection) -> User:
            user = _locked(connection, user_id, takes_admin=role is not Role.ADMIN)
            return _with_role(connection, user, role)

        return self._changed("user.role", await self._db.write(work, resend=work))

    async def disable(self, user_id: bytes) -> User:
        """Keeps the user out: its logins and API keys end, and no password opens. Again: nothing. NotFound; Conflict:
        the last ADMIN stays."""

        def work(connection: Connection) -> User:
            user = _locked(connection, user_id, takes_admin=True)
            if user.disabled:
                return user
            return _updated(connection, user_id, disabled_at=db_now(), token_version=_NEXT_VERSION)

        return self._changed("user.disabled", await self._db.write(work, resend=work))

    async def enable(self, user_id: bytes) -> User:
        """Lets the user in again, to log in anew; its API keys work again. NotFound."""

        def work(connection: Connection) -> User:
            _locked(connection, user_id, takes_admin=False)
            return _updated(connection, user_id, disabled_at=None)

        return self._changed("user.enabled", await self._db.write(work, resend=work))

    async def change_password(self, user_id: bytes, current: str, new: str) -> User:
        """Another password; all logins of before end. Unauthenticated: `current` is not it. Conflict: it was changed at the
        same time."""
        plain, fresh = presented_password(current, "currentPassword"), checked_password(new, "newPassword")
        known = await self._db.read(
            lambda c: c.execute(sa.select(users.c.password_hash).where(users.c.id == user_id)).scalar()
        )
        if not await self.passwords.verify(plain, known):
            log.info("login.refused", user=id_text(user_id))
            raise Unauthenticated("it is not the password of this user")
        hashed = await self.passwords.hash(fresh)

        def work(connection: Connection) -> User:
            stored = connection.execute(
                sa.select(users.c.password_hash).where(users.c.id == user_id).with_for_update()
            ).scalar()
            if stored == hashed:  # the reply to COMMIT was lost
                return _user(connection.execute(_select.where(users.c.id == user_id)).one())
            if stored is None or stored != known:
                raise Conflict("The password was changed at the same time.")
            return _updated(connection, user_id, password_hash=hashed, token_version=_NEXT_VERSION)

        return self._changed("user.password", await self._db.write(work, resend=work))

    async def end_logins(self, user_id: bytes) -> User:
        """Every token of the user that is out ends. NotFound."""

        def work(connection: Connection) -> User:
            _locked(connection, user_id, takes_admin=False)
            return _updated(connection, user_id, token_version=_NEXT_VERSION)

        return self._changed("user.logged_out", await self._db.write(work, resend=work))

    def _changed(self, what: str, user: User) -> User:
        self._known.pop(user.id, None)
        log.info(what, user=id_text(user.id), role=user.role.name)
        return user

    async def list(self, *, limit: int = 1000, after: bytes | None = None) -> list[User]:
        """The oldest `limit` users behind `after`, oldest first."""
        query = _select.order_by(users.c.id).limit(limit)
        if after is not None:
            query = query.where(users.c.id > after)
        rows = await self._db.read(lambda c: c.execute(query).all())
        return [_user(row) for row in rows]


async def is_empty(db: Database) -> bool:
    """Whether the installation has no user yet: the start-up log then says who will be ADMIN."""
    return await db.read(lambda c: c.execute(_people.limit(1)).first() is None)


def load_users(connection: Connection, ids: Iterable[bytes]) -> Mapping[bytes, User]:
    """The users of these ids, in one statement."""
    rows = connection.execute(_by_ids, {"ids": list(ids)})
    return {row[0]: _user(row) for row in rows}


_insert: Final = sa.insert(users).values(token_version=1, created_at=db_now())
_by_ids: Final = _select.where(users.c.id.in_(sa.bindparam("ids", expanding=True)))


_NEXT_VERSION: Final = users.c.token_version + 1
_admins: Final = (
    sa.select(users.c.id)
    .where(
        users.c.role == int(Role.ADMIN), users.c.disabled_at.is_(None), users.c.password_hash != NO_PASSWORD
    )
    .order_by(users.c.id)
    .limit(2)
    .with_for_update()
)


def _locked(connection: Connection, user_id: bytes, *, takes_admin: bool) -> User:
    """The user, locked. Conflict when the change would take away the last ADMIN: whoever takes one away locks the two
    oldest first, so of two at the same time the second sees what the first did."""
    admins = connection.execute(_admins).scalars().all() if takes_admin else []
    row = connection.execute(_select.where(users.c.id == user_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(_ABSENT)
    if list(admins) == [user_id]:
        raise Conflict(_LAST_ADMIN)
    return _user(row)


def _with_role(connection: Connection, user: User, role: Role) -> User:
    if user.role is role:
        return user
    return _updated(connection, user.id, role=int(role), token_version=_NEXT_VERSION)


def _updated(connection: Connection, user_id: bytes, **values: Any) -> User:
    connection.execute(sa.update(users).where(users.c.id == user_id).values(**values))
    return _user(connection.execute(_select.where(users.c.id == user_id)).one())


def _take_first(connection: Connection, user_id: bytes) -> bool:
    """Whether this is the first user. Two at once meet at the key of one row of `meta`, which is there once."""
    if connection.execute(_people.limit(1)).first() is not None:
        return False
    try:
        connection.execute(sa.insert(meta).values(name=FIRST_ADMIN, value=id_text(user_id)))
    except exc.IntegrityError:
        return False
    return True


def spelled(email: str) -> str | None:
    """All spellings of an address as the one that is stored, for limits too; None for what is longer than any."""
    address = email.strip()
    if len(address) > SPELLED_MOST:
        return None
    address = unicodedata.normalize("NFC", address).lower()
    return address if len(address) <= EMAIL_MOST else None


def normal_email(email: str) -> str:
    """The address as it is stored: trimmed, lower case. BadUserInput when it cannot be one."""
    address = spelled(email)
    if address is None or not _EMAIL.fullmatch(address):
        raise BadUserInput("email: an address such as user@example.com is expected")
    return address
