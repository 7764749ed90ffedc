"""Stands in for `make`, `taskmill` and `node` while the shell blocks of a page run: what would run until Ctrl-C is started in the
background, and the block goes on when it is ready. All else is the real program; a load test makes fewer tasks."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

SERVICES = {"up", "api", "worker", "scheduler"}
READY = {"worker": '"event":"worker"', "scheduler": '"event":"scheduler"', "node": '"event":"ready"'}
PATIENCE = 60.0


def main() -> int:
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if program == "make":
        target, *rest = arguments
        if target == "test":
            return 0  # this is the test
        extra = next((a.removeprefix("ARGS=") for a in rest if a.startswith("ARGS=")), "")
        arguments = [{"dev": "up"}.get(target, target), *shlex.split(extra)]
    if program == "node":
        return serve("node", [os.environ["DOCS_NODE"], *arguments])
    if arguments[:1] == ["load-test"]:
        arguments = [{"1000": "200"}.get(a, a) for a in arguments]
    if not arguments or arguments[0] not in SERVICES:
        os.execv(os.environ["DOCS_TASKMILL"], [os.environ["DOCS_TASKMILL"], *arguments])
    command = [os.environ["DOCS_TASKMILL"], *(a for a in arguments if a != "--reload")]
    return serve(arguments[0], command)


def serve(service: str, command: list[str]) -> int:
    log = Path(os.environ["DOCS_LOGS"]) / f"{service}-{os.getpid()}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    with Path(os.environ["DOCS_PIDS"]).open("a") as pids:
        pids.write(f"{child.pid}\n")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if child.poll() is not None:
            sys.stderr.write(log.read_text(errors="replace"))
            return child.returncode or 1
        if ready(service, log):
            return 0
        time.sleep(0.1)
    sys.stderr.write(f"{service} is not ready:\n{log.read_text(errors='replace')}")
    return 1


def ready(service: str, log: Path) -> bool:
    if service in READY:
        return READY[service] in log.read_text(errors="replace")
    if service == "up" and '"taskmill is up"' not in log.read_text(errors="replace"):
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['PORT']}/health", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
