"""API keys: how programs sign in. `tm_<8 characters>_<43 characters>`, shown once, and stored as its SHA-256.

The secret part has 256 random bits, so a fast hash is enough: there is nothing to guess. A key has a role of its own, never
more than its owner's, and may be bound to queues. What a process knows of a key is at most CACHE_SECONDS old.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import string
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from taskmill.api.identity import CACHE_SECONDS, Role, User
from taskmill.api.text import line
from taskmill.errors import BadUserInput, Conflict, Forbidden, NotFound, Unauthenticated, Unavailable
from taskmill.model.clock import boottime
from taskmill.model.ids import id_text, new_id
from taskmill.sql.dialect import db_now, from_now
from taskmill.sql.engine import Database
from taskmill.sql.schema import api_keys, users

MARK: Final = "tm_"
NAME_MOST: Final = 100
LIVE_MOST: Final = 100
"""Keys that one user may have at a time."""
DEAD_DAYS: Final = 30
"""Days that a key is still shown after its end, at least."""
USE_SECONDS: Final = 60.0
"""Between two writes of a key's last use."""
USES_MOST: Final = 500
"""Keys whose last use goes into one statement."""
CACHE_KEYS: Final = 10_000

_ALPHABET: Final = string.ascii_letters + string.digits
_FORM: Final = re.compile(rf"{MARK}[0-9A-Za-z]{{8}}_[0-9A-Za-z]{{43}}")
_INVALID: Final = "The API key is not valid (any more)."
_ABSENT: Final = "There is no such API key."

MAY_GIVE: Final[dict[Role, frozenset[Role]]] = {
    Role.ADMIN: frozenset(Role),
    Role.USER: frozenset({Role.USER}),
    Role.WORKER: frozenset({Role.WORKER}),
}
"""Owner's role → the roles that its keys may have."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What a request needs of its key. `queues`: the only ones it may use; None: all. `expires`: naive UTC."""

    id: bytes
    name: str
    queues: tuple[str, ...] | None
    role: Role
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One row of `api_keys`, without the hash. Times are naive UTC."""

    id: bytes
    user_id: bytes
    name: str
    role: Role
    prefix: str
    queues: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def info(self) -> KeyInfo:
        return KeyInfo(self.id, self.name, self.queues, self.role, self.expires_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a caller asks for; `queues` have the form of names already."""

    name: str
    role: Role
    queues: tuple[str, ...] | None = None
    expires_at: datetime | None = None


_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    api_keys.c.id,
    api_keys.c.user_id,
    api_keys.c.name,
    api_keys.c.role,
    api_keys.c.prefix,
    api_keys.c.queues,
    api_keys.c.created_at,
    api_keys.c.expires_at,
    api_keys.c.last_used_at,
    api_keys.c.revoked_at,
)
_select: Final[sa.Select[Any]] = sa.select(*_COLUMNS)
_by_hash: Final = _select.where(api_keys.c.hash == sa.bindparam("hash"))
_live: Final = sa.and_(
    api_keys.c.revoked_at.is_(None),
    sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > db_now()),
)
_insert: Final = sa.insert(api_keys).values(created_at=db_now())


def _row(row: sa.Row[*tuple[Any, ...]]) -> KeyRow:
    queues = None if row[5] is None else tuple(msgspec.json.decode(row[5], type=list[str]))
    return KeyRow(row[0], row[1], row[2], Role(row[3]), row[4], queues, row[6], row[7], row[8], row[9])


class ApiKeys:
    """All that is done with keys. `close` ends its writing of last uses."""

    def __init__(self, db: Database, owner: Callable[[bytes], Awaitable[User | None]]) -> None:
        self._db = db
        self._user = owner
        self.cache = CACHE_SECONDS
        self._known: dict[bytes, tuple[float, KeyRow]] = {}
        self._absent: dict[bytes, float] = {}  # apart: a flood of guesses pushes out no key
        self._opened: set[bytes] = set()
        self._noted: dict[bytes, float] = {}
        self._used: set[bytes] = set()
        self._writing: asyncio.Task[None] | None = None

    def close(self) -> None:
        if self._writing is not None:
            self._writing.cancel()

    # -- signing in --------------------------------------------------------------------------------------

    def familiar(self, text: str) -> bool:
        """Whether this key has opened before, in this process."""
        return hashlib.sha256(text.encode()).digest() in self._opened

    async def check(self, text: str) -> tuple[User, KeyInfo]:
        """Whose key it is, as a user with the key's role. Unauthenticated: no key, or one that has ended."""
        if not _FORM.fullmatch(text):
            raise Unauthenticated(_INVALID)
        digest = hashlib.sha256(text.encode()).digest()
        row = await self._by_hash(digest)
        if row is None:
            raise Unauthenticated(_INVALID)
        user = await self._owner(row)
        if len(self._opened) >= CACHE_KEYS:
            self._opened.clear()
        self._opened.add(digest)
        self._note(row.id)
        return user, row.info()

    async def recheck(self, user_id: bytes, key: KeyInfo) -> User:
        """The user again, later, as `check`. Unauthenticated once the key has ended."""
        row = await self._by_id(key.id)
        if row is None or row.user_id != user_id:
            raise Unauthenticated(_INVALID)
        return await self._owner(row)

    async def _owner(self, row: KeyRow) -> User:
        if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= _now()):
            raise Unauthenticated(_INVALID)
        user = await self._user(row.user_id)
        if user is None or user.disabled or row.role not in MAY_GIVE[user.role]:
            raise Unauthenticated(_INVALID)
        return replace(user, role=row.role)

    async def _by_hash(self, digest: bytes) -> KeyRow | None:
        return await self._look(digest, _by_hash, {"hash": digest})

    async def _by_id(self, key_id: bytes) -> KeyRow | None:
        return await self._look(key_id, _select.where(api_keys.c.id == sa.bindparam("id")), {"id": key_id})

    async def _look(self, known_as: bytes, query: sa.Select[Any], values: dict[str, bytes]) -> KeyRow | None:
        """By its hash (32 bytes) or its id (16 bytes): one memory for both."""
        now = boottime()
        known = self._known.get(known_as)
        if known is not None and known[0] > now:
            return known[1]
        if self._absent.get(known_as, 0.0) > now:
            return None
        row = await self._db.read(lambda c: c.execute(query, values).one_or_none())
        if row is None:
            if len(self._absent) >= CACHE_KEYS:
                self._absent.clear()
            self._absent[known_as] = now + self.cache
            return None
        found = _row(row)
        if len(self._known) >= CACHE_KEYS:
            self._known.clear()
        self._known[known_as] = (now + self.cache, found)
        return found

    # -- last use ----------------------------------------------------------------------------------------

    def _note(self, key_id: bytes) -> None:
        """Has the use written, off the request's way."""
        now = boottime()
        if self._noted.get(key_id, -USE_SECONDS) + USE_SECONDS > now:
            return
        if len(self._noted) >= CACHE_KEYS:
            self._noted.clear()
        self._noted[key_id] = now
        self._used.add(key_id)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_uses())

    async def _write_uses(self) -> None:
        while self._used:
            ids = sorted(self._used)[:USES_MOST]
            self._used.difference_update(ids)
            # Several processes note the same key: the first within a minute writes.
            stale = sa.or_(
                api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= from_now(-USE_SECONDS)
            )
            statement = sa.update(api_keys).where(api_keys.c.id.in_(ids), stale).values(last_used_at=db_now())
            try:
                await self._db.write(lambda c, s=statement: c.execute(s), resend=lambda c: None)  # type: ignore[misc]
            except Unavailable as error:
                # The next use writes it, a minute later.
                log.warning("keys.use_not_written", keys=len(ids), error=error.message)

    # -- what users do with them --------------------------------------------------------------------------

    async def create(self, owner: User, new: NewKey, by: KeyInfo | None = None) -> tuple[str, KeyRow]:
        """The text of a new key, which nobody can read again, and its row.

        `by`: the key that the owner signed in with: the new one may not go beyond it. Forbidden: the role, queues or
        time go beyond. BadUserInput: name, time. Conflict: LIVE_MOST keys are live.
        """
        name = line("name", new.name, NAME_MOST)
        _within(owner, new, by)
        if new.expires_at is not None and new.expires_at <= _now():
            raise BadUserInput("expiresAt: a time in the future is expected")
        prefix = MARK + _random(8)
        text = f"{prefix}_{_random(43)}"
        key_id = new_id()
        values = {
            "id": key_id,
            "user_id": owner.id,
            "name": name,
            "role": int(new.role),
            "prefix": prefix,
            "hash": hashlib.sha256(text.encode()).digest(),
            "queues": None if new.queues is None else msgspec.json.encode(new.queues).decode(),
            "expires_at": new.expires_at,
        }

        def work(connection: Connection) -> KeyRow:
            # Its row is the lock: of two keys made at once, the second counts the first.
            connection.execute(sa.select(users.c.id).where(users.c.id == owner.id).with_for_update())
            mine = api_keys.c.user_id == owner.id
            over = from_now(-DEAD_DAYS * 86400.0)
            ended = sa.or_(api_keys.c.revoked_at <= over, api_keys.c.expires_at <= over)
            connection.execute(sa.delete(api_keys).where(mine, ended))
            live = connection.execute(
                sa.select(sa.func.count()).select_from(api_keys).where(mine, _live)
            ).scalar()
            if (live or 0) >= LIVE_MOST:
                raise Conflict(f"You have {live} API keys: revoke one first, {LIVE_MOST} are the most.")
            connection.execute(_insert, values)
            return _row(connection.execute(_select.where(api_keys.c.id == key_id)).one())

        def resend(connection: Connection) -> KeyRow:
            row = connection.execute(_select.where(api_keys.c.id == key_id)).one_or_none()
            return work(connection) if row is None else _row(row)

        row = await self._db.write(work, resend=resend)
        log.info(
            "key.created", key=id_text(key_id), prefix=prefix, role=new.role.name, user=id_text(owner.id)
        )
        return text, row

    async def list(self, owner: bytes | None, *, limit: int, after: bytes | None = None) -> Sequence[KeyRow]:
        """The newest `limit` keys of a user (None: of all) behind `after`, with those that ended."""
        query = _select.order_by(api_keys.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(api_keys.c.user_id == owner)
        if after is not None:
            query = query.where(api_keys.c.id < after)
        return [_row(row) for row in await self._db.read(lambda c: c.execute(query).all())]

    async def revoke(self, key_id: bytes, owner: bytes | None) -> KeyRow:
        """Ends a key of a user (None: of anyone), in every process within CACHE_SECONDS. Again: nothing. NotFound."""
        query = _select.where(api_keys.c.id == key_id)
        if owner is not None:
            query = query.where(api_keys.c.user_id == owner)

        def work(connection: Connection) -> KeyRow:
            found = connection.execute(query.with_for_update()).one_or_none()
            if found is None:
                raise NotFound(_ABSENT)
            if found.revoked_at is None:
                connection.execute(
                    sa.update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=db_now())
                )
            return _row(connection.execute(query).one())

        row = await self._db.write(work, resend=work)
        self._known.clear()
        log.info("key.revoked", key=id_text(key_id), prefix=row.prefix)
        return row


def _within(owner: User, new: NewKey, by: KeyInfo | None) -> None:
    if new.role not in MAY_GIVE[owner.role]:
        names = " or ".join(role.name for role in Role if role in MAY_GIVE[owner.role])
        raise Forbidden(f"role: your keys may have the role {names}.")
    if by is None:
        return
    if by.queues is not None and not (new.queues is not None and set(new.queues) <= set(by.queues)):
        raise Forbidden("queues: a key makes keys for its own queues only.")
    if by.expires is not None and (new.expires_at is None or new.expires_at > by.expires):
        raise Forbidden("expiresAt: a key makes no keys that outlive it.")


def _random(characters: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(characters))


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
