"""Installations for these tests: `up` on SQLite, and separate processes on a server with a Redis of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.databases import MigratedStores
from tests.e2e.kit import Site
from tests.support import Processes, RedisServer


@pytest.fixture
async def embedded(processes: Processes, tmp_path: Path) -> AsyncIterator[Site]:
    """Nothing configured: SQLite and the embedded Valkey in the test's folder. `up()` starts it."""
    site = Site(processes, tmp_path, f"sqlite:///{tmp_path / 'data' / 'taskmill.db'}")
    yield site
    await site.close()


@pytest.fixture
async def distributed(
    store_url: str, private_redis: RedisServer, tmp_path: Path
) -> AsyncIterator[Site]:
    """A migrated database on a server, and a Redis that the test may flush, pause and kill."""
    site = Site(Processes(tmp_path), tmp_path, store_url, REDIS_URL=private_redis.url)
    yield site
    await site.close()
