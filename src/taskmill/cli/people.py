"""`taskmill users …`: what an operator does with users, straight on the database."""

from __future__ import annotations

import getpass
import sys
from collections.abc import AsyncIterator
from datetime import UTC
from typing import cast

from taskmill import compose
from taskmill.api.users import Role
from taskmill.api.users import User as Account
from taskmill.cli import reading
from taskmill.client import User
from taskmill.client.types import RoleName
from taskmill.errors import ConfigError
from taskmill.model.ids import id_text
from taskmill.settings import Settings

PAGE = 1000
PASSWORD_LINE_LIMIT = 4096
"""Characters that are read of a line: far more than a password may have."""


def ask(password_stdin: bool) -> str:
    """The password, before there is an event loop: a Ctrl-C at the prompt then ends the command at once."""
    return _from_stdin() if password_stdin else _asked()


async def create(settings: Settings, email: str, name: str, kind: Role, password: str) -> User:
    """Makes the user. BadUserInput, Conflict as the API says them."""
    async with compose.users(settings) as accounts:
        return _told(await accounts.create(email, password, name or email.partition("@")[0], kind))


async def set_role(settings: Settings, email: str, role: str) -> User:
    kind = parse_role(role)
    async with compose.users(settings) as accounts:
        return _told(await accounts.set_role(email, kind))


async def everyone(settings: Settings) -> AsyncIterator[User]:
    """Oldest first."""
    after: bytes | None = None
    async with compose.users(settings) as accounts:
        while page := await accounts.list(limit=PAGE, after=after):
            for user in page:
                yield _told(user)
            after = page[-1].id


def _told(user: Account) -> User:
    """As the API tells it."""
    return User(
        id=id_text(user.id),
        email=user.email,
        name=user.name,
        role=cast("RoleName", user.role.name),
        created_at=user.created_at.replace(tzinfo=UTC),
        disabled=user.disabled,
    )


def parse_role(text: str) -> Role:
    """In any case. ConfigError names the roles there are."""
    return Role[reading.one_of("role", text, Role.__members__)]


def _from_stdin() -> str:
    line = sys.stdin.readline(PASSWORD_LINE_LIMIT) if sys.stdin is not None else ""
    if not line.rstrip("\r\n"):
        raise ConfigError("--password-stdin: expected a password on standard input")
    return line.rstrip("\r\n")


def _asked() -> str:
    """Twice, without showing it. Without a terminal there is nobody to ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError("password: expected a terminal to ask for it, or --password-stdin")
    try:
        password = getpass.getpass("Password: ")
        again = getpass.getpass("Again: ")
    except EOFError:
        raise ConfigError("password: expected one") from None
    if password != again:
        raise ConfigError("password: the two are not the same")
    return password
