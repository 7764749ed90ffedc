"""One dashboard: rows of panels on Grafana's grid of 24 columns, and what all of ours have: variables, links, alerts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source.panels import SOURCE

DATA_SOURCE: Final = "taskmill-prometheus"
"""The uid in provisioning/datasources/prometheus.yml."""
TAG: Final = "taskmill"
ALERTS: Final = 'ALERTS{alertname=~"Taskmill.+", alertstate="firing"}'


class Cell(Protocol):
    """Any builder of a panel."""

    def span(self, w: int) -> Builder[model.Panel]: ...
    def height(self, h: int) -> Builder[model.Panel]: ...
    def build(self) -> model.Panel: ...


@dataclass(frozen=True)
class Row:
    """Panels beside each other; their widths make 24, or as many lines of 24."""

    title: str
    height: int
    cells: Sequence[tuple[int, Cell]]


@dataclass(frozen=True)
class Variable:
    name: str
    label: str
    query: str
    text: str
    all: str = ".*"
    """What matches when none is chosen."""


JOBS: Final = "taskmill-.+"
"""As deploy/prometheus names them: other jobs are scraped beside ours."""
JOB: Final = Variable(
    "job",
    "Job",
    f'label_values(up{{job=~"{JOBS}"}}, job)',
    "The processes, by the job that scrapes them.",
    JOBS,
)
INSTANCE: Final = Variable(
    "instance", "Instance", 'label_values(up{job=~"$job"}, instance)', "One process, or several."
)
QUEUE: Final = Variable("queue", "Queue", 'label_values(queue_size{job=~"$job"}, queue)', "Queues of tasks.")
TYPE: Final = Variable(
    "type",
    "Task type",
    'label_values(task_duration_seconds_count{job=~"$job"}, type)',
    "What handlers are registered for.",
)


@dataclass(frozen=True)
class Board:
    name: str
    """Of the file, and in the uid."""
    title: str
    text: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = (JOB,)

    def json(self) -> str:
        built = self._built()
        for number, panel in enumerate(built.panels or [], 1):
            panel.id_val = number
        document = json.loads(json.dumps(built, cls=JSONEncoder))
        _drop_what_is_no_more(document)
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def _built(self) -> model.Dashboard:
        board = (
            dashboard.Dashboard(self.title)
            .uid(f"{TAG}-{self.name}")
            .description(self.text)
            .tags([TAG])
            .timezone("browser")
            .time("now-1h", "now")
            .refresh("30s")
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .readonly()
            .variables([_source_variable(), *map(_query_variable, self.variables)])
            .link(_others())
            .annotations([_Alerts()])
        )
        for row in self.rows:
            board.with_row(dashboard.Row(row.title))
            for width, cell in row.cells:
                cell.span(width)
                cell.height(row.height)
                board.with_panel(cell)  # type: ignore[arg-type]  # the protocol of a Builder, by its parts
        return board.build()


def _drop_what_is_no_more(document: dict[str, Any]) -> None:
    """The SDK is of Grafana 11.6, the schema of 12: what the one writes of its own accord and the other does not know."""
    for variable in document["templating"]["list"]:
        for key in ("auto", "auto_min", "auto_count"):
            del variable[key]
    for panel in document["panels"]:
        panel.get("options", {}).pop("footer", None)


def _source_variable() -> Builder[model.VariableModel]:
    return (
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .current(model.VariableOption(selected=True, text="Prometheus", value=DATA_SOURCE))
    )


def _query_variable(variable: Variable) -> Builder[model.VariableModel]:
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.text)
        .datasource(SOURCE)
        .query({"query": variable.query, "refId": variable.name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(variable.all)
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _others() -> Builder[model.DashboardLink]:
    return (
        dashboard.DashboardLink("Taskmill")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


class _Alerts(model.AnnotationQuery, Builder[model.AnnotationQuery]):
    """Alerts that fire, as regions in every chart. The SDK lacks the formats, which Grafana's Prometheus source reads."""

    def __init__(self) -> None:
        super().__init__(name="Alerts", datasource=SOURCE, enable=True, icon_color="red", expr=ALERTS)

    def build(self) -> model.AnnotationQuery:
        return self

    def to_json(self) -> dict[str, object]:
        formats = {
            "titleFormat": "{{alertname}}",
            "textFormat": "{{severity}} {{job}} {{instance}} {{queue}}",
            "tagKeys": "severity",
            "step": "15s",
        }
        return super().to_json() | formats
