"""A network of its own for what a check starts: loopback and no way out. What was started there ends with the `with`.

    with space("compose") as inner:
        inner.popen(["prometheus", "--web.listen-address=127.0.0.1:9090"])   # a port that no other check can take
        print(inner.run(["curl", "http://127.0.0.1:9090/-/ready"]))
        with engine(inner.path) as docker: ...

Needs root, and util-linux, which every Debian has.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from deploy.check.cache import cache
from deploy.check.command import run
from deploy.check.stage import Broken

STOP_SECONDS = 60
"""Enough for an engine to end its containers."""
# SIOCSIFFLAGS with IFF_UP | IFF_RUNNING: `ip link set lo up`, which a small machine may lack.
LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sH14x", b"lo", 0x41))
"""


@dataclass
class Space:
    path: Path
    """The file that stands for the network namespace, as `nsenter --net=` takes it."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def popen(
        self,
        command: Sequence[str],
        log: IO[bytes] | int | None = subprocess.DEVNULL,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """A process of this network; it hears when this one dies, and is ended with the `with` at the latest."""
        process = subprocess.Popen(
            self._inside(command), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self.started.append(process)
        return process

    def run(self, command: Sequence[str], timeout: float = 60) -> str:
        """What it printed; Broken when it fails."""
        return run(self._inside(command), timeout=timeout)

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={self.path}", "setpriv", "--pdeathsig=TERM", *map(str, command)]

    def members(self) -> list[int]:
        """The processes that are in this network now, whoever started them."""
        here = self.path.stat()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                its = (entry / "ns" / "net").stat()
                if (its.st_dev, its.st_ino) == (here.st_dev, here.st_ino):
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        """First what was started here, then what that has left behind."""
        for process in reversed(self.started):
            process.terminate()
        until = time.monotonic() + STOP_SECONDS
        for process in self.started:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        until = time.monotonic() + STOP_SECONDS
        while left := self.members():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > until:
                raise Broken(f"processes {left} of {self.path.name} do not end")
            time.sleep(0.02)


@contextmanager
def space(name: str) -> Iterator[Space]:
    """A new network, gone afterwards. One that a killed process left is ended first."""
    if os.geteuid() != 0:
        raise Broken("a network of its own needs root")
    folder = cache() / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    path = folder / f"{name}-{os.getpid()}"
    path.touch()
    inner = Space(path)
    try:
        run(["unshare", f"--net={path}", "true"])
        run(["nsenter", f"--net={path}", sys.executable, "-c", LOOPBACK_UP])
        yield inner
    finally:
        inner.end()
        _remove(path)


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        owner = re.fullmatch(r".+-(\d+)", path.name)
        if owner and not Path("/proc", owner[1]).exists():
            Space(path).end()
            _remove(path)


def _remove(path: Path) -> None:
    if os.path.ismount(path):
        run(["umount", str(path)])
    path.unlink(missing_ok=True)
