"""The kinds of panel that the dashboards are made of, with the options that all of one kind have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypedDict, Unpack

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as enums
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as query_model

from deploy.grafana.source.promql import ALL, percentile

Steps: TypeAlias = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on, the colour; the first from None."""

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
PLAIN: Final[Steps] = ((None, "blue"),)
LETTERS: Final = "ABCDEFGH"


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""
    """With {{label}}s; a name without them is also what an override finds the series by."""


class Look(TypedDict, total=False):
    """How lines are drawn, where it is not as for most."""

    colors: Mapping[str, str]
    """By the name of a series."""
    stacked: bool
    """As areas on each other."""
    steps: Steps
    """Thresholds, as dashed lines."""
    signed: bool
    """Values below 0 have a meaning."""
    decimals: int
    calcs: Sequence[str]
    """What the legend says of each series, in a table; else it has the names alone, in a line."""
    most: float
    usually: float
    """The top of the axis while all is below: what is small is not to look large."""
    logarithmic: bool


def lines(title: str, text: str, unit: str, *queries: Query, **look: Unpack[Look]) -> timeseries.Panel:
    """Values over time. `text` says what to look for."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .targets([_target(query, letter) for letter, query in zip(LETTERS, queries, strict=False)])
        .line_width(1)
        .fill_opacity(_fill(queries, look))
        .show_points(enums.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(_legend(look.get("calcs", ())))
        .tooltip(
            common.VizTooltipOptions().mode(enums.TooltipDisplayMode.MULTI).sort(enums.SortOrder.DESCENDING)
        )
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    )
    _scale(panel, look)
    if look.get("stacked"):
        panel.stacking(common.StackingConfig().mode(enums.StackingMode.NORMAL).group("A"))
    if "steps" in look:
        panel.thresholds(_thresholds(look["steps"])).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(enums.GraphThresholdsStyleMode.DASHED)
        )
    for name, color in look.get("colors", {}).items():
        panel.override_by_name(name, [_color(color)])
    return panel


def percentiles(
    title: str, text: str, metric: str, where: str = ALL, **look: Unpack[Look]
) -> timeseries.Panel:
    """What half, 95 and 99 of 100 of a histogram's seconds are below."""
    queries = [Query(percentile(p, metric, where=where), f"p{p * 100:g}") for p in (0.5, 0.95, 0.99)]
    look["colors"] = {"p50": "green", "p95": "yellow", "p99": "red"}
    return lines(title, text, "s", *queries, **look)


def _fill(queries: Sequence[Query], look: Look) -> int:
    """Areas over each other are mud: only a line that is alone, or that lies on the others, is filled."""
    if look.get("stacked"):
        return 40
    return 8 if len(queries) == 1 and "{{" not in queries[0].legend else 0


def _scale(panel: timeseries.Panel, look: Look) -> None:
    if look.get("logarithmic"):
        panel.scale_distribution(common.ScaleDistributionConfig().type(enums.ScaleDistribution.LOG).log(10))
    elif not look.get("signed"):
        panel.min(0)
    if "usually" in look:
        panel.axis_soft_max(look["usually"])
    if "most" in look:
        panel.max(look["most"])
    if "decimals" in look:
        panel.decimals(look["decimals"])


class Face(TypedDict, total=False):
    """How a number is shown, where it is not as for most."""

    steps: Steps
    decimals: int
    words: Mapping[str, tuple[str, str]]
    """By value: what is written instead, and its colour."""
    legend: str
    """With it there is one number for each series, and its name beside it."""
    to: str
    """The dashboard that tells more."""
    spark: bool
    """With how it came to it, behind; else only the last value."""


def number(title: str, text: str, unit: str, expr: str, **face: Unpack[Face]) -> stat.Panel:
    """The last value, large."""
    legend = face.get("legend", "")
    spark = face.get("spark", True)
    target = _target(Query(expr, legend or title), "A")
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .targets([target if spark else target.instant()])
        .reduce_options(_last())
        .color_mode(enums.BigValueColorMode.VALUE)
        .graph_mode(enums.BigValueGraphMode.AREA if spark else enums.BigValueGraphMode.NONE)
        .text_mode(enums.BigValueTextMode.VALUE_AND_NAME if legend else enums.BigValueTextMode.VALUE)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(face.get("steps", PLAIN)))
    )
    if "decimals" in face:
        panel.decimals(face["decimals"])
    if "words" in face:
        said = {v: model.ValueMappingResult(text=t, color=c) for v, (t, c) in face["words"].items()}
        panel.mappings([model.ValueMap(said)])
    if "to" in face:
        panel.links([_to(face["to"])])
    return panel


def bars(title: str, text: str, unit: str, query: Query) -> bargauge.Panel:
    """The last values of some series beside each other: whole numbers."""
    return (
        bargauge.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .targets([_target(query, "A")])
        .reduce_options(_last())
        .orientation(enums.VizOrientation.HORIZONTAL)
        .display_mode(enums.BarGaugeDisplayMode.GRADIENT)
        .value_mode(enums.BarGaugeValueMode.COLOR)
        .text(common.VizTextDisplayOptions().title_size(14).value_size(18))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(PLAIN))
        .decimals(0)
    )


def heat(title: str, text: str, unit: str, expr: str) -> heatmap.Panel:
    """Buckets of a histogram over time: the darker, the more were observed."""
    return (
        heatmap.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .targets([_target(Query(expr, "{{le}}"), "A").format(query_model.PromQueryFormat.HEATMAP)])
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_model.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .exponent(0.5)
            .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
            .steps(64)
            .reverse(False)
        )
        .cell_gap(1)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(enums.HeatmapCellLayout.AUTO))
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(enums.AxisPlacement.LEFT))
        .cell_values(heatmap.CellValues().unit("short"))
        .show_legend()
        .unit(unit)
    )


@dataclass(frozen=True)
class Column:
    """Of a table: an instant query, what is written above it, and its unit."""

    expr: str
    name: str
    unit: str
    steps: Steps | None = None
    decimals: int | None = None


def rows(title: str, text: str, label: str, heading: str, *columns: Column, sort: str) -> table.Panel:
    """A row for each value of a label, with several values side by side; the largest in `sort` first."""
    panel = (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(columns[0].unit)
        .show_header(True)
        .cell_height(enums.TableCellHeight.SM)
        .sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(PLAIN))
    )
    renamed = {label: heading}
    for letter, column in zip(LETTERS, columns, strict=False):
        panel.with_target(
            _target(Query(column.expr), letter).instant().format(query_model.PromQueryFormat.TABLE)
        )
        value = f"Value #{letter}"
        renamed[value] = column.name
        panel.override_by_name(column.name, _column(column))
    panel.transformations(
        [
            model.DataTransformerConfig("joinByField", options={"byField": label, "mode": "outer"}),
            # Prometheus gives a time with each value: all the same one.
            model.DataTransformerConfig(
                "filterFieldsByName", options={"include": {"pattern": f"^({label}|Value.*)$"}}
            ),
            model.DataTransformerConfig("organize", options={"renameByName": renamed}),
        ]
    )
    return panel


def _column(column: Column) -> list[model.DynamicConfigValue]:
    found = [model.DynamicConfigValue("unit", column.unit)]
    if column.decimals is not None:
        found.append(model.DynamicConfigValue("decimals", column.decimals))
    if column.steps is not None:
        found += [
            model.DynamicConfigValue("thresholds", _thresholds(column.steps).build()),
            model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ]
    return found


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(query.expr)
        .ref_id(letter)
        .range()
        .editor_mode(query_model.QueryEditorMode.CODE)
        .datasource(SOURCE)
    )
    return target.legend_format(query.legend) if query.legend else target


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")


def _legend(calcs: Sequence[str]) -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(enums.LegendDisplayMode.TABLE if calcs else enums.LegendDisplayMode.LIST)
        .placement(enums.LegendPlacement.BOTTOM)
        .calcs(list(calcs))
    )


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def _color(color: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(
        "color", model.FieldColor(mode=model.FieldColorModeId.FIXED, fixed_color=color)
    )


def _to(uid: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("More of this")
        .type(model.DashboardLinkType.LINK)
        .url(f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}&${{job:queryparam}}")
    )
