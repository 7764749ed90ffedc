"""A composition that runs: docker-compose, as a person would call it, on the engine of the check."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.check.command import attempt, last
from deploy.check.engine import Docker
from deploy.check.stage import Broken
from deploy.check.tools import tool

WAIT_SECONDS = 240
LAST_LINES = 12


@dataclass(frozen=True)
class Stack:
    docker: Docker
    folder: Path
    files: tuple[str, ...]
    """Of docker-compose; the first says where the others' paths begin."""

    def __call__(self, *words: str, timeout: float = WAIT_SECONDS + 60) -> str:
        named = [word for file in self.files for word in ("--file", file)]
        command = [str(tool("docker-compose")), "--ansi=never", "--progress=plain", *named, *words]
        # Without the files: what was planted is looked for in the complaint, and one of them may be called so.
        shown = f"docker-compose {' '.join(words)}"
        environment = self.docker.environment()
        done = attempt(command, shown, cwd=self.folder, env=environment, timeout=timeout)
        if done.returncode:
            raise Broken(f"{shown}: exit {done.returncode}\n{last(done.stdout, LAST_LINES)}")
        return done.stdout

    @contextmanager
    def up(self, *services: str) -> Iterator[None]:
        """Until all that have a health check are healthy, and what runs once has succeeded."""
        try:
            try:
                self("up", "--detach", "--wait", "--no-build", f"--wait-timeout={WAIT_SECONDS}", *services)
            except Broken as broken:
                raise Broken(f"{broken}\n{self.troubles()}") from None
            yield
        finally:
            self("down", "--timeout=20", "--remove-orphans")

    def troubles(self) -> str:
        """The last lines of each container that is not as it should be."""
        found = []
        for line in self("ps", "--all", "--format=json").splitlines():
            container = json.loads(line)
            well = (
                container["ExitCode"] == 0
                if container["State"] == "exited"
                else container["Health"] == "healthy"
            )
            if not well:
                log = self.docker.attempt("logs", f"--tail={LAST_LINES}", container["ID"]).stdout
                found.append(f"-- {container['Name']}: {container['Status']}\n{log.rstrip()}")
        return "\n".join(found)

    def containers(self, service: str) -> list[str]:
        return self("ps", "--quiet", service).split()

    def pid(self, container: str) -> int:
        return int(self.docker("inspect", "--format={{.State.Pid}}", container))


def filled_in(example: str) -> str:
    """The text of an .env.prod: .env.example with each value that it asks for made one of its own."""
    password = secrets.token_hex(24)
    values = {
        "DATABASE_URL": f"mysql://taskuser:{password}@mysql:3306/taskqueue",
        "REDIS_HOST": "redis",
        "MYSQL_PASSWORD": password,
        "MYSQL_ROOT_PASSWORD": secrets.token_hex(24),
        "JWT_SECRET": secrets.token_urlsafe(48),
        "GF_SECURITY_ADMIN_PASSWORD": secrets.token_hex(24),
    }
    lines = []
    for line in example.splitlines():
        name = line.partition("=")[0]
        lines.append(f"{name}={values.pop(name)}" if name in values else line)
    if values:
        raise Broken(f".env.example lacks {', '.join(values)}")
    return "\n".join([*lines, ""])
