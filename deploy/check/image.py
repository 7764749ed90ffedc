"""The image: it is built from the Dockerfile as it is, on a stand-in for its base, and its services run as they will.

No container here has a network but loopback; the services share that of their database.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

from deploy.check import stage
from deploy.check.engine import Docker
from deploy.check.stage import Broken, Check, Plant, copy_of
from deploy.check.standins import standins
from scripts import sbom

BASE: Final = "python:3.13-slim-trixie"
MYSQL: Final = "mysql:9.7"
REDIS: Final = "redis:8.0"
TAGS: Final = ("taskmill:dev", "taskmill:prod")
"""As the compose files name it."""
MEGABYTES: Final = 250
NOTICES: Final = "/app/THIRD_PARTY.txt"
SECONDS: Final = 150
"""For a service to be healthy, and for a server to answer."""
INSTALLED: Final = "from importlib.metadata import distributions as d; print(*(each.name for each in d()))"
BURIED_SECONDS: Final = 15
# As in production: nothing of the image can be written, and no right be gained.
LOCKED: Final = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
# Asked each second, and with passwords that cost little.
QUICK: Final = ("--health-interval=1s", "--env=TASKMILL_BCRYPT_ROUNDS=4")


def check(docker: Docker, root: Path) -> None:
    """Leaves the image under the names that the compose files give it."""
    standins(docker, BASE, MYSQL, REDIS)
    checks = (
        Check("image: what is in it", partial(contents, docker), CONTENTS),
        Check("image: its layers", partial(layers, docker), LAYERS),
        Check("image: all in one, on a read-only root", partial(embedded, docker), EMBEDDED),
        Check("image: each service", partial(services, docker), SERVICES),
    )
    if not stage.passes(checks, root):
        raise Broken("the image does not hold what it promises, see above")
    image = build(docker, root)
    for tag in TAGS:
        docker("tag", image, tag)
    docker("image", "prune", "--force")
    docker("builder", "prune", "--force", "--keep-storage=2GB")


def build(docker: Docker, root: Path, *options: str) -> str:
    """The id of what the Dockerfile makes."""
    return docker("build", "--network=host", "--quiet", *options, str(root)).split()[-1]


# -- what is in it ---------------------------------------------------------------------------------------


def contents(docker: Docker, root: Path) -> None:
    """Small, not root, with the packages that the SBOM names, no others, and the licence of each."""
    image = build(docker, root)
    about: dict[str, Any] = json.loads(docker("image", "inspect", image))[0]
    user = about["Config"]["User"].partition(":")[0]
    if not user.isdecimal() or user == "0":
        raise Broken(f"the image runs as {user or 'root'}: expected a number other than 0 in USER")
    inside = ("run", "--rm", "--network=none", *LOCKED, "--entrypoint")
    python = "/opt/taskmill/bin/python"
    names = {str(canonicalize_name(name)) for name in docker(*inside, python, image, "-c", INSTALLED).split()}
    told = {each.name for each in sbom.locked()} | {"taskmill"}
    if names != told:
        raise Broken(f"image and SBOM differ in {', '.join(sorted(names ^ told))}")
    notices = docker(*inside, "cat", image, NOTICES).lower().replace("_", "-")
    if absent := [each.name for each in sbom.locked() if f"\n{each.name} {each.version}: " not in notices]:
        raise Broken(f"{NOTICES} has no licence of {', '.join(absent)}")
    if (size := about["Size"] / 1e6) >= MEGABYTES:
        raise Broken(f"the image has {size:.0f} MB, expected less than {MEGABYTES}: see docker history")


CONTENTS = (
    Plant("Dockerfile", "USER 10001:10001", "USER root", "runs as root"),
    Plant(
        "Dockerfile",
        "WORKDIR /app",
        "RUN rm -r /opt/taskmill/lib/python*/site-packages/rich_rst-*\nWORKDIR /app",
        "differ in rich-rst",
    ),
    Plant(
        "Dockerfile",
        "RUN /opt/taskmill/bin/python scripts",
        "RUN python scripts",
        "has no licence of alembic",
    ),
)


# -- its layers ------------------------------------------------------------------------------------------


def layers(docker: Docker, root: Path) -> None:
    """A change of the sources makes small layers: the packages stay what they are."""
    before = build(docker, root, "--target=packages")
    with tempfile.TemporaryDirectory(prefix="taskmill-changed-") as folder:
        tree = copy_of(root, Path(folder, "tree"))
        (tree / "src/taskmill/changed.py").touch()
        (tree / "README.md").write_text("# Changed\n", encoding="utf-8")
        after = build(docker, tree, "--target=packages")
    if before != after:
        raise Broken("Dockerfile: the packages are installed again when only the sources have changed")


LAYERS = (
    Plant(
        "Dockerfile",
        "FROM packages AS project",
        "COPY README.md ./\nFROM packages AS project",
        "installed again",
    ),
)


# -- all in one ------------------------------------------------------------------------------------------


def embedded(docker: Docker, root: Path) -> None:
    """With nothing set it works, is healthy, and ends well when it is told to."""
    with container(docker, "--network=none", *LOCKED, *QUICK, build(docker, root), "up") as up:
        wait_until_healthy(docker, up)
        docker("exec", up, "taskmill", "load-test", "--tasks=20", "--concurrency=4")
        _buries(docker, up)
        stop(docker, up)


def _buries(docker: Docker, service: str) -> None:
    """What a program of a handler leaves behind ends as a child of the first process: it must not stay as a zombie."""
    docker("exec", service, "sh", "-c", "sleep 0.1 & exit 0")
    until = time.monotonic() + BURIED_SECONDS
    while docker.attempt("exec", service, "sh", "-c", "grep -ls '(sleep)' /proc/[0-9]*/stat").stdout.strip():
        if time.monotonic() > until:
            raise Broken("a program that was left behind stays as a zombie: expected an init in ENTRYPOINT")
        time.sleep(0.3)


EMBEDDED = (
    Plant("Dockerfile", '"tini", "--", ', "", "as a zombie"),
    Plant("Dockerfile", "--owner=10001", "--owner=0", "expected healthy"),
    Plant("Dockerfile", 'CMD ["taskmill", "probe"]', 'CMD ["taskmill", "prove"]', "expected healthy"),
    Plant(
        "Dockerfile", 'ENTRYPOINT ["tini", "--", "taskmill"]', "ENTRYPOINT taskmill up & wait", "expected 0"
    ),
)


# -- each service ----------------------------------------------------------------------------------------


def services(docker: Docker, root: Path) -> None:
    """Migrate, api, worker and scheduler on MySQL and Redis, in production."""
    image = build(docker, root)
    password = secrets.token_hex(16)
    server = {
        "MYSQL_DATABASE": "taskqueue",
        "MYSQL_USER": "taskuser",
        "MYSQL_PASSWORD": password,
        "MYSQL_ROOT_PASSWORD": secrets.token_hex(16),
    }
    settings = {
        "APP_ENV": "production",
        "JWT_SECRET": secrets.token_hex(32),
        "DATABASE_URL": f"mysql://taskuser:{password}@127.0.0.1:3306/taskqueue",
        "REDIS_HOST": "127.0.0.1",
        "TASKMILL_APP": "taskmill.handlers:app",
    }
    with (
        container(docker, "--network=none", *environment(server), MYSQL, "mysqld") as mysql,
        container(docker, f"--network=container:{mysql}", REDIS) as redis,
    ):
        wait_until_answers(docker, mysql, "mysqladmin", "ping", "--host=127.0.0.1", "--silent")
        wait_until_answers(docker, redis, "redis-cli", "ping")
        ours = [f"--network=container:{mysql}", *LOCKED, *environment(settings)]
        docker("run", "--rm", *ours, image, "migrate")
        run_services(docker, [*ours, *QUICK], image)


def run_services(docker: Docker, options: list[str], image: str) -> None:
    """In one network, so each needs a port of its own for its probes; the api has none but its PORT."""
    port = "--env=TASKMILL_METRICS_PORT={}".format
    with (
        container(docker, *options, port(0), image, "api") as api,
        container(docker, *options, port(9464), image, "worker") as worker,
        container(docker, *options, port(9465), image, "scheduler") as scheduler,
    ):
        running = (api, worker, scheduler)
        for service in running:
            wait_until_healthy(docker, service)
            docker("exec", service, "taskmill", "probe", "ready")
        docker("exec", api, "taskmill", "load-test", "--tasks=40", "--concurrency=4")
        for service in reversed(running):
            stop(docker, service)


SERVICES = (
    Plant(
        "src/taskmill/cli/commands.py", "compose.scheduler(settings)", "compose.migrate(settings)", "expected"
    ),
)


# -- what they share -------------------------------------------------------------------------------------


@contextmanager
def container(docker: Docker, *words: str) -> Iterator[str]:
    """The id of one that runs."""
    made = docker("run", "--detach", *words).split()[-1]
    try:
        yield made
    finally:
        docker.attempt("rm", "--force", "--volumes", made)


def environment(variables: dict[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in variables.items()]


def wait_until_healthy(docker: Docker, service: str) -> None:
    until = time.monotonic() + SECONDS
    while (
        state := docker("inspect", "--format={{.State.Status}} {{.State.Health.Status}}", service).strip()
    ) != ("running healthy"):
        if state != "running starting" or time.monotonic() > until:
            raise Broken(f"a service is {state}, expected healthy: {last_words(docker, service)}")
        time.sleep(0.3)


def wait_until_answers(docker: Docker, server: str, *question: str) -> None:
    until = time.monotonic() + SECONDS
    while docker.attempt("exec", server, *question).returncode:
        running = docker("inspect", "--format={{.State.Running}}", server).strip() == "true"
        if not running or time.monotonic() > until:
            raise Broken(f"{question[0]}: no answer; {last_words(docker, server)}")
        time.sleep(0.3)


def stop(docker: Docker, service: str) -> None:
    docker("stop", "--time=30", service)
    status = docker("inspect", "--format={{.State.ExitCode}}", service).strip()
    if status != "0":
        raise Broken(
            f"a service that was stopped ended with {status}, expected 0: {last_words(docker, service)}"
        )


def last_words(docker: Docker, service: str) -> str:
    return docker.attempt("logs", "--tail=5", service).stdout.strip()
