"""Who a request can come from: roles and users, as the rest of the API sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

CACHE_SECONDS: Final = 2.0
"""How long a process may act on what it knows of a user or key: bounds the delay of a new role or a revoked token."""


class Role(IntEnum):
    """What a user may do. The number is what SQL stores."""

    ADMIN = 1
    USER = 2
    WORKER = 3


@dataclass(frozen=True, slots=True)
class User:
    """One row of `users`, without the password's hash. Times are naive UTC."""

    id: bytes
    email: str
    name: str
    role: Role
    token_version: int
    created_at: datetime
    disabled: bool

    @property
    def owner(self) -> bytes | None:
        """Whose tasks this user sees: its own; None, all of them, for an ADMIN."""
        return None if self.role is Role.ADMIN else self.id
