from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.api.kit import Api, running


@pytest.fixture
async def api(store_url: str) -> AsyncIterator[Api]:
    """An API with one user, whose token every call sends: on each engine, unless the test narrows it."""
    async with running(store_url) as api:
        await api.register("user")
        yield api
