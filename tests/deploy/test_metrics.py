"""Which metrics an expression asks for, and which the code has."""

from __future__ import annotations

from deploy.check.metrics import Asked, asked, grouped, known
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
