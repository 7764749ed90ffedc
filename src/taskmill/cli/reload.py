"""`--reload`: runs the same command without it as a child, and restarts it when a source file changes.

A parent that only watches survives what a process cannot do for itself: a child that does not start because of a
mistake in the source is started again when the source changes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import structlog

INTERVAL = 0.5
"""Seconds between two looks."""
FILES_LIMIT = 5000
ENDINGS = (".py", ".lua", ".sql")
GRACE = 10.0
"""Seconds for the child to stop, then to stop without waiting for handlers; then it is killed."""

log = structlog.get_logger(__name__)


def watched_folders(app_name: str) -> list[Path]:
    """The folder of the app's top package or module, and of Taskmill itself when it runs from a clone."""
    names = {app_name.partition(":")[0].partition(".")[0], "taskmill"}
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    folders = set()
    for name in names:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            folders.add(Path.cwd())  # it may be written yet
        elif "site-packages" not in Path(spec.origin).parts:
            folders.add(Path(spec.origin).parent)
    return sorted(folders)


def sources(folders: Sequence[Path]) -> dict[str, int]:
    """Source file → time of its last change; at most FILES_LIMIT, hidden folders and virtual environments left out."""
    found: dict[str, int] = {}
    for folder in folders:
        for path, changed in _walk(str(folder)):
            found[path] = changed
            if len(found) >= FILES_LIMIT:
                return found
    env_file = Path(".env")
    if env_file.is_file():
        found[str(env_file)] = env_file.stat().st_mtime_ns
    return found


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith(".") and entry.name not in ("__pycache__", "node_modules"):
                    yield from _walk(entry.path)
            elif entry.name.endswith(ENDINGS):
                yield entry.path, entry.stat().st_mtime_ns
        except OSError:
            continue  # gone between the two looks: the next one sees it


class Reloader:
    """Runs `command` until a signal. Its exit status is the child's last."""

    def __init__(self, command: Sequence[str], folders: Sequence[Path]) -> None:
        self.command = list(command)
        self.folders = list(folders)
        self._child: subprocess.Popen[bytes] | None = None
        self._signal = 0

    def run(self) -> int:
        """Blocks. SIGTERM and SIGINT are handed on, also a second one, and end this process after its child."""
        kept = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._watch()
        finally:
            self._end()
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _watch(self) -> int:
        seen = sources(self.folders)
        log.info("watching", folders=[str(folder) for folder in self.folders], files=len(seen))
        self._start()
        told = False
        while True:
            time.sleep(INTERVAL)
            status = self._child.poll() if self._child is not None else None
            if self._signal:
                if status is not None:
                    return max(status, 0)
                continue
            now = sources(self.folders)
            if now != seen:
                changed = min(path for path, _ in now.items() ^ seen.items())
                log.info("changed, restarting", file=changed)
                seen, told = now, False
                self._end()
                self._start()
            elif status is not None and not told:
                log.warning("ended, waiting for a change", status=status)
                told = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _start(self) -> None:
        # A group of its own: Ctrl-C reaches it through us, once, whoever sent it.
        self._child = subprocess.Popen(
            self.command,
            process_group=0,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 (this process has no other threads)
        )

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for _ in range(2):
            if child.poll() is not None:
                return
            child.terminate()
            try:
                child.wait(GRACE)
                return
            except subprocess.TimeoutExpired:
                continue
        child.kill()
        child.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """For a child, between fork and exec: it ends when this process is killed, where the system can do that."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
