from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.api.kit import Api, running
from tests.support import SERVER_VARIABLES


@pytest.fixture(params=["sqlite"])
def sql_engine(request: pytest.FixtureRequest) -> str:
    """SQLite, unless the test is marked with `kit.every_engine`: most of what the API does is not about SQL."""
    variable = SERVER_VARIABLES.get(request.param)
    if variable and not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return str(request.param)


@pytest.fixture
async def api(store_url: str) -> AsyncIterator[Api]:
    """An API with one user, whose token every call sends."""
    async with running(store_url) as api:
        await api.register("user")
        yield api
