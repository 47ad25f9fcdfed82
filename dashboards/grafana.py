# SPDX-License-Identifier: Apache-2.0
"""Declarations → the JSON that Grafana imports. The only user of its library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from typing import TypeAlias

from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, TableSortByFieldState, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode, LegendPlacement, VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.declarations import Colours, Dashboard, Panel, Query

Builder: TypeAlias = stat.Panel | timeseries.Panel | table.Panel | heatmap.Panel

TAG = "shadowwatch"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHTS = {"stat": 4, "series": 8, "table": 9, "heatmap": 8}
#: Where a name in a table leads.
PLACE = "${__url_time_range}&${datasource:queryparam}&${job:queryparam}"
LINKS = {
    "instance": ("The host", f"/d/{TAG}-host?{PLACE}&var-instance=${{__value.raw}}"),
    "vm": ("The VM", f"/d/{TAG}-vm?{PLACE}&var-instance=${{__data.fields.instance}}&var-vm=${{__value.raw}}"),
}
PLAIN: Colours = ((0, "text"),)
#: Labels and values that a table need not show.
HIDDEN = ("Time", "job", "__name__", "alertstate")


def _chosen(expr: str, declared: Dashboard) -> str:
    """Equal to the value where one alone is chosen: Grafana escapes patterns only where there can be many."""
    for name, one in (("instance", declared.one_instance), ("vm", declared.one_vm)):
        if one:
            expr = expr.replace(f'{name}=~"${name}"', f'{name}="${name}"')
    return expr


def _target(panel: Panel, query: Query, letter: str, declared: Dashboard) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(_chosen(query.expr, declared)).ref_id(letter).legend_format(query.name)
    if panel.kind == "table":
        return target.instant().format(PromQueryFormat.TABLE)
    target = target.range()
    return target.format(PromQueryFormat.HEATMAP) if panel.kind == "heatmap" else target


def _texts(panel: Panel) -> list[ValueMapping]:
    return [ValueMap({value: ValueMappingResult(text=text) for value, text in panel.texts.items()})]


def _stat(panel: Panel) -> stat.Panel:
    built = stat.Panel().graph_mode(BigValueGraphMode.NONE)
    built = built.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return built.mappings(_texts(panel)) if panel.texts else built


def _series(panel: Panel) -> timeseries.Panel:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    return timeseries.Panel().min(0).fill_opacity(10).show_points(VisibilityMode.NEVER).legend(legend)


def _heatmap(panel: Panel) -> heatmap.Panel:
    return heatmap.Panel().y_axis(heatmap.YAxisConfig().unit(panel.unit))


def _table(panel: Panel) -> table.Panel:
    # Grafana joins the answers by their labels and calls their values so.
    values = ["Value"] if len(panel.queries) == 1 else [f"Value #{letter}" for letter in ascii_uppercase]
    columns = dict(zip(values, panel.queries, strict=False))
    unnamed = [value for value, query in columns.items() if not query.name]
    organize = {
        "excludeByName": dict.fromkeys((*HIDDEN, *unnamed), True),
        "renameByName": {value: query.name for value, query in columns.items() if query.name},
    }
    built = table.Panel().with_transformation(DataTransformerConfig(id_val="merge", options={}))
    built = built.with_transformation(DataTransformerConfig(id_val="organize", options=organize))
    if panel.queries[0].name:
        built = built.sort_by([TableSortByFieldState().display_name(panel.queries[0].name).desc(True)])
    for query in panel.queries:
        if query.unit:
            built = built.override_by_name(query.name, [DynamicConfigValue("unit", query.unit)])
    for label, (title, url) in LINKS.items():
        built = built.override_by_name(label, [DynamicConfigValue("links", [{"title": title, "url": url}])])
    if panel.texts:
        wrapped = {"type": "auto", "wrapText": True}
        built = built.override_by_name(
            panel.texts_in,
            [DynamicConfigValue("mappings", _texts(panel)), DynamicConfigValue("custom.cellOptions", wrapped)],
        )
    return built


BUILDERS: Mapping[str, Callable[[Panel], Builder]] = {
    "stat": _stat,
    "series": _series,
    "table": _table,
    "heatmap": _heatmap,
}


def _panel(panel: Panel, number: int, declared: Dashboard) -> Builder:
    built = BUILDERS[panel.kind](panel)
    for query, letter in zip(panel.queries, ascii_uppercase, strict=False):
        built.with_target(_target(panel, query, letter, declared))
    built.id(number).title(panel.title).description(panel.description).datasource(SOURCE)
    built.unit(panel.unit).span(panel.width).height(HEIGHTS[panel.kind])
    # The lowest colour has no bound: it is for all that is below the next.
    (_, lowest), *others = panel.colours or PLAIN
    steps = [Threshold(color=lowest), *(Threshold(value, colour) for value, colour in others)]
    built.thresholds(grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    if panel.kind == "stat":
        built.color_scheme(grafana.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    return built


def _variable(name: str, series: str, one: bool) -> grafana.QueryVariable:
    variable = grafana.QueryVariable(name).label(name).datasource(SOURCE).query(f"label_values({series}, {name})")
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NATURAL_ASC)
    return variable if one else variable.multi(True).include_all(True).all_value(".*")


def _variables(declared: Dashboard) -> Sequence[grafana.QueryVariable]:
    hosts = "shadowwatch_build_info"
    return (
        _variable("job", hosts, one=False),
        _variable("instance", f'{hosts}{{job=~"$job"}}', declared.one_instance),
        _variable("vm", _chosen(f'{declared.vms}{{job=~"$job",instance=~"$instance"}}', declared), declared.one_vm),
    )


def encode(declared: Dashboard) -> str:
    """Return the dashboard as Grafana's JSON."""
    built = grafana.Dashboard(declared.title).uid(f"{TAG}-{declared.name}").description(declared.description)
    built.tags([TAG]).refresh("30s").time("now-1h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
    built.link(
        grafana.DashboardLink(TAG).type(DashboardLinkType.DASHBOARDS).tags([TAG]).include_vars(True).keep_time(True)
    )
    built.with_variable(grafana.DatasourceVariable("datasource").label("datasource").type("prometheus"))
    for variable in _variables(declared):
        built.with_variable(variable)
    number = 0
    for row in declared.rows:
        number += 1
        built.with_row(grafana.Row(row.question).id(number))
        for panel in row.panels:
            number += 1
            built.with_panel(_panel(panel, number, declared))
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(built.build()) + "\n"
