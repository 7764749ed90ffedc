"""What the API can be told. Settings fill these."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network

from taskmill.errors import ConfigError

SECRET_BYTES = 32
"""The least length of a signing key: HS256 is no stronger than its key."""


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """Operations a minute, unless it says otherwise; 0: no limit."""

    user: int = 0
    """Of a signed-in user."""
    key: int = 0
    """Of an API key."""
    anonymous: int = 0
    """Of an address, by those who are not signed in; opening a WebSocket counts as one."""
    login: int = 0
    """Failed logins of an account until it has to wait."""
    login_peer: int = 0
    """Failed logins from an address, an hour, until it has to wait."""
    register: int = 0
    """New users from an address, an hour, until it has to wait."""


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Sizes are bytes, times seconds."""

    host: str = "127.0.0.1"
    port: int = 3000
    development: bool = False
    """The page for trying documents, introspection, and / leading there."""
    body_limit: int = 4 * 1024 * 1024
    body_timeout: float = 15.0
    """A request body that takes longer is given up (408)."""
    request_timeout: float = 10.0
    """An operation, but a subscription, that takes longer is given up (TIMEOUT)."""
    max_cost: int = 5000
    """Of an operation (schema/cost.py)."""
    allowed_origins: tuple[str, ...] = ()
    """Origins, besides the server's own, whose pages may read answers and open a WebSocket."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that a Host header may have, `*.` before one for all below it; none: any."""
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Whose X-Forwarded-For and X-Forwarded-Proto count."""
    head_timeout: float = 10.0
    """For the head of a request, from its first byte, and for the first byte of a connection (408)."""
    subscriptions: int = 20
    """Operations open at once on one WebSocket."""
    feed_buffer: int = 1000
    """Tasks that wait for one subscriber; at one more it is dropped."""
    send_timeout: float = 10.0
    """A client that takes nothing for so long is dropped."""
    health_timeout: float = 2.0
    limits: LimitOptions = LimitOptions()


@dataclass(frozen=True, slots=True)
class AuthOptions:
    """`first_admin`: the first user of an empty installation becomes ADMIN (development). `previous`: the secret of
    before, which signs no more and still verifies."""

    secret: bytes = field(repr=False)
    expiration: timedelta = timedelta(days=1)
    bcrypt_rounds: int = 12
    first_admin: bool = False
    previous: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < SECRET_BYTES:
            raise ConfigError(f"JWT_SECRET: {SECRET_BYTES} bytes or more are expected")
        if self.previous is not None and len(self.previous) < SECRET_BYTES:
            raise ConfigError(f"JWT_SECRET_PREVIOUS: {SECRET_BYTES} bytes or more are expected")
        if self.expiration <= timedelta(0):
            raise ConfigError("JWT_EXPIRATION: a time such as 15m, 12h or 1d is expected")
