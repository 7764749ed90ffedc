"""Checks offline that the migrations make the schema: an upgraded SQLite file is compared with sql/schema.py.

tests/setup/test_migrations.py does the same on each server, where the types are compared for good.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from taskmill.sql.engine import SqlOptions, open_database
from taskmill.sql.migrate import migrate
from taskmill.sql.schema import metadata


async def differences(url: str) -> list[str]:
    """What Alembic would still have to change after `migrate`: nothing, when both are in step."""

    def compare(connection: Connection) -> list[str]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return [repr(change) for change in compare_metadata(context, metadata)]

    database = await open_database(SqlOptions(url=url))
    try:
        await migrate(database)
        return await database.define(compare)
    finally:
        await database.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(differences(f"sqlite:///{Path(folder) / 'check.db'}"))
    for difference in found:
        print(difference, file=sys.stderr)
    if found:
        sys.exit(
            "the schema and the migrations differ: write a revision in src/taskmill/sql/migrations/versions"
        )
