"""The dashboards: as their code has them, as Grafana's types want them, with queries that can be answered and panels that say what they show."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import yaml
from grafana_foundation_sdk.models import units

from deploy.check.command import run
from deploy.check.metrics import ALERTS, RULES, asked, environment, known, recorded_names, unanswerable
from deploy.check.panels import DASHBOARDS, Window, boards, queries, variables
from deploy.check.stage import Broken, Check, Plant, expect_none
from deploy.check.tools import node_modules

GRAFANA: Final = "deploy/grafana"
TYPES: Final = f"{GRAFANA}/types"
NAMES: Final = ("overview", "rates", "queues", "durations", "workers", "resources")
UNITS: Final = {
    value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)
}
OWN_UNIT: Final = re.compile(r"suffix:\S+")
WAITING: Final = re.compile(r'operation!~\\?"[\w|]+\\?"')

Panel = dict[str, Any]


def drift(root: Path) -> None:
    """The JSON is what the code writes."""
    inside = environment(root) | {"PYTHONPATH": f"{root / 'src'}:{root}"}
    run([sys.executable, "-m", "deploy.grafana.source", "--check"], cwd=root, env=inside)


def types(root: Path) -> None:
    """TypeScript reads each dashboard as a value of Grafana's own types: unknown keys, values of enums, kinds of values."""
    with tempfile.TemporaryDirectory(prefix="taskmill-types-") as place:
        folder = Path(place)
        for name in ("dashboard.ts", "tsconfig.json"):
            shutil.copy(root / TYPES / name, folder)
        (folder / "node_modules").symlink_to(node_modules(root / TYPES))
        for file in sorted((root / DASHBOARDS).glob("*.json")):
            # As many lines as the JSON, so that a complaint names its line.
            head = "import type { Dashboard } from './dashboard'; export const board: Dashboard = "
            (folder / f"{file.stem}.ts").write_text(head + file.read_text(encoding="utf-8"), encoding="utf-8")
        tsc = str(folder / "node_modules/.bin/tsc")
        run([tsc, "--project", ".", "--pretty", "false"], cwd=folder)


def promql(root: Path) -> None:
    """Every query can be parsed, and asks for metrics and labels that the code, a rule or Prometheus itself has."""
    window = Window(end=0, seconds=3600)
    metrics, recorded = known(root) | ALERTS, recorded_names(root)
    found = {str(one): one.expr for one in queries(root)}
    found |= {f"variable: {query}": _matched(query) for query in variables(root)}
    found |= {
        f"{name}: alerts": board["annotations"]["list"][0]["expr"] for name, board in boards(root).items()
    }
    expect_none(
        f"{where}\n  {complaint}"
        for where, expr in found.items()
        for complaint in _unanswerable(window.put_into(expr), metrics, recorded)
    )
    _left_out_alike(root)


def _unanswerable(expr: str, metrics: dict[str, set[str]], recorded: set[str]) -> Iterator[str]:
    yield from unanswerable(expr, metrics, recorded)
    with suppress(ValueError):  # which has been told
        if "vector(" in expr and {selector.name for selector in asked(expr)} != {"ALERTS"}:
            yield "vector() hides that a metric is missing: only no alert is a 0"


def _matched(query: str) -> str:
    """What a `label_values(selector, label)` selects, grouped by the label, so that both are looked up."""
    selector, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    return f"count by ({label}) ({selector})"


def _left_out_alike(root: Path) -> None:
    """What waits for tasks is left out of the API's time here as in the rules, which are checked against the code."""
    texts = [(root / RULES / "recording.yml").read_text(encoding="utf-8")]
    texts += [file.read_text(encoding="utf-8") for file in sorted((root / DASHBOARDS).glob("*.json"))]
    found = {match.replace("\\", "") for text in texts for match in WAITING.findall(text)}
    if len(found) != 1:
        raise Broken(f"rules and dashboards leave out unlike operations: {' and '.join(sorted(found))}")


def panels(root: Path) -> None:
    """One id each, a unit that Grafana knows, a text, a legend, a place of its own; links and sources that exist."""
    every = boards(root)
    if missing := set(NAMES) ^ every.keys():
        raise Broken(f"{DASHBOARDS}: missing or too many: {', '.join(sorted(missing))}")
    expect_none(
        f"{DASHBOARDS}: the uid {uid} is there {n} times"
        for uid, n in _repeated(b["uid"] for b in every.values())
    )
    uids = {board["uid"] for board in every.values()}
    source = _source(root)
    for name, board in every.items():
        expect_none(
            f"{name}: {complaint}"
            for complaint in (*_wrong_board(board, source), *_wrong_panels(board, uids))
        )


def _source(root: Path) -> str:
    """The uid of the data source that is provisioned, and the interval that rates are made from."""
    file = f"{GRAFANA}/provisioning/datasources/prometheus.yml"
    [source] = yaml.safe_load((root / file).read_text(encoding="utf-8"))["datasources"]
    scraped = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    interval = scraped["global"]["scrape_interval"]
    if source["jsonData"]["timeInterval"] != interval:
        raise Broken(f"{file}: timeInterval is not {interval}, the scrape interval: rates would be wrong")
    uid: str = source["uid"]
    return uid


def _wrong_board(board: dict[str, Any], source: str) -> Iterator[str]:
    first = board["templating"]["list"][0]
    if first["type"] != "datasource" or first["current"]["value"] != source:
        yield f"its first variable is not the data source {source}"
    if "ALERTS" not in board["annotations"]["list"][0]["expr"]:
        yield "no alerts are drawn into it"
    if not any(link["type"] == "dashboards" and link["includeVars"] for link in board["links"]):
        yield "no links to the other dashboards"


def _wrong_panels(board: dict[str, Any], uids: set[str]) -> Iterator[str]:
    for number, n in _repeated(panel["id"] for panel in board["panels"]):
        yield f"the panel id {number} is there {n} times"
    for one, other in combinations(board["panels"], 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f"{one['title']} and {other['title']} lie on each other"
    for panel in board["panels"]:
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield f"{panel['title']} is wider than the 24 columns"
        if panel["type"] != "row":
            yield from (f"{panel['title']}: {complaint}" for complaint in _wrong_panel(panel, uids))


def _wrong_panel(panel: Panel, uids: set[str]) -> Iterator[str]:
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    if unit not in UNITS - {"none"} and not OWN_UNIT.fullmatch(unit):
        yield f"the unit {unit!r} is none of Grafana's"
    if not panel.get("description"):
        yield "no description: what does one look for?"
    for link in panel.get("links", []):
        if link["url"].split("?")[0].removeprefix("/d/") not in uids:
            yield f"a link to {link['url']}, which is none of the dashboards"
    legends = [target.get("legendFormat", "") for target in panel["targets"]]
    if panel["type"] != "table" and not all(legends):
        yield "a query without a legend: Grafana would show its text"
    for said, n in _repeated(legends):
        if said:
            yield f"{n} queries have the legend {said}"
    for override in panel["fieldConfig"]["overrides"]:
        if panel["type"] != "table" and not any(
            "{{" in said or said == override["matcher"]["options"] for said in legends
        ):
            yield f"an override for {override['matcher']['options']}, which no query is called"


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def _repeated(values: Iterable[Any]) -> list[tuple[Any, int]]:
    return [(value, n) for value, n in Counter(values).items() if n > 1]


OVERVIEW: Final = f"{DASHBOARDS}/overview.json"
CHECKS: Final = (
    Check(
        "grafana: the JSON is what the code writes",
        drift,
        (
            Plant(OVERVIEW, '"title": "Taskmill overview"', '"title": "Overview"', "overview.json"),
            Plant(f"{GRAFANA}/source/rates.py", '"Task processing rates"', '"Rates"', "rates.json"),
        ),
    ),
    Check(
        "grafana: dashboards have Grafana's types",
        types,
        (
            Plant(OVERVIEW, '"graphTooltip": 1', '"graphTooltips": 1', "graphTooltips"),
            Plant(OVERVIEW, '"type": "dashboards"', '"type": "dashboard"', "dashboard"),
            Plant(OVERVIEW, '"refresh": "30s"', '"refresh": 30', "number"),
            Plant(f"{DASHBOARDS}/rates.json", '"legendFormat": "growth"', '"legend": "growth"', "legend"),
        ),
    ),
    Check(
        "grafana: queries can be answered",
        promql,
        (
            Plant(OVERVIEW, "index_up{", "index_is_up{", "no metric index_is_up"),
            Plant(OVERVIEW, "max(workers_live{", "max(workers_live{{", "no PromQL"),
            Plant(OVERVIEW, "max(workers_live{job", "max(workers_live{jobs", "no label jobs"),
            Plant(
                OVERVIEW, "sum by (job) (process_resident", "sum by (queue) (process_resident", "by (queue)"
            ),
            Plant(
                OVERVIEW, 'max(workers_live{job=~\\"$job\\"})', "max(workers_live) or vector(0)", "vector()"
            ),
            Plant(
                f"{DASHBOARDS}/queues.json",
                "label_values(queue_size{",
                "label_values(queue_sizes{",
                "queue_sizes",
            ),
        ),
    ),
    Check(
        "grafana: panels say what they show",
        panels,
        (
            Plant(OVERVIEW, '"id": 2,', '"id": 3,', "the panel id 3"),
            Plant(
                OVERVIEW, '"uid": "taskmill-overview"', '"uid": "taskmill-rates"', "the uid taskmill-rates"
            ),
            Plant(OVERVIEW, '"unit": "suffix:cores"', '"unit": "cores"', "the unit 'cores'"),
            Plant(
                f"{GRAFANA}/provisioning/datasources/prometheus.yml",
                "uid: taskmill-prometheus",
                "uid: prometheus",
                "is not the data source prometheus",
            ),
            Plant(
                f"{GRAFANA}/provisioning/datasources/prometheus.yml",
                "timeInterval: 15s",
                "timeInterval: 60s",
                "scrape interval",
            ),
        ),
    ),
)
