"""The migrations and the schema say the same, on every engine."""

from __future__ import annotations

from scripts.migrations import differences


async def test_migrations_make_the_schema(sql_url: str) -> None:
    """After `migrate` Alembic finds nothing left to change."""
    assert await differences(sql_url) == []
