"""A stage: what passes, and everything that must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.check import __main__ as command
from deploy.check.stage import ROOT, Broken, Check, Plant, copy_of, passes

PLANT = Plant("port", "3000", "3001", caught_by="port 3001")


def port_is_3000(root: Path) -> None:
    port = (root / "port").read_text().strip()
    if port != "3000":
        raise Broken(f"port {port}: expected 3000")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "port").write_text("3000\n")
    return tmp_path


def test_a_check_that_catches_what_is_planted_passes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how many it caught."""
    assert passes([Check("port", port_is_3000, (PLANT,))], tree)
    assert capsys.readouterr().out.startswith("ok   port; planted errors caught: 1 (")


def test_errors_are_planted_in_copies(tree: Path) -> None:
    """The tree itself stays as it is."""
    passes([Check("port", port_is_3000, (PLANT,))], tree)
    assert (tree / "port").read_text() == "3000\n"


def test_what_git_does_not_know_is_not_copied(tmp_path: Path) -> None:
    """Settings of this machine, what was made and what was fetched; but the example of a setting is."""
    for line in (ROOT / ".gitignore").read_text().splitlines():
        path = tmp_path / "tree" / line.lstrip("!/").replace("*", "x")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    copy = copy_of(tmp_path / "tree", tmp_path / "copy")
    assert [path.name for path in copy.rglob("*") if path.is_file()] == [".env.example"]


def test_what_a_check_finds_fails(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its own words."""
    (tree / "port").write_text("1")
    assert not passes([Check("port", port_is_3000, (PLANT,))], tree)
    assert "FAIL port\nport 1: expected 3000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("plants", "says"),
    [
        ((), "no planted error"),
        ((Plant("port", "3000", "3000 ", "port"),), "was not caught"),
        ((Plant("port", "3000", "3001", "another complaint"),), "expected a complaint with"),
        ((Plant("port", "0", "1", "port"),), "expected '0' once"),
        ((Plant("port", "4000", "1", "port"),), "expected '4000' once"),
    ],
)
def test_a_check_must_catch_what_is_planted(
    tree: Path, capsys: pytest.CaptureFixture[str], plants: tuple[Plant, ...], says: str
) -> None:
    """Otherwise nobody knows what it is good for."""
    assert not passes([Check("port", port_is_3000, plants)], tree)
    assert says in capsys.readouterr().out


def test_a_check_that_breaks_fails_and_the_next_one_runs(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One result for each, whatever happens."""

    def breaks(root: Path) -> None:
        raise ZeroDivisionError

    assert not passes([Check("broken", breaks, (PLANT,)), Check("port", port_is_3000, (PLANT,))], tree)
    said = capsys.readouterr().out
    assert "FAIL broken: it broke" in said
    assert "ok   port" in said


class Stages:
    """What was run, in place of running it."""

    def __init__(self, passing: bool) -> None:
        self.passing, self.ran = passing, list[str]()

    def run(self, name: str) -> bool:
        self.ran.append(name)
        return self.passing


def test_without_a_name_the_static_stage_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make deploy-check` is what CI runs."""
    stages = Stages(passing=True)
    monkeypatch.setattr(command, "run", stages.run)
    assert command.main([]) == 0
    assert stages.ran == ["static"]


def test_all_are_run_although_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command fails."""
    stages = Stages(passing=False)
    monkeypatch.setattr(command, "run", stages.run)
    assert command.main(["all"]) == 1
    assert stages.ran == ["static", "compose", "cluster", "systemd"]


def test_a_stage_that_there_is_not_is_refused() -> None:
    """It must not look as if something had been checked."""
    assert command.main(["statik"]) == 2


def test_every_topic_is_part_of_the_static_stage() -> None:
    """One whose file is not found, or that checks nothing, would be left out silently."""
    topics = {name for name, checks in command.topics().items() if checks}
    named = {"compose", "github", "grafana", "image", "kubernetes", "prometheus", "site", "systemd"}
    assert topics == named
