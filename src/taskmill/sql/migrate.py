"""The schema's version: ask for it, bring it up to date, refuse one that is not ours.

Alembic takes 0.6 s to import, so it is loaded only when there is something to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from taskmill.errors import StartError
from taskmill.sql.engine import Database

HEAD: Final = "0002"
"""The newest revision in migrations/versions; a test compares."""

log = structlog.get_logger(__name__)


async def current(database: Database) -> str | None:
    """The revision that the database is at; None when it has no tables of ours."""

    def read(connection: Connection) -> str | None:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

    return await database.read(read)


async def migrate(database: Database) -> bool:
    """Bring the schema to HEAD; False when it was there. Safe to run twice at once, and again after a crash.

    StartError when the schema is newer than this program.
    """
    at = await current(database)
    if at == HEAD:
        return False
    _refuse_newer(at)
    try:
        await database.define(_upgrade)
    except exc.DBAPIError as error:
        raise StartError(
            f"The migration to {HEAD} failed: {type(error.orig).__name__}. Run it again."
        ) from error
    log.info("schema.migrated", was=at, now=HEAD)
    return True


async def require(database: Database) -> None:
    """StartError unless the schema is the one that this program knows."""
    at = await current(database)
    if at == HEAD:
        return
    _refuse_newer(at)
    found = "has no tables" if at is None else f"is at revision {at}"
    raise StartError(f"The database {found}, this program needs {HEAD}: run `taskmill migrate` first.")


def _refuse_newer(at: str | None) -> None:
    if at is not None and at > HEAD:
        raise StartError(
            f"The database is at revision {at}, newer than this program ({HEAD}): run a newer Taskmill."
        )


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
