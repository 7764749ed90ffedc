"""Which metrics the code has, and which an expression of PromQL asks for: what nobody writes is answered with nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser

from deploy.check.command import run

PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}
"""Metrics that Prometheus adds by itself."""
SCRAPED = {"job", "instance"}
"""Labels that every metric of a scrape has."""
_PROBES = """
import json
from prometheus_client.samples import Sample
from taskmill.runtime.probes import Probes
probes, known = Probes(), {}
for metric in probes.registry.collect():
    for sample in metric.samples:
        known.setdefault(sample.name, sorted(sample.labels))
for metric in vars(probes).values():
    if (kind := getattr(metric, "_type", None)) is None:
        continue
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind, [""])
    for suffix in suffixes:
        known[metric._name + suffix] = [*metric._labelnames, *(["le"] if suffix == "_bucket" else [])]
print(json.dumps(known))
"""


def known(root: Path) -> dict[str, set[str]]:
    """The names of a tree's metrics, as they are scraped, and their labels."""
    said = run([sys.executable, "-c", _PROBES], env=environment(root))
    metrics: dict[str, list[str]] = json.loads(said)
    return {name: {*labels, *SCRAPED} for name, labels in metrics.items()} | PROMETHEUS


def environment(root: Path) -> dict[str, str]:
    """In which Python imports the tree's own package."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TASKMILL_")}
    return clean | {"PYTHONPATH": str(root / "src")}


@dataclass(frozen=True)
class Asked:
    """One selector: its metric, and the labels that it matches by."""

    name: str
    labels: frozenset[str]


def asked(expression: str) -> Iterator[Asked]:
    """Every selector of an expression."""
    yield from _selectors(promql_parser.parse(expression))


def grouped(expression: str) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """For each aggregation by labels: those, and the metrics that are in it."""
    for node in _nodes(promql_parser.parse(expression)):
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
            yield frozenset(modifier.labels), frozenset(found.name for found in _selectors(node.expr))


def _selectors(node: Any) -> Iterator[Asked]:
    for inner in _nodes(node):
        if isinstance(inner, promql_parser.VectorSelector):
            yield Asked(inner.name or "", frozenset(m.name for m in inner.matchers.matchers))


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (inner := getattr(node, name, None)) is not None:
            yield from _nodes(inner)
    for inner in getattr(node, "args", ()):
        yield from _nodes(inner)
