"""What Compose makes of our files: the real program resolves them, in a folder of its own so that no .env of this machine counts."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.check.stage import Broken
from deploy.check.tools import tool

DEVELOPMENT, PRODUCTION, TLS = "docker-compose.yml", "docker-compose.prod.yml", "docker-compose.tls.yml"
ENVIRONMENT = ".env.prod"


@dataclass(frozen=True)
class Composition:
    """`services` and `networks` as `docker-compose config` prints them; paths are those of the tree."""

    file: str
    root: Path
    text: str
    services: dict[str, dict[str, Any]]
    networks: dict[str, dict[str, Any]]


def composition(root: Path, *files: str, environment: str | None = None) -> Composition:
    """`environment`: the text of the .env.prod beside them, when there is to be one."""
    with _folder() as folder:
        if environment is not None:
            (folder / ENVIRONMENT).write_text(environment, encoding="utf-8")
        done = config(root, folder, *files)
        if done.returncode:
            raise Broken(f"{files[-1]}: {done.stderr.strip()}")
        found = json.loads(done.stdout.replace(f"{folder}/", f"{root}/").replace(f'"{folder}"', f'"{root}"'))
    text = (root / files[-1]).read_text(encoding="utf-8")
    return Composition(files[-1], root, text, found["services"], found["networks"])


def without_environment(root: Path, file: str) -> str:
    """What Compose says where there is no .env.prod; empty when it takes the file all the same."""
    with _folder() as folder:
        done = config(root, folder, file)
        return done.stderr if done.returncode else ""


def config(root: Path, folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    named = [word for file in files for word in ("--file", str(root / file))]
    return subprocess.run(
        [str(tool("docker-compose")), *named, f"--project-directory={folder}", "config", "--format=json"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="taskmill-compose-") as folder:
        yield Path(folder)
