"""What a check needs to run a Taskmill of several processes by hand: each with a log, a database and keys of their own."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncmy
import httpx2
from redis import Redis

from deploy.check.command import end
from deploy.check.stage import Broken
from taskmill.settings import setting_names

STARTED_WITHIN: Final = 60.0
STOPPED_WITHIN: Final = 40.0


def clean_environment() -> dict[str, str]:
    """This one's without any setting of Taskmill: none of the shell that runs the check counts."""
    settings = {name for names in setting_names().values() for name in names}
    return {k: v for k, v in os.environ.items() if k not in settings and not k.startswith("TASKMILL_")}


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        end(process, STOPPED_WITHIN)


def run_to_end(environment: Mapping[str, str], folder: Path, command: str) -> None:
    log = folder / f"{command}.log"
    with started([sys.executable, "-m", "taskmill", command], dict(environment), log) as process:
        if process.wait(STARTED_WITHIN):
            raise Broken(f"taskmill {command} ended with {process.returncode}:\n{tail(log)}")


def wait(url: str, running: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    until = time.monotonic() + STARTED_WITHIN
    while not answers(url):
        for name, process in running.items():
            if process.poll() is not None or time.monotonic() > until:
                raise Broken(f"{name} is not ready:\n{tail(folder / f'{name}.log')}")
        time.sleep(0.1)


def answers(url: str) -> bool:
    with suppress(httpx2.HTTPError):
        return httpx2.get(url, trust_env=False, timeout=2).status_code < 300
    return False


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scrape_configs(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    """Of Prometheus, for processes on this machine: `worker-1` is an instance of the job taskmill-worker."""
    jobs: dict[str, list[object]] = {}
    for name, port in ports.items():
        target = {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}}
        jobs.setdefault(f"taskmill-{name.partition('-')[0]}", []).append(target)
    return [{"job_name": job, "static_configs": found} for job, found in jobs.items()]


@contextmanager
def own_database(server: str) -> Iterator[str]:
    name = f"tm_check_{secrets.token_hex(4)}"
    asyncio.run(execute(server, f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        asyncio.run(execute(server, f"DROP DATABASE {name}"))


async def execute(url: str, statement: str) -> None:
    """One statement, as an operator would: in the database that the URL names, if it names one."""
    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=parts.path.strip("/") or None,
        autocommit=True,
    )
    async with connection.cursor() as cursor:
        await cursor.execute(statement)
    await connection.ensure_closed()


@contextmanager
def own_keys(server: str) -> Iterator[str]:
    prefix = f"tmr{secrets.token_hex(4)}"
    try:
        yield prefix
    finally:
        with Redis.from_url(server) as redis:
            for pattern in (f"{{{prefix}/*", f"{prefix}*"):
                for key in redis.scan_iter(match=pattern, count=1000):
                    redis.unlink(key)
