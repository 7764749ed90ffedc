"""What the benchmarks share: databases of their own, processes of the product, the machine in words.

Everything is made under a random name on the servers that are given, and removed at the end.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncmy
from redis.asyncio import Redis

BENCH: Final = Path(__file__).resolve().parent
SERVER_SETTINGS: Final = (
    "innodb_flush_log_at_trx_commit",
    "sync_binlog",
    "log_bin",
    "innodb_flush_method",
    "innodb_buffer_pool_size",
)


UNFINISHED: Final = "SELECT 1 FROM tasks WHERE status IN (1, 2, 3) LIMIT 1"
"""A row while a task waits or runs. One row of the index decides, so looking costs next to nothing."""
UNFOLDED: Final = "SELECT 1 FROM journal WHERE folded = 0 LIMIT 1"


async def connect(url: str, *, database: bool = True, autocommit: bool = False) -> Any:
    """A bare connection of the driver, as our pool sets its own up: READ COMMITTED, UTC, matched rows."""
    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=parts.path.strip("/") if database else None,
        charset="utf8mb4",
        connect_timeout=10,
        client_flag=2,  # CLIENT.FOUND_ROWS
        autocommit=autocommit,
    )
    async with connection.cursor() as cursor:
        await cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await cursor.execute("SET SESSION time_zone = '+00:00'")
    return connection


async def ask(connection: Any, statement: str, *values: object) -> Any:
    """The first row of an answer."""
    async with connection.cursor() as cursor:
        await cursor.execute(statement, values or None)
        return await cursor.fetchone()


@asynccontextmanager
async def own_database(url: str) -> AsyncIterator[str]:
    """The URL of an empty database on that server; dropped at the end."""
    name = f"tm_bench_{secrets.token_hex(5)}"
    connection = await connect(url, database=False)
    try:
        await ask(connection, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            await connection.ensure_closed()
            connection = await connect(url, database=False)
            await ask(connection, "SET lock_wait_timeout = 10")
            await ask(connection, f"DROP DATABASE {name}")
    finally:
        await connection.ensure_closed()


@asynccontextmanager
async def own_keys(url: str) -> AsyncIterator[str]:
    """A prefix on that Redis; every key under it is removed at the end."""
    prefix = f"tmb{secrets.token_hex(5)}"
    try:
        yield prefix
    finally:
        redis = Redis.from_url(url)
        for pattern in (f"{{{prefix}/*", f"{prefix}*"):
            async for key in redis.scan_iter(match=pattern, count=1000):
                await redis.unlink(key)
        await redis.aclose()


NO_LIMITS = {"TASKMILL_RATE_USER": "0", "TASKMILL_RATE_ANONYMOUS": "0", "TASKMILL_RATE_REGISTER": "0"}
"""One user sends all that there is."""


@contextmanager
def product(*arguments: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """One process of the product (`taskmill worker …`), ended with SIGTERM and at last SIGKILL."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TASKMILL_")}
    path = os.pathsep.join(p for p in (str(BENCH), clean.get("PYTHONPATH", "")) if p)
    process = subprocess.Popen(
        [sys.executable, "-m", "taskmill", *arguments],
        env={**clean, **NO_LIMITS, "PYTHONPATH": path, "TASKMILL_LOG_LEVEL": "warning", **environment},
        cwd=BENCH,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


async def until(
    condition: Callable[[], Awaitable[bool]], timeout: float, *, every: float, processes: tuple[Any, ...] = ()
) -> None:
    """Ask until it holds. TimeoutError after `timeout` seconds; RuntimeError when a process ends meanwhile."""
    end = time.monotonic() + timeout
    while not await condition():
        for process in processes:
            if process.poll() is not None:
                raise RuntimeError(f"a process of the product ended with {process.returncode}")
        if time.monotonic() > end:
            raise TimeoutError(f"not done after {timeout:g} s")
        await asyncio.sleep(every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def answers(port: int) -> bool:
    """Whether something takes connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def resident(pid: int) -> float:
    """MiB of memory that a process holds (Linux; 0 elsewhere)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used (Linux; 0 elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(n) for n in text.split()]


async def describe(url: str, redis_url: str | None) -> list[str]:
    """The machine and the servers, a line each."""
    lines = [
        f"date     {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine  {_cpu()}, {os.cpu_count()} cores, {_memory()}, {platform.system()} {platform.release()}",
        f"load     {', '.join(f'{x:.2f}' for x in os.getloadavg())} at the start",
        f"python   {platform.python_version()}",
    ]
    if url.startswith("sqlite"):
        import sqlite3

        lines.append(f"record   SQLite {sqlite3.sqlite_version}, WAL, synchronous = FULL")
    else:
        connection = await connect(url)
        version = (await ask(connection, "SELECT VERSION()"))[0]
        settings = []
        for name in SERVER_SETTINGS:
            row = await ask(connection, f"SHOW VARIABLES LIKE '{name}'")
            settings.append(f"{name} = {row[1]}")
        await connection.ensure_closed()
        lines.append(f"record   {version}: {', '.join(settings)}")
    if redis_url:
        redis = Redis.from_url(redis_url)
        info = await redis.info("server")
        await redis.aclose()
        lines.append(f"index    {info.get('server_name', 'redis')} {info['redis_version']}")
    return lines


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "memory unknown"


def middle(values: list[float]) -> float:
    return median(values) if values else float("nan")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def run(work: Any) -> Any:
    """On uvloop where there is one, as the product runs. SIGTERM is as Ctrl-C: what was started is ended."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)
