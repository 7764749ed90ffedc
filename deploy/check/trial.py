"""The compose files run, are used, lose a worker, and are broken on purpose: `python -m deploy.check.trial FOLDER`.

It runs in a network of its own (deploy/check/compose.py), so that the ports of the files are free, and ends what it starts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Final

from deploy.check import panels, traffic
from deploy.check.engine import Docker, engine
from deploy.check.receiver import receiver
from deploy.check.stack import Stack, filled_in
from deploy.check.stage import Broken
from deploy.check.visit import visit
from taskmill import Client
from taskmill.client import NewTask

API: Final = "http://127.0.0.1:3000"
"""Of development itself, and of the proxy of production."""
PROMETHEUS: Final = "http://127.0.0.1:9090"
PROJECT: Final = "taskmill-prod"
SCRAPE_SECONDS: Final = 15
LOAD_SECONDS: Final = 90
LOST_TASKS: Final = 150
"""That are there when a worker is killed; both have a dozen seconds to do with them."""
PATIENCE_SECONDS: Final = 120.0
LEFT_OUT: Final = """
services:
  grafana: !reset null
"""
HANDLERS: Final = """
services:
  worker:
    environment:
      TASKMILL_APP: workshop:app
      TASKMILL_QUEUES: default,media,bulk
      PYTHONPATH: /handlers
    volumes:
      - ./deploy/check/workshop.py:/handlers/workshop.py:ro
"""
NEVER_HEALTHY: Final = """
services:
  redis:
    healthcheck: {test: [CMD, "false"], interval: 1s, retries: 3}
"""


@dataclass(frozen=True)
class Trial:
    docker: Docker
    folder: Path

    def stack(self, file: str, **overrides: str) -> Stack:
        """With `overrides`, name → text, written beside the file as a person would."""
        names = [f"override-{name}.yml" for name in overrides]
        for name, text in zip(names, overrides.values(), strict=True):
            (self.folder / name).write_text(text, encoding="utf-8")
        return Stack(self.docker, self.folder, (file, *names))

    def run(self) -> None:
        with step("development: up, and the documents of the specification"):
            self.development()
        with step("planted: a health check that cannot pass"):
            self.unhealthy()
        with step("production"):
            self.production()
        with step("planted: another password than MySQL has"):
            self.wrong_password()

    def development(self) -> None:
        with self.stack("docker-compose.yml", left_out=LEFT_OUT).up():
            asyncio.run(visit(API))

    def unhealthy(self) -> None:
        stack = self.stack("docker-compose.yml", unhealthy=NEVER_HEALTHY)
        with caught("redis", "unhealthy"), stack.up("redis"):
            pass

    def production(self) -> None:
        self.fill_in()
        stack = self.stack("docker-compose.prod.yml", left_out=LEFT_OUT, handlers=HANDLERS)
        with stack.up():
            with step("the documents through the proxy"):
                asyncio.run(visit(API))
            load = Thread(target=_load, daemon=True)
            load.start()
            with step("a worker killed, nothing lost"):
                asyncio.run(self.kill_a_worker(stack))
            with step("every panel has a value"):
                load.join(2 * LOAD_SECONDS)
                panels.check(PROMETHEUS, window=LOAD_SECONDS, scrape=SCRAPE_SECONDS)
            with step("no worker: the alert reaches a receiver"):
                self.alert(stack)

    def fill_in(self) -> None:
        """An .env.prod, with passwords that nobody had before."""
        example = (self.folder / ".env.example").read_text(encoding="utf-8")
        (self.folder / ".env.prod").write_text(filled_in(example), encoding="utf-8")

    def alert(self, stack: Stack) -> None:
        """As the rule says, after a minute without one; Alertmanager reads the address when it sends."""
        network = f"{PROJECT}_monitoring"
        gateway = self.docker(
            "network", "inspect", "--format={{(index .IPAM.Config 0).Gateway}}", network
        ).strip()
        with receiver(gateway) as got:
            (self.folder / "deploy/alertmanager/webhook-url").write_text(got.url, encoding="utf-8")
            stack("stop", "worker")
            got.wait("TaskmillJobDown", {"job": "taskmill-worker"})

    async def kill_a_worker(self, stack: Stack) -> None:
        async with Client(API) as client:
            await client.register(f"{secrets.token_hex(4)}@example.com", secrets.token_urlsafe(18), "Trial")
            task = NewTask(title="lost?", type="catalog", priority="CRITICAL")  # the load waits for them
            await client.create_tasks([task] * LOST_TASKS)
            await _completed(client, LOST_TASKS // 10)
            killed = stack.containers("worker")[0]
            os.kill(stack.pid(killed), signal.SIGKILL)
            await _completed(client, LOST_TASKS)
        if stack.pid(killed) == 0:
            raise Broken("the worker that was killed was not started again")

    def wrong_password(self) -> None:
        """The volume of MySQL is there from before: it keeps the password that it was made with."""
        self.fill_in()
        stack = self.stack("docker-compose.prod.yml", left_out=LEFT_OUT)
        with caught("migrate", "Access denied"), stack.up():
            pass


async def _completed(client: Client, count: int) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while (stats := await client.stats()).completed < count:
        if time.monotonic() > until:
            raise Broken(f"{count} tasks, of which some are lost: {stats}")
        await asyncio.sleep(0.2)


def _load() -> None:
    asyncio.run(traffic.drive(API, LOAD_SECONDS, traffic.WORKSHOP))


@contextmanager
def caught(*words: str) -> Iterator[None]:
    """What was planted must be complained of in these words."""
    try:
        yield
    except Broken as broken:
        if all(word in str(broken) for word in words):
            return
        raise Broken(f"planted: expected a complaint with {' and '.join(words)}, got: {broken}") from None
    raise Broken(f"planted: expected a complaint with {' and '.join(words)}, and all was well")


@contextmanager
def step(what: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    except Broken:
        print(f"FAIL {what} ({time.monotonic() - started:.0f} s)", flush=True)
        raise
    print(f"ok   {what} ({time.monotonic() - started:.0f} s)", flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with engine() as docker:
            Trial(docker, Path(sys.argv[1])).run()
    except Broken as broken:
        print(broken, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
