"""Which way the tasks of a program go, by its settings."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy import make_url

from taskmill import Context, Taskmill
from taskmill.app.context import entered
from taskmill.client.port import ClientPort
from taskmill.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    NotFound,
    StartError,
    TaskCancelled,
    TaskFailed,
    Unavailable,
)
from taskmill.model.ids import id_text, new_id, parse_id
from taskmill.model.port import connect
from taskmill.model.state import Priority, Status
from taskmill.model.task import Ended, Outcome
from taskmill.sql import schema
from taskmill.sql.dialect import db_now
from taskmill.tasks.producer import Producer
from tests.app.test_context import Port as RunPort
from tests.support import ROOT, RedisServer, free_port
from tests.tasks.kit import World
from tests.tasks.kit import world as world  # noqa: PLC0414

servers = pytest.mark.parametrize("sql_engine", ["mariadb", "mysql"], indirect=True)
OURS = ("DATABASE_URL", "REDIS_URL", "TASKMILL_API_URL", "TASKMILL_API_KEY", "TASKMILL_SERVICE_USER")

app = Taskmill()


@app.task(priority="LOW")
async def add(ctx: Context, a: int, b: int) -> int:
    return a + b


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the machine, no `.env` of the working folder; and structlog for the next tests as it was."""
    monkeypatch.chdir(tmp_path)
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    configured = structlog.is_configured()
    yield
    if not configured:
        structlog.reset_defaults()


def test_nothing_set_says_both_ways() -> None:
    """A ConfigError at the submit, in one line."""
    with pytest.raises(ConfigError, match=r"TASKMILL_API_URL and TASKMILL_API_KEY .* or DATABASE_URL"):
        add.submit_sync(1, 2)


async def test_in_a_handler_only_the_submit_needs_no_setting() -> None:
    """Its worker takes tasks and answers no questions: who waits for another task there needs a way of its own."""
    with entered(Context(RunPort(), new_id(), 1, 1)):
        task = await add.submit(1, 2)
        with pytest.raises(ConfigError, match=r"to wait for a task, .* set TASKMILL_API_URL"):
            await task.wait(timeout=5)


def test_a_sqlite_file_has_one_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process that writes it would break the first one's promises."""
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    with pytest.raises(ConfigError, match="SQLite file, which only `taskmill up` may write"):
        connect()


def test_an_api_is_asked_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where DATABASE_URL is set."""
    monkeypatch.setenv("DATABASE_URL", "mysql://u:p@127.0.0.1:1/x")
    assert isinstance(connect(), Producer)
    monkeypatch.setenv("TASKMILL_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TASKMILL_API_KEY", "tm_abcdefgh_" + "s" * 40)
    assert isinstance(connect(), ClientPort)


def test_an_api_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said here by the setting's name, not by the API in words of HTTP."""
    monkeypatch.setenv("TASKMILL_API_URL", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="TASKMILL_API_KEY is not: `taskmill keys create`"):
        connect()


@pytest.fixture
def straight(world: World, store_url: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """A program with DATABASE_URL; its Redis is away, which stops no submit."""
    monkeypatch.setenv("DATABASE_URL", store_url)
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("TASKMILL_SERVICE_USER", "billing")
    return world


async def finish(world: World, id: str, outcome: Outcome) -> None:
    raw = parse_id(id)
    assert raw is not None
    [claimed] = (await world.take([raw])).claimed
    await world.settle((claimed, outcome))


@servers
async def test_straight_to_the_record(straight: World) -> None:
    """As the service user; `wait` brings what the handler returned."""
    task = await add.submit(a=1, b=2)
    [row] = await straight.rows()
    [user] = await straight.table(schema.users)
    assert (id_text(row.id), row.type, row.priority, row.status) == (
        task.id,
        "add",
        Priority.LOW,
        Status.QUEUED,
    )
    assert (row.user_id, user.email) == (user.id, "billing")
    assert await task.status() is Status.QUEUED
    await finish(straight, task.id, Outcome(Ended.SUCCEEDED, result="3"))
    assert await task.wait(timeout=30) == 3
    await straight.exact()
    await app.close()


@servers
async def test_how_else_it_may_end(straight: World) -> None:
    """Failed, cancelled, cancelled too late, not there."""
    failed, cancelled = await add.submit_many([{"a": 1, "b": 2}, {"a": 3, "b": 4}])
    await finish(straight, failed.id, Outcome(Ended.FAILED, message="ValueError: no luck", retry=False))
    with pytest.raises(TaskFailed, match="ValueError: no luck"):
        await failed.wait(timeout=30)
    await cancelled.cancel()
    with pytest.raises(TaskCancelled):
        await cancelled.wait(timeout=30)
    done = await add.submit(5, 6)
    await finish(straight, done.id, Outcome(Ended.SUCCEEDED, result="11"))
    with pytest.raises(Conflict):
        await done.cancel()
    for absent in (id_text(new_id()), "nothing"):
        for verb in (add.submitted(absent).status, add.submitted(absent).cancel):
            with pytest.raises(NotFound):
                await verb()
    await app.close()


@servers
def test_from_programs_without_a_loop(straight_url: str) -> None:
    """A thread of the process has the loop; what is submitted is there when the call returns."""
    task = add.submit_sync(1, 2)
    assert task.status_sync() is Status.QUEUED
    app.close_sync()


@pytest.fixture
def straight_url(store_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", store_url)
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    return store_url


ASYNC = "import asyncio\nasync def main(): print((await make_receipt.submit(1, [])).id)\nasyncio.run(main())"


@pytest.mark.parametrize("sql_engine", ["mariadb"], indirect=True)
async def test_a_program_whose_user_is_disabled_stops(
    straight: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a minute (here none)."""
    await add.submit(1, 2)
    await straight.db.write(lambda c: c.execute(sa.update(schema.users).values(disabled_at=db_now())))
    await add.submit(3, 4)
    monkeypatch.setattr("taskmill.tasks.producer.CHECK_EVERY", -1.0)
    with pytest.raises(Forbidden, match="'billing' is disabled"):
        await add.submit(5, 6)
    assert len(await straight.rows()) == 2
    await app.close()


SYNC = "print(make_receipt.submit_sync(1, []).id)"


@pytest.mark.parametrize("sql_engine", ["mariadb"], indirect=True)
@pytest.mark.parametrize(("body", "there"), [(SYNC, True), (ASYNC, False)], ids=["sync", "async"])
async def test_a_script_ends_cleanly_and_keeps_its_output(
    straight: World, private_redis: RedisServer, body: str, there: bool
) -> None:
    """What it opened is closed at its end; what we have to say (Redis is away) is for `logging`, not for its output."""
    script = f"from tests.e2e.typed import make_receipt\n{body}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | (
        {"REDIS_URL": private_redis.url} if there else {}
    )
    command = [sys.executable, "-W", "default::ResourceWarning", "-c", script]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert [parse_id(done.stdout.strip())] == [row.id for row in await straight.rows()]
    assert "Warning" not in done.stderr
    assert ("index.lost" in done.stderr) == (not there)


@pytest.mark.parametrize("sql_engine", ["mariadb"], indirect=True)
async def test_a_database_that_is_away(straight_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unavailable, and the next call tries again; one that refuses us is a StartError."""
    url = make_url(straight_url)
    away = url.set(port=free_port()).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", away)
    producer = connect()
    for _ in range(2):
        with pytest.raises(Unavailable, match="does not take the connection"):
            await producer.look(id_text(new_id()))
    await producer.close()
    monkeypatch.setenv("DATABASE_URL", url.set(password="wrong").render_as_string(hide_password=False))
    with pytest.raises(StartError, match="does not take the connection"):
        await connect().look(id_text(new_id()))


@pytest.mark.parametrize("sql_engine", ["mariadb"], indirect=True)
async def test_many_first_calls_open_it_once(straight: World) -> None:
    """Concurrent submits share the connection that the first one opens; that one may be cancelled meanwhile."""
    first = asyncio.create_task(add.submit(0, 0))
    await asyncio.sleep(0)
    first.cancel()
    tasks = await asyncio.gather(*(add.submit(n, n) for n in range(20)))
    assert len({task.id for task in tasks}) == len(await straight.rows()) == 20
    assert len(await straight.table(schema.users)) == 1
    await app.close()
