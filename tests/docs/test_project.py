"""CONTRIBUTING.md and SECURITY.md name files and tests: all of them are there."""

from __future__ import annotations

import pytest

from tests.docs.named import TEST, assert_test, named
from tests.support import ROOT

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
FOUND = {page: named(page) for page in PAGES}
FILES = sorted({path for files, _ in FOUND.values() for path in files})
TESTS = sorted({test for _, tests in FOUND.values() for test in tests})
FOLDERS = ("", "src/taskmill/")
"""Both pages say where they name files of the package from: its folder."""
EXAMPLES = {"tasks/expedite.py"}


@pytest.mark.parametrize("path", [path for path in FILES if path not in EXAMPLES])
def test_files(path: str) -> None:
    """A file or folder that they name is there, in the repository or in the package."""
    assert any((ROOT / folder / path).exists() for folder in FOLDERS)


@pytest.mark.parametrize(("path", "test"), TESTS)
def test_proofs(path: str, test: str) -> None:
    """A test that they name is there."""
    assert_test(path, test)


def test_all_that_is_named_was_found() -> None:
    """No proof escapes by the way in which it is written."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert text.count("::test_") == len(TEST.findall(text))
