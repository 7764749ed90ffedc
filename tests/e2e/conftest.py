"""Installations for these tests: `up` on SQLite, and separate processes on a server with a Redis of the test's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.databases import MigratedStores
from tests.e2e.kit import Site
from tests.support import SERVER_VARIABLES, Processes, RedisServer, server_binary


@pytest.fixture
async def embedded(processes: Processes, tmp_path: Path) -> AsyncIterator[Site]:
    """Nothing configured: SQLite and the embedded Valkey in the test's folder. `start("up")` starts it."""
    site = Site(processes, tmp_path, f"sqlite:///{tmp_path / 'data' / 'taskmill.db'}")
    yield site
    await site.close()


@pytest.fixture
async def distributed(
    store_url: str, private_redis: RedisServer, processes: Processes, tmp_path: Path
) -> AsyncIterator[Site]:
    """A migrated database on a server, and a Redis that the test may flush, pause and kill."""
    site = Site(processes, tmp_path, store_url, REDIS_URL=private_redis.url)
    yield site
    await site.close()


@pytest.fixture(scope="module")
def plant_redis() -> Iterator[RedisServer]:
    """The Redis of `plant`: a real one where there is one."""
    binary = shutil.which("redis-server") or server_binary()
    if binary is None:
        pytest.skip("no Valkey or Redis server binary")
    server = RedisServer(binary)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
async def running_plant(
    migrated_stores: MigratedStores, plant_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """Two APIs, two workers and two schedulers on MySQL (else MariaDB) and Redis, for all tests of a module: to start
    six processes for each would take most of the time. At the end the whole record is judged again."""
    engine = next((e for e in ("mysql", "mariadb") if os.environ.get(SERVER_VARIABLES[e])), None)
    if engine is None:
        pytest.skip("TEST_MYSQL_URL is not set")
    folder = tmp_path_factory.mktemp("plant")
    with migrated_stores.lend(engine, folder) as url:
        site = Site(Processes(folder), folder, url, REDIS_URL=plant_redis.url)
        try:
            for role in ("api-1", "api-2", "worker-1", "worker-2", "scheduler-1", "scheduler-2"):
                site.start(role)
            await site.ready()
            await site.client("api-1")  # the first user is ADMIN, and would see the tasks of all
            yield site
        finally:
            await site.close()


@pytest.fixture
async def plant(running_plant: Site, request: pytest.FixtureRequest, plant_redis: RedisServer) -> Site:
    """The shared installation with all its parts running. A failed test shows what they wrote."""
    await running_plant.heal()
    request.node.funcargs["processes"] = running_plant.processes
    return running_plant


@pytest.fixture
def many() -> int:
    """Tasks of the large runs: small by default, so that the suite stays quick."""
    return 20_000 if os.environ.get("TASKMILL_TEST_LARGE") == "1" else 2_000
