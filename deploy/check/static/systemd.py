"""deploy/systemd: systemd's own checks of the units, and that what they say fits the program."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deploy.check.command import attempt, run
from deploy.check.stage import Broken, Check, Plant, expect_none
from taskmill.cli.commands import app
from taskmill.settings import setting_names
from taskmill.worker.options import WorkerOptions

UNITS = "deploy/systemd"
HARDENING = f"{UNITS}/taskmill-.service.d/20-hardening.conf"
COMMON = f"{UNITS}/taskmill-.service.d/10-common.conf"
WORKER = f"{UNITS}/taskmill-worker@.service"
SYSTEM = Path("/usr/lib/systemd/system")
EXPOSURE = 1.2
"""Of 10, by systemd's own measure: at most this."""
NEWER = re.compile(r"Unknown key( name)? '(RestartSteps|RestartMaxDelaySec)'")
"""What an older systemd says of these two, and leaves them out."""
OURS = re.compile(r"^(?:DATABASE_URL|REDIS_|JWT_|PORT$|QUEUE_|MAX_RETRY|NODE_ENV|APP_ENV|TASKMILL_)")


def verified(root: Path) -> None:
    """`systemd-analyze verify` has nothing to say, in a root where the program is a stub."""
    with tempfile.TemporaryDirectory(prefix="taskmill-units-") as folder:
        names = _install(root, Path(folder))
        command = [_analyze(), "verify", "--man=no", f"--root={folder}", *names]
        done = attempt(command, "systemd-analyze verify", timeout=60)
        lines = [line for line in done.stdout.splitlines() if line.strip() and not NEWER.search(line)]
        if lines:
            raise Broken("\n".join(dict.fromkeys(line.replace(folder, "") for line in lines)))


def hardened(root: Path) -> None:
    """`systemd-analyze security` sees little that a service could do."""
    with tempfile.TemporaryDirectory(prefix="taskmill-units-") as folder:
        for name in _install(root, Path(folder)):
            if name.endswith(".target"):
                continue
            said = run([_analyze(), "security", "--no-pager", "--offline=true", f"--root={folder}", name])
            found = re.search(r"exposure level for \S+: ([\d.]+)", said)
            if found is None or float(found[1]) > EXPOSURE:
                shown = found[1] if found else "none"
                raise Broken(f"{name}: exposure {shown} of 10, expected at most {EXPOSURE}: {_worst(said)}")


def fitting(root: Path) -> None:
    """Commands and settings that exist; a stop that is not cut short; the secret of tokens in the API alone."""
    files = (path for path in sorted((root / UNITS).rglob("*.*")) if path.is_file())
    expect_none(complaint for path in files for complaint in _misfits(path))


def _misfits(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    known = {name for names in setting_names().values() for name in names}
    for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE):
        for name in re.findall(r"(\w+)=", line):
            if OURS.match(name) and name not in known:
                yield f"{path.name}: {name} is not a setting"
    commands = re.findall(r"^ExecStart=\S+/taskmill (\w+)", text, re.MULTILINE)
    for command in commands:
        if command not in app:
            yield f"{path.name}: there is no command taskmill {command}"
    if "/etc/taskmill/api.env" in text and commands not in (["api"], ["up"]):
        yield f"{path.name}: api.env holds the secret of tokens, which is the API's alone"
    if commands in (["worker"], ["up"]):
        stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
        longest = WorkerOptions().longest_stop
        if stop is None or int(stop[1]) < longest:
            yield f"{path.name}: TimeoutStopSec= expected at least {longest:.0f}: a stop may take so long"


def _install(root: Path, place: Path) -> list[str]:
    """The units in a root with the targets of this machine; their names."""
    if not SYSTEM.is_dir():
        raise Broken(f"{SYSTEM} is missing (Debian: apt install systemd)")
    units, program = place / "etc/systemd/system", place / "opt/taskmill/venv/bin/taskmill"
    shutil.copytree(root / UNITS, units)
    (place / "opt/taskmill/app").mkdir(parents=True)
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    shutil.copytree(
        SYSTEM, place / SYSTEM.relative_to("/"), ignore=shutil.ignore_patterns("*.service", "*.wants")
    )
    names = sorted(path.name for path in units.glob("taskmill*") if path.is_file())
    return [name.replace("@.", "@1.") for name in names]


def _analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        raise Broken("systemd-analyze is missing (Debian: apt install systemd)")
    return found


def _worst(table: str) -> str:
    """The settings that weigh most."""
    rows = re.findall(r"^✗ (\S+).*?([\d.]+)\s*$", table, re.MULTILINE)
    return ", ".join(name for name, _ in sorted(rows, key=lambda row: -float(row[1]))[:3])


CHECKS = (
    Check(
        "systemd units, verified",
        verified,
        (
            Plant(COMMON, "RestartSec=1", "RestartSecs=1", "RestartSecs"),
            Plant(WORKER, "bin/taskmill worker", "bin/taskmil worker", "taskmil"),
            Plant(f"{UNITS}/taskmill-api.service", "Type=exec", "Type=execute", "execute"),
        ),
    ),
    Check(
        "systemd units, hardened",
        hardened,
        (
            Plant(HARDENING, "CapabilityBoundingSet=\n", "", "CapabilityBoundingSet"),
            Plant(HARDENING, "SystemCallFilter=@system-service\n", "", "SystemCallFilter"),
            Plant(HARDENING, "PrivateUsers=yes\n", "", "PrivateUsers"),
        ),
    ),
    Check(
        "systemd units, fitting the program",
        fitting,
        (
            Plant(WORKER, "TimeoutStopSec=160", "TimeoutStopSec=90", "TimeoutStopSec="),
            Plant(WORKER, "TASKMILL_APP=", "TASKMILL_APPS=", "TASKMILL_APPS is not a setting"),
            Plant(WORKER, "/etc/taskmill/worker.env", "/etc/taskmill/api.env", "which is the API's alone"),
            Plant(
                f"{UNITS}/taskmill-migrate.service", "taskmill migrate", "taskmill migration", "no command"
            ),
        ),
    ),
)
