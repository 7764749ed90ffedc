"""What documentation shows in the place of a secret: everybody knows it, so production refuses it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

PASSWORDS: Final = frozenset({"taskpass", "pass", "password", "rootpass", "admin"})
_EXAMPLE: Final = re.compile(r"your[-_ ]|change[-_ ]?(me|it|this)|example|…", re.IGNORECASE)


def has_published_password(url: str) -> bool:
    """Whether the password in the URL of a database is one of the documentation."""
    password = urlsplit(url).password
    return password is not None and is_published(unquote(password))


def is_published(password: str) -> bool:
    """Whether a password is one of the documentation, or reads like one."""
    return password.lower() in PASSWORDS or is_example(password)


def is_example(secret: str) -> bool:
    """Whether it reads like `your-jwt-secret`, `change-me` or `…`: no random text does."""
    return _EXAMPLE.search(secret) is not None
