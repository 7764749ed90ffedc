"""Files of tasks: below the media folder, and nowhere else. A payload is written by a user, its file names too."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from taskmill.errors import Fail

NAME_LIMIT: Final = 255
DEPTH_LIMIT: Final = 16


def text_of(payload: Any, key: str, what: str) -> str:
    """The text under a key of the payload; Fail says what is expected there."""
    value = payload.get(key) if isinstance(payload, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise Fail(f"payload.{key}: expected {what}")
    return value


def input_file(media: Path, name: str) -> Path:
    """The path of a regular file below `media`. Fail when there is none, or the way to it leaves the folder.

    No part of the name may be a symbolic link: that is the one way out which `..` is not.
    """
    parts = name.split("/")
    bad = {"", ".", ".."}
    if (
        not 1 <= len(parts) <= DEPTH_LIMIT
        or bad.intersection(parts)
        or any(
            len(part.encode(errors="replace")) > NAME_LIMIT or "\0" in part or "\\" in part for part in parts
        )
    ):
        raise Fail(f"payload.input: expected the name of a file below media/, got {name[:100]!r}")
    path = media
    try:
        for part in parts:
            path = path / part
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                raise Fail(f"payload.input: {name[:100]!r} is or lies behind a symbolic link")
    except (OSError, UnicodeEncodeError):
        raise Fail(f"payload.input: there is no file {name[:100]!r} below media/") from None
    if not stat.S_ISREG(found.st_mode):
        raise Fail(f"payload.input: {name[:100]!r} is not a regular file")
    return path


def output_folder(media: Path, task_id: str) -> Path:
    """`results/<task id>` below `media`: a run that is repeated writes the same files again."""
    folder = media
    for part in ("results", task_id):
        folder = folder / part
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise Fail(f"media/{folder.relative_to(media)} is a symbolic link")
    return folder


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to: it becomes `path` when the block ends well. A crash leaves only a file `.part`."""
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def shown(media: Path, path: Path) -> str:
    """The name of a file as users know it."""
    return path.relative_to(media).as_posix()
