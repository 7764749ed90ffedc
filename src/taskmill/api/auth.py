"""Tokens: a JWT names a user for a while; the user's row says each time what that is worth.

HS256 and nothing else, whatever a token's header says. Its `kid` names the secret that signed it, out of the one or two
that the settings give: the one of before still verifies. The role is not in the token: it is read from the row (at most
CACHE_SECONDS old), so a new role, a disabled user and a raised token version count at once.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt

from taskmill.api.keys import MARK, ApiKeys, KeyInfo
from taskmill.api.users import Accounts, User
from taskmill.errors import Unauthenticated
from taskmill.model.ids import id_text, parse_id

ISSUER: Final = "taskmill"
AUDIENCE: Final = "taskmill-api"
ACCESS: Final = "access"
ALGORITHM: Final = "HS256"
TOKEN_MOST: Final = 4096
KNOWN_MOST: Final = 10_000
"""Tokens whose signature was checked already: that costs more than the rest of a small request."""
LEEWAY: Final = timedelta(seconds=5)
"""Clocks of several API machines differ a little."""

_INVALID: Final = "The token is not valid. Log in again."
_EXPIRED: Final = "The token has expired. Log in again."
_HEADER: Final = {"alg", "typ", "kid"}
"""A token of ours has these headers and no others: none that names a key, or where to fetch one."""
_REQUIRED: Final = ["exp", "iat", "sub", "jti", "iss", "aud", "typ", "ver"]


@dataclass(frozen=True, slots=True)
class Session:
    """Who is asking, proven by a token that ends at `expires` (seconds since 1970, by this machine's clock), or by an
    API key: then `key` says which, and the user's role is the key's."""

    user: User
    expires: float
    key: KeyInfo | None = None

    @property
    def expired(self) -> bool:
        return time.time() >= self.expires + LEEWAY.total_seconds()


class Tokens:
    """Issues and checks access tokens; checks API keys too. `previous`: a secret that signs no more and still verifies."""

    def __init__(
        self, secret: bytes, expiration: timedelta, accounts: Accounts, previous: bytes | None = None
    ) -> None:
        self._kid = key_id(secret)
        self._secrets = {key_id(old): old for old in (previous, secret) if old is not None}
        self._expiration = expiration
        self._accounts = accounts
        self._known: dict[str, dict[str, Any]] = {}

    @property
    def keys(self) -> ApiKeys:
        return self._accounts.keys

    def issue(self, user: User) -> str:
        """A token for this user, valid from now for the configured time."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "typ": ACCESS,
            "sub": id_text(user.id),
            "ver": user.token_version,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + self._expiration,
        }
        return jwt.encode(claims, self._secrets[self._kid], algorithm=ALGORITHM, headers={"kid": self._kid})

    def unfamiliar(self, token: str) -> bool:
        """Whether checking it asks SQL for what anybody could make up: an API key that never opened here."""
        return token.startswith(MARK) and not self.keys.familiar(token)

    async def check(self, token: str) -> Session:
        """Whose token or API key it is. Unauthenticated: forged, expired, revoked, or its user is gone."""
        if token.startswith(MARK):
            owner, key = await self.keys.check(token)
            return Session(owner, _end(key), key)
        claims = self._known.get(token)
        if claims is None:
            claims = self._decode(token)
            if len(self._known) >= KNOWN_MOST:
                self._known.clear()
            self._known[token] = claims
        elif claims["exp"] + LEEWAY.total_seconds() <= time.time():
            raise Unauthenticated(_EXPIRED)
        user_id = parse_id(claims["sub"]) if isinstance(claims["sub"], str) else None
        user = await self._accounts.by_id(user_id) if user_id is not None else None
        if user is None or user.disabled or claims["ver"] != user.token_version:
            raise Unauthenticated(_INVALID)
        return Session(user, float(claims["exp"]))

    async def recheck(self, session: Session) -> Session:
        """The session again, later: Unauthenticated once the token or key has expired or the user lost it.

        Costs a look into memory, and a read every CACHE_SECONDS.
        """
        if session.expired:
            raise Unauthenticated(_EXPIRED)
        if session.key is not None:
            owner = await self.keys.recheck(session.user.id, session.key)
            return session if owner == session.user else Session(owner, session.expires, session.key)
        user = await self._accounts.by_id(session.user.id)
        if user is None or user.disabled or user.token_version != session.user.token_version:
            raise Unauthenticated(_INVALID)
        return session if user is session.user else Session(user, session.expires)

    def _decode(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_MOST:
            raise Unauthenticated(_INVALID)
        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            ours = set(header) == _HEADER and header["typ"] == "JWT"
            if not ours or not isinstance(kid, str) or kid not in self._secrets:
                raise Unauthenticated(_INVALID)
            claims = jwt.decode(
                token,
                self._secrets[kid],
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated(_EXPIRED) from None
        except (jwt.PyJWTError, ValueError, OverflowError, TypeError, RecursionError):
            # A token is made of what an attacker chose: claims of any type and size.
            raise Unauthenticated(_INVALID) from None
        if claims["typ"] != ACCESS or claims["aud"] != AUDIENCE or not isinstance(claims["exp"], int):
            raise Unauthenticated(_INVALID)
        return claims


def key_id(secret: bytes) -> str:
    """The `kid` of tokens that this secret signs: says which of two it was, and nothing of the secret."""
    return hashlib.sha256(secret).hexdigest()[:8]


def _end(key: KeyInfo) -> float:
    return math.inf if key.expires is None else key.expires.replace(tzinfo=UTC).timestamp()


def bearer(headers: list[str]) -> str | None:
    """The token of the Authorization headers; None when there is none. Unauthenticated when it is no single bearer token."""
    if not headers:
        return None
    scheme, _, token = headers[0].strip().partition(" ")
    token = token.strip()
    if len(headers) > 1 or scheme.lower() != "bearer" or not token or " " in token:
        raise Unauthenticated("Authorization: one header is expected, with the value 'Bearer <token>'.")
    return token
