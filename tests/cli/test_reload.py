"""`--reload`: restarts on a change of source, survives a broken one, ends with its child."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from taskmill.cli.reload import sources, watched_folders
from tests.support import Processes, running, wait_until_sync

PARENT = """
import sys
from pathlib import Path
from taskmill.cli import reload
reload.INTERVAL, reload.GRACE = 0.05, 0.5
sys.exit(reload.Reloader([sys.executable, "child.py"], [Path(".")]).run())
"""
CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
{extra}
print("child {name}", os.getpid(), flush=True)
time.sleep(60)
"""


def write(folder: Path, name: str, extra: str = "") -> None:
    (folder / "child.py").write_text(CHILD.format(name=name, extra=extra))


def pid_of(output: str, name: str) -> int:
    return int(output.rpartition(f"child {name} ")[2].split()[0])


def test_it_restarts_on_a_change(processes: Processes, tmp_path: Path) -> None:
    """The old process ends before the new one starts; SIGTERM ends both, with status 0."""
    write(tmp_path, "one")
    parent = processes.start([sys.executable, "-c", PARENT])
    first = pid_of(parent.wait_for_output("child one "), "one")
    write(tmp_path, "two")
    second = pid_of(parent.wait_for_output("child two "), "two")
    assert not running(first)
    assert parent.stop() == 0
    assert not running(second)


def test_a_broken_source_is_waited_out(processes: Processes, tmp_path: Path) -> None:
    """A child that does not start is started again when the source changes."""
    (tmp_path / "child.py").write_text("this is no Python")
    parent = processes.start([sys.executable, "-c", PARENT])
    parent.wait_for_output("waiting for a change")
    write(tmp_path, "mended")
    parent.wait_for_output("child mended ")
    assert parent.stop() == 0


def test_a_child_that_does_not_stop_is_killed(processes: Processes, tmp_path: Path) -> None:
    """After its grace, twice."""
    write(tmp_path, "deaf", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    parent = processes.start([sys.executable, "-c", PARENT])
    parent.wait_for_output("child deaf ")
    write(tmp_path, "next")
    parent.wait_for_output("child next ")
    assert parent.stop() == 0


def test_ctrl_c_ends_it_with_the_status_of_its_child(processes: Processes, tmp_path: Path) -> None:
    """Handed on to the child once."""
    write(tmp_path, "one", "signal.signal(signal.SIGINT, lambda *_: sys.exit(5))")
    parent = processes.start([sys.executable, "-c", PARENT])
    parent.wait_for_output("child one ")
    parent.signal(signal.SIGINT)
    assert parent.wait() == 5


@pytest.mark.skipif(sys.platform != "linux", reason="needs a parent-death signal (Linux)")
def test_a_killed_parent_takes_its_child_along(processes: Processes, tmp_path: Path) -> None:
    """kill -9 of the watcher leaves nothing that holds the port and the data folder."""
    write(tmp_path, "one")
    parent = processes.start([sys.executable, "-c", PARENT])
    child = pid_of(parent.wait_for_output("child one "), "one")
    parent.kill()
    wait_until_sync(lambda: not running(child))


def test_what_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources and .env; no hidden folders, caches, virtual environments or links out."""
    monkeypatch.chdir(tmp_path)
    names = (
        "a.py",
        "p/b.py",
        "p/c.lua",
        ".git/d.py",
        "__pycache__/e.py",
        "env/pyvenv.cfg",
        "env/f.py",
        "notes.txt",
    )
    for name in (*names, ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("/")
    found = {os.path.relpath(path, tmp_path) for path in sources([tmp_path])}
    assert found == {"a.py", "p/b.py", "p/c.lua", ".env"}


def test_the_folder_of_the_app_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's folder, without importing it; the working folder when there is no such module yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "shop_of_test").mkdir()
    (tmp_path / "shop_of_test" / "__init__.py").write_text("raise SystemExit('imported')")
    folders = watched_folders("shop_of_test.jobs:app")
    assert tmp_path / "shop_of_test" in folders
    assert tmp_path in watched_folders("not_written_yet:app")
