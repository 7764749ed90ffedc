"""The stage `systemd`: docs/howto/systemd.md is carried out block by block in a Debian booted under its systemd, and holds.

The machine has no network: the packages that the page installs are in its root already.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

from deploy.check import stage
from deploy.check.cache import one_at_a_time
from deploy.check.command import run as command
from deploy.check.machine import Machine, base, machine
from deploy.check.stage import ROOT, Broken, Check, Plant, copy_of

PAGE: Final = "docs/howto/systemd.md"
COMMON: Final = "deploy/systemd/taskmill-.service.d/10-common.conf"
BLOCK: Final = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES: Final = ("python3-venv", "mariadb-server", "redis-server", "curl", "openssl", "iproute2")
SERVICES: Final = ("taskmill-api", "taskmill-scheduler", "taskmill-worker@1", "taskmill-worker@2")
APP: Final = '''
import os, time
from pathlib import Path
from taskmill import Context, Taskmill

app = Taskmill()


@app.task(timeout=120)
def slow(ctx: Context, seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@app.task(max_retries=0)
def look(ctx: Context) -> dict:
    """What a handler can reach that is none of its business, and what it needs."""
    reads = [path for path in ("/etc/taskmill", "/etc/shadow", "/root", "/home") if os.access(path, os.R_OK)]
    writes = []
    for folder in ("/opt/taskmill/app", "/etc", "/usr", "/var/lib", os.environ["TASKMILL_DATA"], "/tmp"):
        try:
            Path(folder, "written").write_text("x")
        except OSError:
            continue
        writes.append(folder)
    return {"reads": reads, "writes": writes, "signs": "JWT_SECRET" in os.environ, "root": os.getuid() == 0}
'''
LOOK: Final = {"reads": [], "writes": ["/var/lib/taskmill-worker", "/tmp"], "signs": False, "root": False}  # noqa: S108  # nosec B108
ASK: Final = """
import json, sys, urllib.request

def ask(query, token, **variables):
    headers = {"Content-Type": "application/json"} | ({"Authorization": "Bearer " + token} if token else {})
    body = json.dumps({"query": query, "variables": variables}).encode()
    return json.load(urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:3000/graphql", body, headers)))["data"]

given = {"email": "ops@example.com", "password": open("ops-password").read().strip()}
entered = ask("mutation($i: LoginInput!) { login(input: $i) { accessToken } }", "", i=given)
print(json.dumps(ask(sys.argv[1], entered["login"]["accessToken"])))
"""
SLOW: Final = 'mutation { createTask(input: {title: "slow", type: "slow", payload: {seconds: 20}}) { id } }'
HEALTH: Final = "curl -s http://127.0.0.1:3000/health"


def run(root: Path) -> None:
    if not stage.passes([Check("systemd: the page, carried out", carried_out, PLANTS)], root):
        raise Broken("the units or their page do not hold what they promise, see above")


def carried_out(root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmill-systemd-") as folder:
        source = copy_of(root, Path(folder, "source"))
        _build(source)
        (source / "tasks.py").write_text(APP, encoding="utf-8")
        (source / "ask.py").write_text(ASK, encoding="utf-8")
        blocks = parts(root)
        with machine(_debian(), source, f"taskmill-{secrets.token_hex(4)}") as debian:
            for heading in ("Install", "Settings and secrets", "Start"):
                _carry_out(debian, heading, blocks)
            _runs(debian)
            _confined(debian)
            _drains(debian, blocks)
            _comes_back(debian)
            _waits_for_its_database(debian)
            _carry_out(debian, "Without MySQL and Redis", blocks)
            debian.wait(HEALTH, '"kind":"sqlite"')


def parts(root: Path) -> dict[str, list[str]]:
    """Heading → its blocks of commands; a block that begins with a bracket is a part of a unit."""
    _, *sections = re.split(r"^## ", (root / PAGE).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {section.partition("\n")[0]: BLOCK.findall(section) for section in sections}
    return {
        heading: [block for block in blocks if not block.startswith("[")] for heading, blocks in found.items()
    }


def _carry_out(debian: Machine, heading: str, blocks: dict[str, list[str]]) -> None:
    for block in blocks[heading]:
        try:
            debian.sh(block)
        except Broken as broken:
            raise Broken(f"{PAGE}, {heading}: {broken}\n{_journal(debian)}") from None


def _journal(debian: Machine) -> str:
    return debian.sh("journalctl --no-pager --output=cat --lines=20 --unit='taskmill*'")


def _runs(debian: Machine) -> None:
    for service in SERVICES:
        debian.wait(f"systemctl is-active {service}", "active")
    debian.wait(HEALTH, '"status":"up"')
    debian.wait("curl -s http://127.0.0.1:9462/ready", "ready")


def _confined(debian: Machine) -> None:
    _ask(debian, 'mutation { createTask(input: {title: "look", type: "look"}) { id } }')
    found = _ended(debian, "look")["result"]
    if found != LOOK:
        raise Broken(f"a handler can do more or less than it should: {found}, expected {LOOK}")


def _drains(debian: Machine, blocks: dict[str, list[str]]) -> None:
    """An update while a task runs: it is finished, and has not begun twice."""
    *install, restart = blocks["Update"]
    _carry_out(debian, "Update", {"Update": install})
    _ask(debian, SLOW)
    debian.wait("python3 ask.py '{ tasks(limit: 1, status: PROCESSING) { title } }'", '"slow"')
    _carry_out(debian, "Update", {"Update": [restart]})
    _runs(debian)
    ended = _ended(debian, "slow")
    if (ended["status"], ended["attempts"]) != ("COMPLETED", 1):
        raise Broken(f"a restart does not wait for what runs: {ended}")


def _comes_back(debian: Machine) -> None:
    debian.sh("kill -KILL $(systemctl show --property=MainPID --value taskmill-api)")
    try:
        debian.wait("systemctl show --property=NRestarts taskmill-api", "NRestarts=1")
        debian.wait(HEALTH, '"status":"up"')
    except Broken as broken:
        raise Broken(f"an API that was killed does not come back: {broken}") from None


def _waits_for_its_database(debian: Machine) -> None:
    """All of it starts before its database does, as after a boot."""
    debian.sh(
        "systemctl stop 'taskmill*'; systemctl stop mariadb.socket mariadb; systemctl start taskmill.target"
    )
    debian.wait("systemctl show --property=NRestarts taskmill-api | grep '[1-9]'", "NRestarts")
    debian.sh("systemctl start mariadb")
    _runs(debian)


def _ask(debian: Machine, query: str) -> Any:
    return json.loads(debian.sh('python3 ask.py "$1"', query))


def _ended(debian: Machine, title: str) -> dict[str, Any]:
    """The newest task, once it has ended."""
    query = "{ tasks(limit: 1) { title status attempts result error completedAt } }"
    debian.wait(f"python3 ask.py '{query}'", '"completedAt": "')
    [task] = _ask(debian, query)["tasks"]
    if task["title"] != title:
        raise Broken(f"expected the task {title}, got {task}")
    return dict(task)


def _debian() -> Path:
    """A root with what the page installs, so that its commands find everything there."""
    root = base("taskmill", PACKAGES)
    lock = (ROOT / "requirements.lock").read_bytes()
    stamp = root / "opt/taskmill/requirements.lock"
    with one_at_a_time("machine-packages"):
        if not stamp.exists() or stamp.read_bytes() != lock:
            _install_packages(root)
            stamp.write_bytes(lock)
    return root


def _install_packages(root: Path) -> None:
    venv = root / "opt/taskmill/venv"
    shutil.rmtree(venv, ignore_errors=True)
    command(["chroot", str(root), "python3", "-m", "venv", "/opt/taskmill/venv"])
    [packages] = venv.glob("lib/python3.*/site-packages")
    version = packages.parent.name.removeprefix("python")
    uv = str(Path(sysconfig.get_path("scripts"), "uv"))
    options = ["--quiet", "--require-hashes", "--no-deps", "--python-version", version]
    command(
        [uv, "pip", "install", *options, "--target", str(packages), "-r", str(ROOT / "requirements.lock")]
    )


def _build(source: Path) -> None:
    """The wheel, as the page says it is made."""
    command([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"], cwd=source)


PLANTS: Final = (
    Plant(COMMON, "KillMode=mixed", "KillMode=mixed\nKillSignal=SIGKILL", "does not wait for what runs"),
    Plant(COMMON, "Restart=on-failure", "Restart=no", "does not come back"),
    Plant("deploy/systemd/taskmill-worker@.service", "StateDirectory=taskmill-worker\n", "", "more or less"),
)
