"""The test kit itself: what it starts it ends, what it waits for comes."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys

import pytest
from sqlalchemy import Connection, text

from taskmill.sql.engine import Database
from taskmill.sql.schema import meta
from tests.databases import execute
from tests.support import (
    Processes,
    RedisServer,
    answers,
    clean_environment,
    free_port,
    running,
    wait_until,
    wait_until_sync,
)


async def test_wait_until_returns_the_first_true_value() -> None:
    """An async test needs no mark; a plain and an async condition both work."""
    values = iter([0, None, 7])
    assert await wait_until(lambda: next(values)) == 7

    async def ready() -> str:
        await asyncio.sleep(0)
        return "yes"

    assert await wait_until(ready) == "yes"


async def test_wait_until_fails_with_the_last_value() -> None:
    """What never comes is an assertion that shows the last value."""
    with pytest.raises(AssertionError, match="last value: 0"):
        await wait_until(lambda: 0, timeout=0.02)


def test_free_port_is_free() -> None:
    """A port that was handed out has no listener."""
    assert not answers(free_port())


def test_a_process_is_ended_with_its_children(processes: Processes) -> None:
    """Ending kills the group, also when the child ignores SIGTERM."""
    ignore = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.fork()"
    code = f"{ignore}; print(os.getpid()); time.sleep(60)"
    process = processes.start([sys.executable, "-c", code])
    wait_until_sync(lambda: len(process.output().split()) == 2)
    pids = [int(pid) for pid in process.output().split()]
    process.end(grace=0.1)
    wait_until_sync(lambda: not any(running(pid) for pid in pids))


def test_a_process_gets_only_the_settings_it_is_given(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PORT and TASKMILL_… of the shell stay outside; `env` goes in."""
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("TASKMILL_DATA", "elsewhere")
    assert not {"PORT", "TASKMILL_DATA"} & set(clean_environment())
    process = processes.start(
        [sys.executable, "-c", "import os; print(os.environ['PORT'])"], env={"PORT": "4000"}
    )
    assert process.wait() == 0
    assert process.output() == "4000\n"


def test_a_process_ends_with_its_own_status(processes: Processes) -> None:
    """`stop` sends SIGTERM and returns the status."""
    process = processes.start([sys.executable, "-c", "import time; print('up'); time.sleep(60)"])
    process.wait_for_output("up")
    assert process.stop() == -signal.SIGTERM


def test_each_sql_engine_gives_an_empty_database(sql_engine: str, sql_url: str) -> None:
    """The database is there, takes a table, and belongs to this test."""
    statement = "CREATE TABLE t (a INT)"
    if sql_engine == "sqlite":
        with sqlite3.connect(sql_url.removeprefix("sqlite:///")) as connection:
            connection.execute(statement)
        connection.close()
    else:
        execute(sql_url, f"USE {sql_url.rsplit('/', 1)[1]}", statement)


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_migrated_database_is_lent_empty(database: Database, turn: int) -> None:
    """What one test leaves, the next does not see."""

    def work(connection: Connection) -> int:
        found = connection.execute(text("SELECT COUNT(*) FROM meta")).scalar_one()
        connection.execute(meta.insert().values(name="left behind", value=str(turn)))
        return int(found)

    assert await database.write(work) == 0


def test_each_index_engine_answers(redis_url: str, redis_prefix: str) -> None:
    """A key below the prefix can be written and read."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{{{redis_prefix}/default}}:x", "1")
        assert client.get(f"{{{redis_prefix}/default}}:x") == b"1"


def test_a_private_server_comes_back_empty(private_redis: RedisServer) -> None:
    """kill and start: the same address, no keys."""
    import redis

    with redis.Redis.from_url(private_redis.url) as client:
        client.set("x", "1")
    private_redis.kill()
    private_redis.start()
    with redis.Redis.from_url(private_redis.url) as client:
        assert client.dbsize() == 0
