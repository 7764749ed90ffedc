"""A Taskmill of several processes under load, scraped by a real Prometheus: what panels and pictures are made from.

    with rehearsal(mysql_url, redis_url, seconds=300) as prometheus_url:
        panels.check(prometheus_url, window=300, scrape=1)

An API, three workers of unlike queues, two schedulers, in a database and under a prefix of their own. One worker is
stopped for longer than its lease, so that its runs are rescued and its late writes refused.

    python -m deploy.check.rehearsal SECONDS     with TEST_MYSQL_URL and TEST_REDIS_URL; every panel must have a value
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from deploy.check import panels
from deploy.check.processes import (
    clean_environment,
    free_port,
    own_database,
    own_keys,
    run_to_end,
    scrape_configs,
    started,
    tail,
    wait,
)
from deploy.check.stage import ROOT, Broken
from deploy.check.tools import tool

SCRAPE: Final = 1
LEASE: Final = 6
WORKERS: Final = {
    "worker-1": ("default", 10),
    "worker-2": ("default,media", 6),
    "worker-3": ("bulk,night", 3),
}
"""Name → its queues (nothing is ever put into `night`) and its slots."""


@contextmanager
def rehearsal(mysql: str, redis: str, seconds: float) -> Iterator[str]:
    """The URL of the Prometheus, after so many seconds of load, which goes on."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskmill-rehearsal-")))
        environment = _environment(stack, mysql, redis)
        run_to_end(environment, folder, "migrate")
        ports = {name: free_port() for name in ("api-1", "scheduler-1", "scheduler-2", *WORKERS)}
        running = _start(stack, environment, folder, ports)
        url = _prometheus(stack, folder, ports)
        api = f"http://127.0.0.1:{ports['api-1']}"
        for port in ports.values():
            wait(f"http://127.0.0.1:{port}/metrics", running, folder)
        load = [sys.executable, "-m", "deploy.check.traffic", api, str(10 * seconds), "workshop"]
        running["load"] = stack.enter_context(started(load, environment, folder / "load.log"))
        end = time.monotonic() + seconds
        _pause(running["worker-2"], seconds)
        time.sleep(max(0.0, end - time.monotonic()))
        for name, process in running.items():
            if process.poll() is not None:
                raise Broken(f"{name} ended with {process.returncode}:\n{tail(folder / f'{name}.log')}")
        yield url


def _pause(worker: subprocess.Popen[bytes], seconds: float) -> None:
    """Silent past its lease, somewhat after the middle: what it ran goes to others, and it finds out."""
    time.sleep(0.55 * seconds)
    worker.send_signal(signal.SIGSTOP)
    try:
        time.sleep(2 * LEASE)
    finally:
        worker.send_signal(signal.SIGCONT)


def _environment(stack: ExitStack, mysql: str, redis: str) -> dict[str, str]:
    return clean_environment() | {
        "DATABASE_URL": stack.enter_context(own_database(mysql)),
        "REDIS_URL": redis,
        "TASKMILL_INDEX_PREFIX": stack.enter_context(own_keys(redis)),
        "JWT_SECRET": secrets.token_urlsafe(48),
        "PYTHONPATH": str(ROOT),
        "TASKMILL_APP": "deploy.check.workshop:app",
        "TASKMILL_LEASE": str(LEASE),
        "TASKMILL_RESCUE": "1",
        "TASKMILL_LOG_LEVEL": "warning",
    }


def _start(
    stack: ExitStack, environment: Mapping[str, str], folder: Path, ports: Mapping[str, int]
) -> dict[str, subprocess.Popen[bytes]]:
    found = {}
    for name, port in ports.items():
        command = name.partition("-")[0]
        own = {"PORT": str(port), "TASKMILL_METRICS_PORT": str(port), "TASKMILL_WORKER_NAME": name}
        if name in WORKERS:
            queues, slots = WORKERS[name]
            own |= {"TASKMILL_QUEUES": queues, "QUEUE_CONCURRENCY": str(slots)}
        taskmill = [sys.executable, "-m", "taskmill", command]
        found[name] = stack.enter_context(started(taskmill, {**environment, **own}, folder / f"{name}.log"))
    return found


def _prometheus(stack: ExitStack, folder: Path, ports: Mapping[str, int]) -> str:
    """With our rules."""
    port = free_port()
    written = {
        "global": {"scrape_interval": f"{SCRAPE}s", "evaluation_interval": "5s"},
        "rule_files": [str(file) for file in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))],
        "scrape_configs": scrape_configs(ports),
    }
    config = folder / "prometheus.yml"
    config.write_text(json.dumps(written), encoding="utf-8")  # JSON is YAML
    command = [
        str(tool("prometheus")),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    process = stack.enter_context(started(command, dict(os.environ), log))
    url = f"http://127.0.0.1:{port}"
    wait(f"{url}/-/ready", {"prometheus": process}, folder)
    return url


def main() -> None:
    if len(sys.argv) != 2 or not {"TEST_MYSQL_URL", "TEST_REDIS_URL"} <= os.environ.keys():
        sys.exit(__doc__)
    seconds = float(sys.argv[1])
    with rehearsal(os.environ["TEST_MYSQL_URL"], os.environ["TEST_REDIS_URL"], seconds) as url:
        asked = panels.check(url, window=seconds, scrape=SCRAPE, patience=30)
    print(f"{asked} queries, and each brought a value")


if __name__ == "__main__":
    try:
        main()
    except Broken as broken:
        sys.exit(str(broken))
