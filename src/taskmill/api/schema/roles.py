"""Who may use what: every field of the schema says so. What says nothing is refused to all.

A root field says it itself: `strawberry.field(metadata=allow(Role.USER, Role.ADMIN))`. A type says it for all of its
fields: `@open_to(*SIGNED_IN)` above `@strawberry.type`; a field of it that is for fewer says so in its metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from taskmill.api.users import Role

ROLES: Final = "roles"
"""Where a field's metadata holds them."""
ANYONE: Final[frozenset[Role | None]] = frozenset((*Role, None))
"""Those who are not signed in too."""
SIGNED_IN: Final = (Role.ADMIN, Role.USER, Role.WORKER)
PEOPLE: Final = (Role.ADMIN, Role.USER)
"""Whoever works with tasks: all but a WORKER."""

T = TypeVar("T", bound=type)


def allow(*roles: Role) -> Mapping[str, Any]:
    """The metadata of a field for these roles; ADMIN is not implied."""
    return {ROLES: frozenset(roles)}


def allow_anyone() -> Mapping[str, Any]:
    """The metadata of a field that needs no login."""
    return {ROLES: ANYONE}


def open_to(*roles: Role | None) -> Callable[[T], T]:
    """A class decorator: the fields of this type are for these roles, unless they say otherwise."""

    def mark(cls: T) -> T:
        cls.__taskmill_roles__ = frozenset(roles)  # type: ignore[attr-defined]  # read by roles.py when the schema is built
        return cls

    return mark
