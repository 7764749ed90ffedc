"""Where tools come from: once, whole or not at all, by one process at a time. apt and dpkg are stand-ins here."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from deploy.check import __main__ as command
from deploy.check import debian, tools
from deploy.check.cache import once
from deploy.check.stage import Broken, Check, Plant
from tests.support import wait_until_sync

APT = """#!/bin/sh
echo "$@" >> "$FAKE/calls"
case "$*" in
*--print-uris*)
  echo "'http://security.example/debian/dists/$CODENAME-security/main/binary-amd64/Packages.xz' x 0"
  echo "'http://mirror.example/debian/dists/$CODENAME/InRelease' x 0"
  echo "'http://mirror.example/debian/dists/$CODENAME/main/binary-amd64/Packages.xz' x 0" ;;
*" download "*) [ ! -e "$FAKE/offline" ] || { echo "no route to the mirror"; exit 100; }
  for package; do :; done
  touch "${package}_1_amd64.deb" ;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin"
touch "$3/usr/bin/promtool"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache, where apt-get writes down how it was called."""
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
        script = tmp_path / name
        script.write_text(text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("CODENAME", "bookworm")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    monkeypatch.setenv("TASKMILL_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def downloads(machine: Path) -> int:
    return (machine / "calls").read_text().count(" download ")


def test_a_tool_is_fetched_once(machine: Path) -> None:
    """The second time it is there."""
    found = [tools.tool("promtool") for _ in range(2)]
    assert found == [machine / "cache/debian/sid/promtool/usr/bin/promtool"] * 2
    assert downloads(machine) == 1


def test_a_suite_comes_from_the_mirror_of_the_machine(machine: Path) -> None:
    """Not from the mirror of its security updates; in a list that has this suite alone, signatures checked."""
    tools.tool("promtool")
    assert (machine / "cache/apt/sid/debian.sources").read_text().splitlines()[1:] == [
        "URIs: http://mirror.example/debian",
        "Suites: sid",
        "Components: main",
        f"Signed-By: {debian.KEYRING}",
    ]


def test_a_machine_without_a_mirror_is_told_so(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not Debian, or its lists are empty."""
    monkeypatch.setenv("CODENAME", "noble")
    with pytest.raises(Broken, match="no mirror of Debian bookworm"):
        tools.tool("promtool")


def test_a_half_made_download_is_never_used(machine: Path) -> None:
    """What a killed process left is made anew."""
    tool = tools.tool("promtool")
    (machine / "cache/debian/sid/promtool/.whole").unlink()
    (tool.parent / "rest of a download").touch()
    assert tools.tool("promtool") == tool
    assert [path.name for path in tool.parent.iterdir()] == ["promtool"]


def test_a_fetch_that_fails_can_be_repeated(machine: Path) -> None:
    """It says what apt said, and leaves nothing that is taken for the tool."""
    (machine / "offline").touch()
    with pytest.raises(Broken, match="no route to the mirror"):
        tools.tool("promtool")
    (machine / "offline").unlink()
    assert tools.tool("promtool").exists()


@pytest.mark.parametrize("theirs", ["writable", "linked"])
def test_a_cache_that_others_can_write_is_refused(
    theirs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root would run what somebody else has put there."""
    monkeypatch.delenv("TASKMILL_DEPLOY_CACHE", raising=False)
    (tmp_path / "writable").mkdir()
    (tmp_path / "writable").chmod(0o777)
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "linked").symlink_to(tmp_path / "own")
    monkeypatch.setattr("deploy.check.cache.DEFAULT", tmp_path / theirs)
    with pytest.raises(Broken, match="others can write there"):
        once("thing", Path.touch)
    monkeypatch.setattr("deploy.check.cache.DEFAULT", tmp_path / "own")
    assert once("thing", lambda place: None) == tmp_path / "own/thing"


def test_two_at_once_make_a_thing_once(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second says that it waits for the first."""
    made: list[Path] = []
    began, end = Event(), Event()

    def make(place: Path) -> None:
        made.append(place)
        began.set()
        assert end.wait(10)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(once, "thing", make)
        assert began.wait(10)
        second = pool.submit(once, "thing", make)
        try:
            wait_until_sync(lambda: "waiting for another" in capsys.readouterr().err)
        finally:
            end.set()
        assert first.result(10) == second.result(10) == machine / "cache/thing"
    assert len(made) == 1


def test_a_stage_fails_when_a_tool_cannot_be_had(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It never skips."""
    (machine / "offline").touch()
    check = Check("rules", lambda root: print(tools.tool("promtool")), (Plant("dev.py", "a", "b", "c"),))
    monkeypatch.setattr(command, "static_checks", lambda: [check])
    assert command.main(["static"]) == 1
    assert "FAIL rules" in capsys.readouterr().out


def test_a_program_that_no_package_has_is_missing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name."""
    monkeypatch.setitem(tools.DEBIAN, "promtool", ("sid", "promtool", "usr/bin/renamed"))
    with pytest.raises(Broken, match="promtool is missing"):
        tools.tool("promtool")
