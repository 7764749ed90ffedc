"""A check, the errors planted to see that it catches them, and a stage: checks side by side."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_COPIED = (
    *(".git", ".venv*", "node_modules", "__pycache__", "*.pyc", ".*_cache", ".hypothesis"),
    *("dist", "build", ".coverage*", "htmlcov", "data", ".taskmill"),
    *(".env", ".env.*", "certs", "acme", "webhook-url"),
)
"""What .gitignore has: fetched, made, and of this machine."""
COPIED = {".env.example"}


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
    """`run(root)` checks the tree at root and raises Broken. It writes nothing there, and runs beside others."""

    name: str
    run: Callable[[Path], None]
    plants: tuple[Plant, ...]


def expect_none(complaints: Iterable[str]) -> None:
    """Broken with all of them, a line each."""
    if found := list(complaints):
        raise Broken("\n".join(found))


def copy_of(root: Path, place: Path) -> Path:
    """Without what is made or fetched there, and without the settings of this machine."""
    not_copied = shutil.ignore_patterns(*NOT_COPIED)

    def left_out(folder: str, names: list[str]) -> set[str]:
        return not_copied(folder, names) - COPIED

    return Path(shutil.copytree(root, place, ignore=left_out, symlinks=True))


def passes(checks: Iterable[Check], root: Path = ROOT) -> bool:
    """Every check and each of its planted errors, even when one fails; as many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(check, _submit(pool, check, root)) for check in checks]
        try:
            results = [_report(check, parts) for check, parts in jobs]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return all(results)


def _submit(pool: ThreadPoolExecutor, check: Check, root: Path) -> list[Future[float]]:
    parts = [pool.submit(_timed, check.run, root)]
    return parts + [pool.submit(_timed, _catches, check, plant, root) for plant in check.plants]


def _timed(call: Callable[..., None], *arguments: object) -> float:
    started = time.monotonic()
    call(*arguments)
    return time.monotonic() - started


def _report(check: Check, parts: list[Future[float]]) -> bool:
    """One line for a check; the first of its complaints below it."""
    try:
        seconds = sum(part.result() for part in parts)
        if not check.plants:
            raise Broken("it has no planted error: nothing shows that it catches one")
    except Broken as broken:
        print(f"FAIL {check.name}\n{broken}", flush=True)
        return False
    except Exception:  # noqa: BLE001  # the others are still worth their results
        print(f"FAIL {check.name}: it broke\n{traceback.format_exc()}", flush=True)
        return False
    print(f"ok   {check.name}; planted errors caught: {len(check.plants)} ({seconds:.1f} s)", flush=True)
    return True


def _catches(check: Check, plant: Plant, root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskmill-planted-") as folder:
        copy = copy_of(root, Path(folder, "tree"))
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
