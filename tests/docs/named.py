"""Files and tests that a page names in its text."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.support import ROOT

NAMED = re.compile(r"`([\w./-]+/[\w./-]*|LICENSE)(?:::([\w:]+))?`")
TEST = re.compile(r"`[\w./-]+::(?:\w+::)?test_\w+`")


def named(page: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The files and folders, and the tests as (file, name). What begins with / is a path of the API or a machine."""
    found = set(NAMED.findall(page.read_text(encoding="utf-8")))
    files = sorted({path for path, _ in found if not path.startswith("/")})
    return files, sorted((path, test) for path, test in found if test)


@cache
def defined(path: str) -> set[str]:
    """`test_name` and `TestClass::test_name` of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    inner = {f"{c.name}::{node.name}" for c in classes for node in c.body if isinstance(node, functions)}
    return inner | {node.name for node in tree.body if isinstance(node, functions)}


def assert_test(path: str, test: str) -> None:
    """It is there, under exactly that name."""
    assert Path(path).parts[0] == "tests"
    assert test.rpartition("::")[2].startswith("test_")
    assert test in defined(path)
