from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa

from taskmill.sql.schema import meta, metadata
from tests.api.kit import Api, running
from tests.databases import MigratedStores
from tests.support import SERVER_VARIABLES, wait_until

Shared = Callable[[str], Awaitable[Api]]


@pytest.fixture(params=["sqlite"])
def sql_engine(request: pytest.FixtureRequest) -> str:
    """SQLite, unless the test is marked with `kit.every_engine`: most of what the API does is not about SQL."""
    variable = SERVER_VARIABLES.get(request.param)
    if variable and not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return str(request.param)


@pytest.fixture(scope="session")
async def shared(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shared]:
    """One API an engine for all tests: stopping uvicorn takes longer than most tests."""
    started: dict[str, Api] = {}
    async with AsyncExitStack() as stack:

        async def of(engine: str) -> Api:
            if engine not in started:
                url = stack.enter_context(migrated_stores.lend(engine, tmp_path_factory.mktemp("api")))
                started[engine] = await stack.enter_async_context(running(url))
            return started[engine]

        yield of


@pytest.fixture
async def api(sql_engine: str, shared: Shared) -> AsyncIterator[Api]:
    """An API over empty tables with one user, whose token every call sends. Tests that stop it start their own."""
    api = await shared(sql_engine)
    api.token, api.tokens = None, {}
    await api.register("user")
    yield api
    await wait_until(lambda: not api.feed._clients, what="the subscriptions of the test have ended")
    await api.mill.flush()
    api.accounts._known.clear()
    await api.db.write(_empty)


def _empty(connection: sa.Connection) -> None:
    for table in metadata.sorted_tables:
        if table is not meta:
            connection.execute(sa.delete(table))
