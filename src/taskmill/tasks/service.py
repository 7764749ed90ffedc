"""The service user: whose tasks are those that a program submits without signing in, straight to the record.

A row of `users` like any other, so that an ADMIN sees it, and without a password: nobody signs in with it.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import Forbidden
from taskmill.model.ids import new_id
from taskmill.sql.dialect import db_now
from taskmill.sql.schema import users

NO_PASSWORD: Final = "!"  # noqa: S105 (it is none: no hash has this form)
ROLE: Final = 2
"""USER."""

_FIND: Final = sa.select(users.c.id, users.c.disabled_at).where(users.c.email == sa.bindparam("name"))


def service_user(connection: Connection, name: str) -> bytes:
    """Its id; made when it is not there, in the transaction of `connection`. Forbidden when it was disabled.

    `name` stands where others have their e-mail address, and is none: nobody can register it.
    """
    row = connection.execute(_FIND, {"name": name}).one_or_none()
    if row is None:
        user_id = new_id()
        try:
            with connection.begin_nested():
                values = {
                    "id": user_id,
                    "email": name,
                    "name": name,
                    "password_hash": NO_PASSWORD,
                    "role": ROLE,
                }
                connection.execute(sa.insert(users).values(token_version=1, created_at=db_now(), **values))
        except exc.IntegrityError:
            # Another was quicker. This transaction may have begun before that: a locking read sees what is.
            row = connection.execute(_FIND.with_for_update(read=True), {"name": name}).one()
        else:
            return user_id
    if row.disabled_at is not None:
        raise Forbidden(f"The service user {name!r} is disabled.")
    found: bytes = row.id
    return found
