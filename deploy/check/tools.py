"""The real programs that the checks run: `tool("promtool")`, or by hand `python -m deploy.check.tools promtool ARGUMENTS`.

Each is fetched once into the cache, see docs/howto/deploy-check.md.
Python's are pinned with hashes in requirements-tools.lock; npm's in a package-lock.json. Debian's are the newest of
their suite, as apt's signatures prove.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import venv
from pathlib import Path

from deploy.check.cache import once
from deploy.check.command import run
from deploy.check.debian import unpacked
from deploy.check.stage import ROOT, Broken

LOCK = ROOT / "requirements-tools.lock"
DEBIAN = {
    "promtool": ("sid", "promtool", "usr/bin/promtool"),
    "prometheus": ("sid", "prometheus", "usr/bin/prometheus"),
    "alertmanager": ("sid", "prometheus-alertmanager", "usr/bin/prometheus-alertmanager"),
    "amtool": ("sid", "prometheus-alertmanager", "usr/bin/amtool"),
}
"""name → suite, package, path in it. A stable Debian's Prometheus is of the line before."""


def tool(name: str) -> Path:
    """The path of a program: Debian's by the table above, else a command of the tools' environment ("python" too)."""
    if name in DEBIAN:
        suite, package, path = DEBIAN[name]
        found = unpacked(suite, package) / path
    else:
        found = environment() / "bin" / name
    if not found.exists():
        raise Broken(f"{name} is missing: {found} should be there")
    return found


def environment() -> Path:
    """A virtual environment with the packages of requirements-tools.lock, apart from the product's."""
    python = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    return once(f"{python}-{_digest(LOCK)}", _install)


def _install(place: Path) -> None:
    # symlinks: the interpreter that is asked is itself one of an environment.
    venv.create(place, with_pip=True, symlinks=True)
    python, lock = str(place / "bin" / "python"), str(LOCK)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    strict = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", lock]
    run([python, "-m", "pip", "install", *quiet, *strict])


def node_modules(folder: Path) -> Path:
    """The packages of folder/package-lock.json; their install scripts are not run."""
    if shutil.which("npm") is None:
        raise Broken("npm is missing (Debian: apt install npm)")
    lock = folder / "package-lock.json"

    def install(place: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(folder / name, place / name)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=place)

    return once(f"npm-{_digest(lock)}", install) / "node_modules"


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        program = str(tool(sys.argv[1]))
    except Broken as broken:
        raise SystemExit(str(broken)) from None
    os.execv(program, [program, *sys.argv[2:]])  # noqa: S606  # a shell would be in the way of signals
