"""`taskmill users …`: what an operator does with users, straight on the database."""

from __future__ import annotations

import getpass
import sys

from taskmill import compose
from taskmill.api.users import Role
from taskmill.errors import ConfigError
from taskmill.model.clock import iso
from taskmill.runtime.logs import escape
from taskmill.settings import Settings

PASSWORD_LINE_LIMIT = 4096
"""Characters that are read of a line: far more than a password may have."""


def ask(password_stdin: bool) -> str:
    """The password, before there is an event loop: a Ctrl-C at the prompt then ends the command at once."""
    return _from_stdin() if password_stdin else _asked()


async def create(settings: Settings, email: str, name: str, kind: Role, password: str) -> int:
    """Makes the user and prints a line. BadUserInput, Conflict as the API says them."""
    async with compose.users(settings) as accounts:
        user = await accounts.create(email, password, name or email.partition("@")[0], kind)
    print(f"created {escape(user.email)} ({user.role.name})")
    return 0


async def set_role(settings: Settings, email: str, role: str) -> int:
    kind = parse_role(role)
    async with compose.users(settings) as accounts:
        user = await accounts.set_role(email, kind)
    print(f"{escape(user.email)} is {user.role.name}")
    return 0


async def show(settings: Settings) -> int:
    """Role, time, e-mail and name, separated by tabs: for eyes and for `cut`."""
    async with compose.users(settings) as accounts:
        for user in await accounts.list():
            print(user.role.name, iso(user.created_at), escape(user.email), escape(user.name), sep="\t")
    return 0


def parse_role(text: str) -> Role:
    """In any case. ConfigError names the roles there are."""
    try:
        return Role[text.upper()]
    except KeyError:
        names = ", ".join(role.name for role in Role)
        raise ConfigError(f"role {text[:40]!r}: expected one of {names}") from None


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
