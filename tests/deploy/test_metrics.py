"""Which metrics an expression asks for, and which the code has."""

from __future__ import annotations

import pytest

from deploy.check.metrics import Asked, asked, environment, grouped, known, unanswerable
from tests.support import ROOT

EXPRESSION = (
    'sum by (job, le) (rate(a_bucket{job="x", code!="y"}[5m])) / on (job) max(b) unless absent((c{d="e"}))'
)


def test_every_selector_is_found_with_the_labels_that_it_matches() -> None:
    """In functions, aggregations, ranges, operands and parentheses."""
    assert list(asked(EXPRESSION)) == [
        Asked("a_bucket", frozenset({"job", "code"})),
        Asked("b", frozenset()),
        Asked("c", frozenset({"d"})),
    ]


def test_what_is_grouped_by_labels_is_found() -> None:
    """With the metrics that need to have them."""
    assert list(grouped(EXPRESSION)) == [(frozenset({"job", "le"}), frozenset({"a_bucket"}))]


def test_the_metrics_of_a_tree_are_known_as_they_are_scraped() -> None:
    """With suffixes, their own labels, and those of a scrape; also what has no value yet, and what Prometheus adds."""
    found = known(ROOT)
    assert found["api_request_seconds_bucket"] == {"operation", "le", "job", "instance"}
    assert found["tasks_created_total"] == {"priority", "job", "instance"}
    assert {"workers_live", "process_resident_memory_bytes", "up"} <= found.keys()
    assert "tasks_created" not in found


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ('sum by (queue) (size{job="x"})', None),
        ("recorded{anything=~'x'}", None),
        ("size{{", "no PromQL"),
        ('sizes{job="x"}', "no metric sizes"),
        ('size{job="x", color="y"}', "no label color"),
        ("size", "asked of all jobs"),
        ('sum by (color) (size{job="x"})', "by (color)"),
        ("ALERTS", "no metric ALERTS"),
    ],
)
def test_what_cannot_be_answered_is_told(expression: str, complaint: str | None) -> None:
    """A metric or a label that nobody has, and a metric that other programs have too."""
    found = list(unanswerable(expression, {"size": {"queue", "job"}}, {"recorded"}))
    assert len(found) == (complaint is not None)
    assert (complaint or "") in "".join(found)


def test_no_setting_of_the_shell_reaches_what_a_check_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would run on the database of who calls it."""
    for name in ("DATABASE_URL", "NODE_ENV", "TASKMILL_LEASE"):
        monkeypatch.setenv(name, "x")
    assert not {"DATABASE_URL", "NODE_ENV", "TASKMILL_LEASE"} & environment(ROOT).keys()
