"""A check, the errors planted to see that it catches them, and a stage: checks one after another."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".taskmill", "node_modules", "__pycache__", ".*_cache")


class Broken(Exception):
    """What a check found, or a tool that it lacks: what, where, and what to do. One to a few lines."""


@dataclass(frozen=True)
class Plant:
    """An error put into a copy of the tree: `old`, which is there once, becomes `new`."""

    path: str
    old: str
    new: str
    caught_by: str
    """Words of the complaint that it must cause."""

    def put_into(self, root: Path) -> None:
        file = root / self.path
        text = file.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise Broken(f"{self.path}: expected {self.old!r} once, to plant an error there")
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Check:
    """`run(root)` checks the tree at root and raises Broken."""

    name: str
    run: Callable[[Path], None]
    plants: tuple[Plant, ...]


def passes(checks: Iterable[Check], root: Path = ROOT) -> bool:
    """Every check, even when one fails; then its planted errors."""
    return all([_passes(check, root) for check in checks])


def _passes(check: Check, root: Path) -> bool:
    started = time.monotonic()
    try:
        check.run(root)
        for plant in check.plants:
            _catches(check, plant, root)
    except Broken as broken:
        print(f"FAIL {check.name} ({time.monotonic() - started:.1f} s)\n{broken}", flush=True)
        return False
    print(
        f"ok   {check.name}, and {len(check.plants)} planted errors ({time.monotonic() - started:.1f} s)",
        flush=True,
    )
    return True


def _catches(check: Check, plant: Plant, root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmill-planted-") as folder:
        copy = Path(folder, "tree")
        shutil.copytree(root, copy, ignore=NOT_COPIED, symlinks=True)
        plant.put_into(copy)
        try:
            check.run(copy)
        except Broken as broken:
            if plant.caught_by in str(broken):
                return
            raise Broken(
                f"planted in {plant.path}: expected a complaint with {plant.caught_by!r}, got: {broken}"
            ) from None
    raise Broken(f"planted in {plant.path}: {plant.new!r} was not caught")
