"""A Debian of its own, booted under its systemd in a container without a network, and thrown away afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deploy.check.cache import once
from deploy.check.command import run
from deploy.check.debian import bootstrap, unpacked
from deploy.check.stage import Broken

SUITE: Final = "bookworm"
BOOT: Final = 120
"""Seconds until its own services run."""
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """What runs in it; `sh` fails as the command does."""

    def __init__(self, init: int) -> None:
        self._init = init

    def sh(self, text: str, *arguments: str, timeout: float = 300) -> str:
        """Bash in /src, ended by the first command that fails; what it printed."""
        inside = [
            "nsenter",
            f"--target={self._init}",
            "--all",
            "--wdns=/src",
            "env",
            "-i",
            PATH,
            "HOME=/root",
        ]
        return run([*inside, "bash", "-euo", "pipefail", "-c", text, "bash", *arguments], timeout=timeout)

    def wait(self, text: str, expected: str, seconds: float = 180) -> str:
        """Until what `text` prints holds the words expected; Broken with what it printed last."""
        until, said = time.monotonic() + seconds, ""
        while time.monotonic() < until:
            with suppress(Broken):
                said = self.sh(text)
                if expected in said:
                    return said
            time.sleep(0.5)
        raise Broken(f"not within {seconds:.0f} s: {expected!r} from {text}; last: {said[-2000:]}")


def base(name: str, packages: tuple[str, ...]) -> Path:
    """The root of a Debian with systemd and these packages."""
    included = ("systemd", "systemd-sysv", "dbus", "procps", "util-linux", *packages)
    return once(f"machine/{SUITE}-{name}", lambda place: bootstrap(SUITE, included, place / "root")) / "root"


@contextmanager
def machine(root: Path, source: Path, name: str) -> Iterator[Machine]:
    """`source` is its /src. What it changes of its root is in memory, and gone with it."""
    tools = unpacked(SUITE, "systemd-container", "libsystemd-shared")
    library = next(tools.glob("usr/lib/*/systemd"))
    command = [
        *(
            str(tools / "usr/bin/systemd-nspawn"),
            f"--directory={root}",
            "--volatile=overlay",
            f"--machine={name}",
        ),
        *(
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--console=pipe",
            f"--bind={source}:/src",
            "--boot",
        ),
    ]
    with (source / "boot.log").open("wb") as log:
        nspawn = subprocess.Popen(
            command,
            env=os.environ | {"LD_LIBRARY_PATH": str(library)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        found = Machine(_init(nspawn, source / "boot.log"))
        found.wait("systemctl is-system-running || true", "running", BOOT)
        yield found
    finally:
        _end(nspawn)


def _init(nspawn: subprocess.Popen[bytes], log: Path) -> int:
    """Its process 1, seen from here."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    until = time.monotonic() + BOOT
    while time.monotonic() < until and nspawn.poll() is None:
        with suppress(OSError):
            for child in children.read_text(encoding="ascii").split():
                if Path(f"/proc/{child}/exe").readlink().name == "systemd":
                    return int(child)
        time.sleep(0.2)
    raise Broken(f"the machine does not boot: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    """SIGTERM ends all that runs in it."""
    nspawn.send_signal(signal.SIGTERM)
    try:
        nspawn.wait(30)
    except subprocess.TimeoutExpired:
        nspawn.kill()
        nspawn.wait(30)
