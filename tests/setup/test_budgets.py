"""Budgets to notice, not to game: a file of 400 lines, a function of 60, 8 parameters of a constructor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


def over_budget(source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > FILE_LINES:
        yield f"{lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{node.name} (line {node.lineno}) has {length} lines"
            parameters = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
            if node.name == "__init__" and parameters > PARAMETERS:
                yield f"__init__ (line {node.lineno}) takes {parameters} parameters"


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_source_keeps_to_the_budgets(path: Path) -> None:
    """A file that outgrows its budget is two things: part it."""
    assert list(over_budget(path.read_text(encoding="utf-8"))) == []


def test_budgets_notice() -> None:
    """Each of the three is found when it is exceeded."""
    body = "    pass\n" * (FUNCTION_LINES + 1)
    parameters = ", ".join(f"p{number}" for number in range(PARAMETERS + 1))
    source = f"def f():\n{body}class C:\n  def __init__(self, {parameters}): pass\n" + "\n" * FILE_LINES
    assert len(list(over_budget(source))) == 3
