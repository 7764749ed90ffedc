"""A network of its own: nothing gets out, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.check.space import Space, space
from deploy.check.stage import Broken
from tests.support import ROOT, running, wait_until_sync

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="a network namespace needs root on Linux"
)
FAMILY = ["sh", "-c", "sleep 600 & exec sleep 600"]
HOLDER = f"""
from deploy.check.space import space
with space("held") as inner:
    inner.popen({FAMILY!r})
    print(inner.path, flush=True)
    inner.popen(["sleep", "600"]).wait()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TASKMILL_DEPLOY_CACHE", str(tmp_path))
    yield tmp_path
    for left in (tmp_path / "networks").glob("*"):  # of a test that failed
        Space(left).end()
        subprocess.run(["umount", left], check=False)


def family(inner: Space) -> list[int]:
    """A process and its child, once both are there."""
    inner.popen(FAMILY)
    return wait_until_sync(lambda: pids if len(pids := inner.members()) == 2 else [])


def gone(pids: list[int]) -> bool:
    return not any(map(running, pids))


def test_there_is_loopback_and_no_way_out() -> None:
    """Not even a route."""
    with space("try") as inner:
        assert [
            line.split(":")[0].strip() for line in inner.run(["cat", "/proc/net/dev"]).splitlines()[2:]
        ] == ["lo"]
        assert len(inner.run(["cat", "/proc/net/route"]).splitlines()) == 1
        inner.run([sys.executable, "-c", "import socket; socket.create_server(('127.0.0.1', 80))"])


def test_what_was_started_ends_with_its_children(cache: Path) -> None:
    """Also those that it did not wait for; and the network is gone."""
    with space("try") as inner:
        pids = family(inner)
    assert gone(pids)
    assert list((cache / "networks").iterdir()) == []


def test_it_ends_when_the_check_fails() -> None:
    """The failure comes through."""
    pids: list[int] = []

    def check() -> None:
        with space("try") as inner:
            pids.extend(family(inner))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check()
    assert len(pids) == 2
    assert gone(pids)


def test_a_command_that_fails_is_told_with_its_words() -> None:
    """As every tool is."""
    with space("try") as inner, pytest.raises(Broken, match="no such thing"):
        inner.run(["sh", "-c", "echo no such thing; exit 3"])


@pytest.fixture
def holder(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLDER], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def members_of(holder: subprocess.Popen[str]) -> list[int]:
    assert holder.stdout is not None
    inner = Space(Path(holder.stdout.readline().strip()))
    return wait_until_sync(lambda: pids if len(pids := inner.members()) == 3 else [])


def test_an_interrupt_ends_it(holder: subprocess.Popen[str], cache: Path) -> None:
    """Ctrl-C in the middle."""
    with holder:
        pids = members_of(holder)
        holder.send_signal(signal.SIGINT)
        holder.wait(20)
    assert gone(pids)
    assert list((cache / "networks").iterdir()) == []


def test_what_a_killed_check_left_is_ended_by_the_next(holder: subprocess.Popen[str], cache: Path) -> None:
    """Nothing else knows of it."""
    with holder:
        pids = members_of(holder)
        holder.kill()
    with space("next"):
        assert gone(pids)
    assert list((cache / "networks").iterdir()) == []
