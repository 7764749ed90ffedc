"""The Lua files: headers, includes, and nothing that an engine may lack."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskmill.index import scripts
from tests.support import ROOT

NAMES = sorted(path.stem for path in scripts.FOLDER.glob("*.lua"))
FILES = sorted(scripts.FOLDER.rglob("*.lua"))


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_what_a_script_takes_and_promises(name: str) -> None:
    """KEYS, promise and what comes back stand at the top of each script."""
    text = (scripts.FOLDER / f"{name}.lua").read_text()
    header = text[: re.search(r"^(?!--)", text, re.MULTILINE).start()]  # type: ignore[union-attr]
    assert header.startswith(f"-- {name}: ")
    for word in ("KEYS", "Promise", "Returns"):
        assert f"-- {word}" in header


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_what_every_engine_has(path: Path) -> None:
    """No cmsgpack, bit, struct or cjson, no KEYS or SCAN, and numbers never through tostring."""
    code = re.sub(r"--.*", "", path.read_text())
    for word in ("cmsgpack", "bit.", "struct.", "cjson", "tostring(", "'KEYS'", "'SCAN'", "loadstring"):
        assert word not in code
    assert len(path.read_text().splitlines()) <= 150


def test_every_script_is_called() -> None:
    """No script without a caller."""
    text = (ROOT / "src/taskmill/index/index.py").read_text()
    assert [name for name in NAMES if f'"{name}"' not in text] == []


def test_every_include_is_included() -> None:
    """No include without a script."""
    whole = b"".join(scripts.load(name).source for name in NAMES)
    for path in (scripts.FOLDER / "includes").glob("*.lua"):
        assert path.read_bytes().strip() in whole


def test_an_include_comes_once(tmp_path: Path) -> None:
    """Includes may include each other: each text is there once, before its user."""
    (tmp_path / "includes").mkdir()
    (tmp_path / "includes" / "a.lua").write_text('--- @include "b"\nlocal a = b\n')
    (tmp_path / "includes" / "b.lua").write_text("local b = 1\n")
    (tmp_path / "x.lua").write_text('--- @include "a"\n--- @include "b"\nreturn a\n')
    assert scripts.load("x", tmp_path).source == b"local b = 1\nlocal a = b\nreturn a\n"


def test_a_missing_include_is_an_error(tmp_path: Path) -> None:
    """A typing error in an include is seen at load, not by the server."""
    (tmp_path / "y.lua").write_text('--- @include "nothing"\n')
    with pytest.raises(FileNotFoundError, match="nothing"):
        scripts.load("y", tmp_path)
