"""A Docker Engine where there is no container host: Debian's, as a process of ours, ended with the `with`.

    with engine() as docker:                          # in the machine's network: what is built can fetch
        standins(docker, "python:3.13-slim-trixie")   # deploy/check/standins.py
        docker("build", "--network=host", "--tag=taskmill:dev", str(root))
    with engine(Path("/run/netns/x")) as docker:      # in that network namespace: what runs there reaches nothing else
        docker("network", "create", "inner")
        print(docker("run", "--rm", "--network=inner", "taskmill:dev", "--version"))
        subprocess.run(["docker-compose", "up"], env=docker.environment())

`docker(*words)` is a call of the client: it returns what was printed, and raises Broken with the last words of what
failed. Containers get networks that they name (their names resolve there) or the one of the engine (`--network=host`).
Images stay in the cache; containers, networks and volumes go when the engine ends.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from deploy.check.cache import cache, one_at_a_time
from deploy.check.command import attempt, end, last, run
from deploy.check.debian import unpacked
from deploy.check.stage import Broken

SUITE = "bookworm"
# dockerd calls iptables for the names of containers only: it leads their port 53 to its own resolver.
PACKAGES = ("docker.io", "containerd", "runc", "tini", "iptables", "libip4tc2", "libip6tc2", "libxtables12")
START_SECONDS, STOP_SECONDS, CALL_SECONDS = 60, 40, 900


@dataclass(frozen=True)
class Docker:
    """The client of a running engine."""

    programs: Path
    socket: Path

    def __call__(self, *words: str, timeout: float = CALL_SECONDS) -> str:
        done = self.attempt(*words, timeout=timeout)
        if done.returncode:
            raise Broken(f"docker {' '.join(words)}: exit {done.returncode}\n{last(done.stdout, 15)}")
        return done.stdout

    def attempt(self, *words: str, timeout: float = CALL_SECONDS) -> subprocess.CompletedProcess[str]:
        """The same where a failure is an answer too: look at `returncode` and `stdout` (with stderr in it)."""
        client, shown = str(self.programs / "docker"), f"docker {' '.join(words)}"
        return attempt([client, *words], shown, env=self.environment(), timeout=timeout)

    def environment(self) -> dict[str, str]:
        """For other clients of this engine, as docker-compose: `docker` on the PATH and where it listens."""
        return os.environ | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.socket.parent / "config"),
            "DOCKER_BUILDKIT": "1",
        }


@contextmanager
def engine(network: Path | None = None, options: Sequence[str] = ()) -> Iterator[Docker]:
    """One at a time: they share a data root, so that an image is built once. `network`: a network namespace; `options`:
    more of dockerd's."""
    if os.geteuid() != 0:
        raise Broken("a Docker engine needs root")
    programs = unpacked(SUITE, *PACKAGES)
    root = cache() / "docker"
    root.mkdir(parents=True, exist_ok=True)
    with one_at_a_time("docker"), (root / "log").open("wb") as log:
        docker = Docker(programs / "usr/bin", root / "socket")
        daemon = subprocess.Popen(
            [*_command(programs, root, network), *options],
            env=os.environ | tables(programs, root / "tables"),
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_up(docker, daemon, root / "log")
            _remove_all(docker)
            yield docker
        finally:
            with suppress(Broken):  # where it did not start
                _remove_all(docker)
            end(daemon, STOP_SECONDS)
            _let_go(root)


def _command(programs: Path, root: Path, network: Path | None) -> list[str]:
    enter = [] if network is None else ["nsenter", f"--net={network}"]  # `ip netns exec` would hide cgroups
    return [
        *enter,
        "setpriv",  # it ends with this process, however that ends
        "--pdeathsig=TERM",
        str(programs / "usr/sbin/dockerd"),
        f"--data-root={root / 'data'}",
        f"--exec-root={root / 'run'}",
        f"--pidfile={root / 'pid'}",
        f"--host=unix://{root / 'socket'}",
        f"--userland-proxy-path={programs / 'usr/sbin/docker-proxy'}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--oom-score-adjust=0",  # a lower one needs a capability that a container for CI lacks
        "--exec-opt=native.cgroupdriver=cgroupfs",
    ]


def tables(programs: Path, folder: Path) -> dict[str, str]:
    """Variables for what calls iptables: in the folder, every name of the one program that it is; the other programs; libraries."""
    folder.mkdir(exist_ok=True)
    for version, use in product(("iptables", "ip6tables"), ("", "-save", "-restore")):
        link = folder / f"{version}{use}"
        link.unlink(missing_ok=True)
        link.symlink_to(programs / "usr/sbin/xtables-legacy-multi")
    libraries = next(programs.glob("usr/lib/*/xtables")).parent
    return {
        "PATH": f"{folder}:{programs / 'usr/sbin'}:{programs / 'usr/bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(libraries),
        "XTABLES_LIBDIR": str(libraries / "xtables"),
    }


def _wait_until_up(docker: Docker, daemon: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while docker.attempt("version").returncode:
        if daemon.poll() is not None or time.monotonic() > until:
            said = last(log.read_text(errors="replace"), 5)
            raise Broken(f"dockerd did not start, see {log}:\n{said}")
        time.sleep(0.2)


def _remove_all(docker: Docker) -> None:
    """Of this run, and of one that was killed."""
    if containers := docker("ps", "--all", "--quiet").split():
        docker("rm", "--force", "--volumes", *containers)
    docker("network", "prune", "--force")
    docker("volume", "prune", "--force")


def _let_go(root: Path) -> None:
    """dockerd holds on to the network that it ran in, which would outlive it."""
    for held in (root / "run/netns").glob("*"):
        if os.path.ismount(held):
            run(["umount", str(held)])
