"""A program that submits straight to MySQL and Redis, beside real workers and schedulers: no API runs at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy.ext.asyncio import create_async_engine

from taskmill import TaskFailed, submit_in
from tests.e2e.kit import Site
from tests.e2e.typed import Line, Receipt, app, make_receipt, make_two
from tests.support import RedisServer

LINES = [Line("pen", 1.25), Line("ink", 2.5)]


@pytest.mark.parametrize("sql_engine", ["mysql"], indirect=True)
async def test_a_program_beside_the_workers(
    distributed: Site, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Typed results come back; a failure that is not in retry_on ends at once; handlers submit further tasks; a task in
    the program's own transaction runs when that is committed; Redis may go away in between."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", distributed.url)
    monkeypatch.setenv("REDIS_URL", private_redis.url)
    for name in ("TASKMILL_API_URL", "TASKMILL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    distributed.start("worker-1", TASKMILL_APP="tests.e2e.typed:app")
    distributed.start("scheduler-1")
    await distributed.ready()

    task = await make_receipt.submit(order=7, lines=LINES)
    assert await task.wait(timeout=30) == Receipt(7, 3.75)
    with pytest.raises(TaskFailed, match="ValueError: order 8 is empty"):
        await (await make_receipt.submit(order=8, lines=[])).wait(timeout=30)
    for child in await (await make_two.submit(first=1)).wait(timeout=30):
        assert (await make_receipt.submitted(child).wait(timeout=30)).total == 1.5

    private_redis.close()
    assert await (await make_receipt.submit(order=9, lines=LINES)).wait(timeout=30) == Receipt(9, 3.75)

    engine = create_async_engine(distributed.url.replace("mysql://", "mysql+asyncmy://"))
    async with engine.connect() as connection:
        kept = await submit_in(connection, make_receipt, order=10, lines=LINES)
        later = await make_receipt.options(delay=timedelta(seconds=0.5)).submit_in(
            connection, order=11, lines=LINES
        )
        await connection.commit()
    assert await kept.wait(timeout=30) == Receipt(10, 3.75)
    assert (await later.wait(timeout=30)).order == 11
    await engine.dispose()
    await app.close()


@pytest.fixture(autouse=True)
def structlog_as_it_was() -> Iterator[None]:
    """A submit by the settings hands our lines to `logging`."""
    configured = structlog.is_configured()
    yield
    if not configured:
        structlog.reset_defaults()
