"""Which metrics the code has, and which an expression of PromQL asks for: what nobody writes is answered with nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from deploy.check.command import run
from deploy.check.processes import clean_environment

RULES = "deploy/prometheus/rules"
SCRAPED = {"job", "instance"}
"""Labels that every metric of a scrape has."""
PROMETHEUS = {"up": SCRAPED}
"""What Prometheus adds to a scrape."""
ALERTS = {"ALERTS": {"alertname", "alertstate", "severity"}}
"""What it tells of its rules, for dashboards alone: no rule asks for it."""
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

Rule = dict[str, Any]


def known(root: Path) -> dict[str, set[str]]:
    """The names of a tree's metrics, as they are scraped, and their labels."""
    said = run([sys.executable, "-c", _PROBES], env=environment(root))
    metrics: dict[str, list[str]] = json.loads(said)
    return {name: {*labels, *SCRAPED} for name, labels in metrics.items()} | PROMETHEUS


def environment(root: Path) -> dict[str, str]:
    """In which Python imports the tree's own package, and Taskmill has no setting."""
    return clean_environment() | {"PYTHONPATH": str(root / "src")}


def all_rules(root: Path) -> list[Rule]:
    """Every rule of Prometheus: one that records, or an alert."""
    files = (
        yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted((root / RULES).glob("*.yml"))
    )
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def recorded_names(root: Path) -> set[str]:
    """The names that rules record."""
    return {rule["record"] for rule in all_rules(root) if "record" in rule}


def unanswerable(expression: str, metrics: dict[str, set[str]], recorded: set[str]) -> Iterator[str]:
    """Why it brings nothing, or more than was meant: metrics and labels that nobody has, metrics of other programs."""
    try:
        selectors, groups = list(asked(expression)), list(grouped(expression))
    except ValueError as error:
        yield f"no PromQL: {error}"
        return
    for selector in selectors:
        if selector.name in recorded:
            continue
        if selector.name not in metrics:
            yield f"there is no metric {selector.name}"
        elif wrong := selector.labels - metrics[selector.name]:
            yield f"{selector.name} has no label {', '.join(sorted(wrong))}"
        elif "job" in metrics[selector.name] - selector.labels:
            yield f"{selector.name} is asked of all jobs: other programs have metrics of such names too"
    for labels, names in groups:
        there = {label for name in names for label in metrics.get(name, ())} | SCRAPED
        if names <= metrics.keys() and (wrong := labels - there):
            yield f"by ({', '.join(sorted(wrong))}): none of {', '.join(sorted(names))} has it"


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
