"""What documentation shows in the place of a secret: everybody knows it, so production refuses it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

PASSWORDS: Final = frozenset({"taskpass", "pass", "password", "rootpass", "admin"})
_EXAMPLE: Final = re.compile(r"your[-_ ]|change[-_ ]?(me|it|this)|example", re.IGNORECASE)


def has_known_password(url: str) -> bool:
    """Whether the password in the URL of a database is one of the documentation."""
    password = urlsplit(url).password
    return password is not None and unquote(password) in PASSWORDS


def is_example(secret: str) -> bool:
    """Whether a JWT_SECRET reads like `your-jwt-secret` or `change-me`: no random text does."""
    return _EXAMPLE.search(secret) is not None
