"""Tokens: a JWT names a user for a while; the user's row says each time what that is worth.

HS256 and nothing else, whatever a token's header says. The role is not in the token: it is read from the row (at most
CACHE_SECONDS old), so a new role, a disabled user and a raised token version count at once.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt

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
_REQUIRED: Final = ["exp", "iat", "sub", "jti", "iss", "aud", "typ", "ver"]


@dataclass(frozen=True, slots=True)
class Session:
    """Who is asking, proven by a token that ends at `expires` (seconds since 1970, by this machine's clock)."""

    user: User
    expires: float

    @property
    def expired(self) -> bool:
        return time.time() >= self.expires + LEEWAY.total_seconds()


class Tokens:
    """Issues and checks access tokens."""

    def __init__(self, secret: bytes, expiration: timedelta, accounts: Accounts) -> None:
        self._secret = secret
        self._expiration = expiration
        self._accounts = accounts
        self._known: dict[str, dict[str, Any]] = {}

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
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    async def check(self, token: str) -> Session:
        """Whose token it is. Unauthenticated: forged, expired, revoked, or its user is gone."""
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
        """The session again, later: Unauthenticated once the token has expired or the user lost it."""
        if session.expired:
            raise Unauthenticated(_EXPIRED)
        user = await self._accounts.by_id(session.user.id)
        if user is None or user.disabled or user.token_version != session.user.token_version:
            raise Unauthenticated(_INVALID)
        return session if user is session.user else Session(user, session.expires)

    def _decode(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_MOST:
            raise Unauthenticated(_INVALID)
        try:
            claims = jwt.decode(
                token,
                self._secret,
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


def bearer(headers: list[str]) -> str | None:
    """The token of the Authorization headers; None when there is none. Unauthenticated when it is no single bearer token."""
    if not headers:
        return None
    scheme, _, token = headers[0].strip().partition(" ")
    token = token.strip()
    if len(headers) > 1 or scheme.lower() != "bearer" or not token or " " in token:
        raise Unauthenticated("Authorization: one header is expected, with the value 'Bearer <token>'.")
    return token
