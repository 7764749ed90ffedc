"""The matrix of bad inputs is whole, and every test that it names is there."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.api import bad_input, matrix, test_documents, test_http
from tests.support import ROOT

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def names(file: str) -> set[str]:
    """`test_x` and `Class::test_x` of a file."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, FUNCTIONS)}
        elif isinstance(node, FUNCTIONS):
            found.add(node.name)
    return found


def test_every_row_is_there() -> None:
    """1 to 93, each with a test or with the reason why there is none."""
    assert set(matrix.ROWS) == set(range(1, 94))
    assert [row for row, tests in matrix.ROWS.items() if not tests and row not in matrix.OTHERWISE] == []


@pytest.mark.parametrize(
    "test", sorted({test for tests in (*matrix.ROWS.values(), matrix.ALL) for test in tests})
)
def test_what_is_named_is_there(test: str) -> None:
    """A test that was renamed or taken away is missed."""
    file, _, name = test.partition("::")
    assert name in names(file)


def test_every_row_has_its_data() -> None:
    """A row that names a test over a table of data has a line in that table."""
    tables = {
        matrix.HTTP: {row.number for row in test_http.ROWS}
        | set(range(1, 10)),  # 1 to 9 are one table, of bodies
        matrix.DOCUMENT: {case.row for case in test_documents.CASES} | {67},  # the logins of 37
        matrix.INPUT: {row.row for row in bad_input.ROWS},
    }
    missing = [
        (row, test)
        for row, tests in matrix.ROWS.items()
        for test in tests
        if test in tables and row not in tables[test]
    ]
    assert missing == []
