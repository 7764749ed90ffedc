"""RELIABILITY.md part 4, rows 39 to 62, over HTTP against a process of its own: each is answered as it is promised."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.api.bad_input import ROWS, Bad
from tests.api.service import Service, codes, served
from tests.databases import MigratedStores

INTERNALS = re.compile(
    r'Traceback|sqlalchemy|sqlite|pymysql|asyncmy|File "|SELECT |Did you mean|site-packages'
)


@pytest.fixture(scope="module")
async def service(
    migrated_stores: MigratedStores, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    with served(migrated_stores, tmp_path_factory.mktemp("service")) as (process, port):
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20
        ) as http:
            service = Service(process, port, http)
            await service.furnish()
            yield service


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_row(service: Service, row: Bad) -> None:
    """The promised code, once more the same way, with nothing in the message that only the server should know."""
    answers = [await service.post(row.query, row.variables, by=row.by) for _ in range(2)]
    for answer in answers:
        assert answer.status_code == 200
        assert codes(answer) == ([row.code] if row.code else []), answer.text
        assert not INTERNALS.search(answer.text)
        assert len(answer.text) < 3000
        if row.code:
            [error] = answer.json()["errors"]
            assert error["message"].startswith(row.says)
            assert error["extensions"]["requestId"] == answer.headers["x-request-id"]
    service.check()
