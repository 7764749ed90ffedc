"""Passwords: what may be one, and their hashes.

bcrypt reads 72 bytes and no more: longer passwords are refused, never cut. They count in the Unicode form NFC, so that the
same one typed on two systems is the same. Hashing takes a quarter of a second of CPU, so it runs in two threads, and
beyond a bound of waiting sign-ins callers are turned away.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog
from pwdlib import PasswordHash
from pwdlib.hashers.bcrypt import BcryptHasher

from taskmill.errors import BadUserInput, Unavailable
from taskmill.tasks.service import NO_PASSWORD

PASSWORD_LEAST: Final = 8
PASSWORD_MOST: Final = 72
"""Bytes in UTF-8."""
READ_MOST: Final = 8 * PASSWORD_MOST
"""Bytes that are brought into NFC: it takes time that grows with the square of their number."""
HASHING_THREADS: Final = 2
HASHING_WAITERS: Final = 64

_NOBODY: Final = "." * 22 + "nobodys" + "." * 24

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Passwords:
    """Hashes and compares, in threads. Close it."""

    def __init__(self, rounds: int) -> None:
        self.hasher = BcryptHasher(rounds=rounds)
        self._hashes = PasswordHash((self.hasher,))
        self._pool = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="passwords")
        self._waiting = 0

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """The hash of a password that `checked_password` returned. Unavailable: too many wait."""
        return await self._run(self._hashes.hash, password)

    async def verify(self, password: str, known: str | None) -> bool:
        """Whether `known` is a hash of the password. None, or what is no hash, takes the same time and is False."""
        # Of the current cost, of no password: as much work as a user's.
        nobody = f"$2b${self.hasher.rounds:02}${_NOBODY}"
        usable = known is not None and BcryptHasher.identify(known)
        if known is not None and not usable and not known.startswith(NO_PASSWORD):
            log.error("A password hash cannot be read: its user cannot log in.")
        right = await self._run(
            self._hashes.verify, password, known if known is not None and usable else nobody
        )
        return usable and right

    def outdated(self, known: str) -> bool:
        """Whether the hash was made with another cost than the current."""
        return self.hasher.check_needs_rehash(known)

    async def _run(self, work: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= HASHING_WAITERS:
            raise Unavailable("Too many sign-ins at once. Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        finally:
            self._waiting -= 1


def checked_password(password: str, name: str = "password") -> str:
    """The password in NFC. BadUserInput, naming the field, unless it has PASSWORD_LEAST to PASSWORD_MOST bytes."""
    plain = presented_password(password, name)
    if len(plain.encode()) < PASSWORD_LEAST:
        raise BadUserInput(f"{name}: {PASSWORD_LEAST} bytes or more are expected")
    return plain


def presented_password(password: str, name: str = "password") -> str:
    """The password in NFC, to be compared. BadUserInput when it cannot be one: longer than any, or with a NUL."""
    size = len(password.encode())
    if size <= READ_MOST:
        password = unicodedata.normalize("NFC", password)
        size = len(password.encode())
    if "\0" in password:
        # bcrypt repeats a password with a NUL behind it: "a" and "a\0a" would open each other.
        raise BadUserInput(f"{name}: the character NUL is not taken")
    if size > PASSWORD_MOST:
        raise BadUserInput(
            f"{name}: {size} bytes; at most {PASSWORD_MOST} are taken, since bcrypt would ignore the rest"
        )
    return password
