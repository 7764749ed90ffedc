"""docs/reference/specification.md names tests and files: all of them are there."""

from __future__ import annotations

import pytest

from tests.docs.named import TEST, assert_test, named
from tests.support import ROOT

PLACE = ROOT / "docs/reference/specification.md"
PAGE = PLACE.read_text(encoding="utf-8")
# What the table of the other stack's folders names.
THEIRS = {f"src/{name}/" for name in ("auth", "tasks", "queue", "scheduler", "metrics", "prisma", "graphql")}
FILES, TESTS = named(PLACE)

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


@pytest.mark.parametrize("path", [path for path in FILES if path not in THEIRS])
def test_files(path: str) -> None:
    """A file or folder that it names is there."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("path", "test"), TESTS)
def test_proofs(path: str, test: str) -> None:
    """A test that it names is there, under exactly that name."""
    assert_test(path, test)


def test_all_that_is_named_was_found() -> None:
    """No proof escapes by the way in which it is written."""
    assert PAGE.count("::test_") == len(TEST.findall(PAGE))
    assert len(TESTS) > 80


@pytest.mark.parametrize("promise", [*VARIABLES, *METRICS, *SECTIONS])
def test_nothing_is_left_out(promise: str) -> None:
    """Each variable and metric of the specification has its line, each section its heading."""
    assert promise in PAGE
