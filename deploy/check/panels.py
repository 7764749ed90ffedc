"""Every panel of every dashboard, asked of a real Prometheus: PromQL answers a misspelt metric with nothing, not with an error.

    from deploy.check.panels import check
    check("http://127.0.0.1:9090")                 # Broken names each panel whose query brought no value
    check(url, window=300, patience=60)            # values of the last 300 s; empty ones are asked again for 60 s
    python -m deploy.check.panels http://127.0.0.1:9090

Prometheus must have scraped a Taskmill under load (deploy/check/traffic.py makes one; it meets every panel) for longer
than four of its scrape intervals: a rate needs that. `scrape` is this interval, 15 s as deploy/prometheus has it.
`ask` is what a page or a picture of a panel is made from: the answers themselves, with the variables put in.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from deploy.check.stage import ROOT, Broken

DASHBOARDS: Final = "deploy/grafana/dashboards"
POINTS: Final = 240
"""In a chart as wide as a third of a screen."""
LABEL_VALUES: Final = re.compile(r"label_values\((?P<match>.+), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    dashboard: str
    panel: str
    letter: str
    expr: str
    """With the variables put in, each as All; Grafana's own are left."""
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} ({self.letter}): {self.expr}"


@dataclass(frozen=True)
class Window:
    """What time is looked at, and how finely: what Grafana makes of the time picker and a panel's width."""

    end: float
    seconds: float
    scrape: float = 15.0

    @property
    def step(self) -> float:
        return max(1.0, self.scrape, round(self.seconds / POINTS))

    def put_into(self, expr: str) -> str:
        """Grafana's own variables replaced."""
        rate = max(self.step + self.scrape, 4 * self.scrape)
        for name, value in (
            ("$__rate_interval", f"{rate:.0f}s"),
            ("$__interval", f"{self.step:.0f}s"),
            ("$__range", f"{self.seconds:.0f}s"),
        ):
            expr = expr.replace(name, value)
        return expr


def boards(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Name of the file → the dashboard."""
    files = sorted((root / DASHBOARDS).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def queries(root: Path = ROOT) -> Iterator[Asked]:
    for board in boards(root).values():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield asked(board, panel, target)


def asked(board: Mapping[str, Any], panel: Mapping[str, Any], target: Mapping[str, Any]) -> Asked:
    expr, instant = _all_of_each(board, target["expr"]), target.get("instant", False)
    return Asked(board["title"], panel["title"], target["refId"], expr, instant)


def _all_of_each(board: Mapping[str, Any], expr: str) -> str:
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            expr = expr.replace(f"${variable['name']}", variable["allValue"])
    return expr


def variables(root: Path = ROOT) -> set[str]:
    """The queries that the lists of the template variables come from."""
    return {
        _all_of_each(board, variable["query"]["query"])
        for board in boards(root).values()
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    }


class Prometheus:
    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, trust_env=False, timeout=30)

    def close(self) -> None:
        self._http.close()

    def ask(self, expr: str, window: Window, *, instant: bool) -> list[dict[str, Any]]:
        """Series with their `metric` and `values`. Broken: it cannot be reached, or refuses the query."""
        filled = window.put_into(expr)
        if instant:
            found = self._get("query", query=filled, time=str(window.end))
            return [{"metric": one["metric"], "values": [one["value"]]} for one in found["result"]]
        start = str(window.end - window.seconds)
        given = {"query": filled, "start": start, "end": str(window.end), "step": f"{window.step:.0f}"}
        series: list[dict[str, Any]] = self._get("query_range", **given)["result"]
        return series

    def label_values(self, query: str, window: Window) -> list[str]:
        parts = LABEL_VALUES.fullmatch(query)
        if parts is None:
            raise Broken(f"a variable's query that is no label_values(metric, label): {query}")
        given = {"match[]": parts["match"], "start": str(window.end - window.seconds)}
        values: list[str] = self._get(f"label/{parts['label']}/values", **given)
        return values

    def _get(self, path: str, **given: str) -> Any:
        try:
            answer = self._http.get(f"/api/v1/{path}", params=given).json()
        except (httpx2.HTTPError, ValueError) as error:
            raise Broken(f"Prometheus at {self._http.base_url}: {error}") from None
        if answer["status"] != "success":
            raise Broken(f"Prometheus refuses {given}: {answer.get('error')}")
        return answer["data"]


def ask(prometheus: Prometheus, query: Asked, window: Window) -> list[dict[str, Any]]:
    """The series of a panel's query that have a value."""
    found = prometheus.ask(query.expr, window, instant=query.instant)
    return [one for one in found if any(value != "NaN" for _, value in one["values"])]


def empty(url: str, window: float, scrape: float, root: Path = ROOT) -> list[str]:
    """The queries of panels and variables that bring no value now, a line each."""
    looked_at = Window(time.time(), window, scrape)
    with closing(Prometheus(url)) as prometheus:
        found = [str(one) for one in queries(root) if not ask(prometheus, one, looked_at)]
        return found + [q for q in sorted(variables(root)) if not prometheus.label_values(q, looked_at)]


def check(
    url: str, *, window: float = 300, scrape: float = 15, patience: float = 60, root: Path = ROOT
) -> int:
    """The number of queries that were asked; Broken when one brings no value for longer than `patience` seconds."""
    until = time.monotonic() + patience
    while lacking := empty(url, window, scrape, root):
        if time.monotonic() > until:
            raise Broken("no value in Prometheus for\n" + "\n".join(lacking))
        time.sleep(2)
    return len(list(queries(root))) + len(variables(root))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(f"{check(sys.argv[1], patience=0)} queries, and each brought a value")
    except Broken as broken:
        raise SystemExit(str(broken)) from None
