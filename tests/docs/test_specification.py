"""docs/reference/specification.md names tests and files: all of them are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs/reference/specification.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w./-]+/[\w./-]*|LICENSE)(?:::([\w:]+))?`", PAGE)))
# What the table of the other stack's folders names, and paths of the API.
THEIRS = {f"src/{name}/" for name in ("auth", "tasks", "queue", "scheduler", "metrics", "prisma", "graphql")}
FILES = sorted({path for path, _ in NAMED if not path.startswith("/")} - THEIRS - {"k8s/"})
TESTS = sorted((path, test) for path, test in NAMED if test)

VARIABLES = [
    f"`{name}`"
    for name in (
        "DATABASE_URL REDIS_HOST REDIS_PORT JWT_SECRET JWT_EXPIRATION PORT NODE_ENV QUEUE_CONCURRENCY MAX_RETRY_ATTEMPTS"
    ).split()
]
METRICS = [
    f"`{name}`"
    for name in (
        "tasks_created_total tasks_completed_total tasks_failed_total tasks_active queue_size task_duration_seconds"
    ).split()
]
SECTIONS = [
    f"\n## {name}"
    for name in (
        "Features Architecture Installation Usage Monitoring Testing Configuration Security Performance Development"
    ).split()
]


@cache
def defined(path: str) -> set[str]:
    """`test_name` and `TestClass::test_name` of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    inner = {f"{c.name}::{node.name}" for c in classes for node in c.body if isinstance(node, functions)}
    return inner | {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize("path", FILES)
def test_files(path: str) -> None:
    """A file or folder that it names is there."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "test"), TESTS)
def test_proofs(path: str, test: str) -> None:
    """A test that it names is there, under exactly that name."""
    assert Path(path).parts[0] == "tests"
    assert test.rpartition("::")[2].startswith("test_")
    assert test in defined(path)


def test_all_that_is_named_was_found() -> None:
    """No proof escapes by the way in which it is written."""
    assert PAGE.count("::test_") == len(re.findall(r"`[\w./-]+::(?:\w+::)?test_\w+`", PAGE))
    assert len(TESTS) > 80


@pytest.mark.parametrize("promise", [*VARIABLES, *METRICS, *SECTIONS])
def test_nothing_is_left_out(promise: str) -> None:
    """Each variable and metric of the specification has its line, each section its heading."""
    assert promise in PAGE
