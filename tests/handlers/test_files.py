"""File names that a user writes: below media/, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskmill.errors import Fail
from taskmill.handlers.files import input_file, output_folder, written_whole


@pytest.fixture
def filled(media: Path, tmp_path: Path) -> Path:
    """A good file, and every way out of the folder."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("secret")
    (media / "a" / "b").mkdir(parents=True)
    (media / "a" / "b" / "ü -1.txt").write_text("good")
    (media / "link.txt").symlink_to(tmp_path / "secret.txt")
    (media / "inner.txt").symlink_to(media / "a" / "b" / "ü -1.txt")
    (media / "out").symlink_to(tmp_path / "outside")
    (media / "loop").symlink_to(media / "loop")
    os.mkfifo(media / "pipe")
    return media


def test_a_file_below_media_is_found(filled: Path) -> None:
    """In folders, with any name that is one."""
    assert input_file(filled, "a/b/ü -1.txt").read_text() == "good"


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "a/b/../../../secret.txt", "..", ".", "a/", "", "/"]
    + ["a//b", "./a", "a\0b", "..\\secret.txt", "x" * 300, "/".join("x" * 20), "\ud800", "~/x", "file:/etc/passwd"]
    + ["link.txt", "inner.txt", "out/x", "loop", "pipe", "a", "a/b", "none.txt", "a/b/ü -1.txt/x"],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_fails_for_good(name: str, filled: Path) -> None:
    """`..`, absolute paths, links at any place, folders, pipes, and names of nothing; no path of the server is told."""
    with pytest.raises(Fail, match=r"payload\.input: ") as caught:
        input_file(filled, name)
    assert str(filled) not in caught.value.message


def test_a_linked_media_folder_is_the_operators_choice(filled: Path, tmp_path: Path) -> None:
    """The folder itself may be a link: the operator made it."""
    (tmp_path / "elsewhere").symlink_to(filled)
    assert input_file(tmp_path / "elsewhere", "a/b/ü -1.txt").read_text() == "good"


def test_results_are_below_media(media: Path, tmp_path: Path) -> None:
    """A folder for each task; a link in the way is refused."""
    assert output_folder(media, "id").relative_to(media) == Path("results/id")
    (media / "results" / "other").symlink_to(tmp_path)
    with pytest.raises(Fail, match="symbolic link"):
        output_folder(media, "other")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A block that fails leaves what was there before, and no draft."""
    target = tmp_path / "x.txt"
    with written_whole(target) as draft:
        draft.write_text("first")
    with pytest.raises(ZeroDivisionError), written_whole(target) as draft:
        draft.write_text(f"second {1 // 0}")
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
