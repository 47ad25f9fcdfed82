# SPDX-License-Identifier: Apache-2.0
"""Grafana's dashboards: made from their declarations, complete, and asking for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.__main__ import DASHBOARDS, HERE
from dashboards.declarations import Dashboard
from dashboards.grafana import encode
from tests.lab.prometheus import promtool
from tests.queries import panel_queries
from tests.unit.test_rules import rules, scraped

#: What Prometheus itself knows of a target and of alerts, and every process' metrics.
OTHERS = {"up", "ALERTS", "process_cpu_seconds_total"}
NAME = re.compile(r"(?<![\w:$])(?:(?:vm|instance):)?shadowwatch_[\w:]+|\bup\b|\bALERTS\b|\bprocess_\w+")

#: A variable in a query, and how a label is compared with it.
MATCHER = re.compile(r'(=~|!~|!=|=)\s*"[^"$]*\$\{?(\w+)')


def panels(name: str) -> list[dict[str, Any]]:
    """The panels of a committed dashboard, rows left out."""
    found = json.loads((HERE / f"{name}.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


each = pytest.mark.parametrize("declared", DASHBOARDS, ids=lambda dashboard: dashboard.name)


@each
def test_the_file_is_what_the_declarations_make(declared: Dashboard) -> None:
    """`make dashboards` would change nothing."""
    assert (HERE / f"{declared.name}.json").read_text() == encode(declared)


@each
def test_each_panel_says_what_it_shows(declared: Dashboard) -> None:
    """A title, a sentence, a unit and a query, and no other panel of that title on the dashboard."""
    shown = panels(declared.name)
    assert len({panel["title"] for panel in shown}) == len(shown) > 10
    for panel in shown:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


@each
def test_the_variables_are_there(declared: Dashboard) -> None:
    """The data source, the job, the host and the VM; each panel asks the source that is chosen."""
    variables = json.loads((HERE / f"{declared.name}.json").read_text())["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "job", "instance", "vm"]
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels(declared.name))


@each
def test_a_name_is_no_pattern(declared: Dashboard) -> None:
    """Where one value is chosen it is compared for equality: `[::1]:9790`, `web+1` and `*x` are names of hosts and VMs.

    Grafana escapes what stands for a pattern only in variables of which several values can be chosen.
    """
    text = (HERE / f"{declared.name}.json").read_text()
    queries = text.replace('\\"', '"')
    for variable in json.loads(text)["templating"]["list"]:
        name = variable["name"]
        uses = {operator for operator, used in MATCHER.findall(queries) if used == name}
        if name != "datasource":
            assert uses <= {"=~" if variable.get("multi") or variable.get("includeAll") else "="}, name
            assert uses or (declared.name, name) == ("fleet", "vm")


@each
def test_panels_fill_their_rows(declared: Dashboard) -> None:
    """No row of panels is wider than the grid, and none leaves a hole."""
    rows: dict[int, int] = {}
    for panel in panels(declared.name):
        place = panel["gridPos"]
        rows[place["y"]] = rows.get(place["y"], 0) + place["w"]
    assert set(rows.values()) == {24}


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    """As the rules of a file that has nothing else."""
    queries = list(panel_queries("5m"))
    written = [{"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": written}]}))
    assert f"SUCCESS: {len(queries)} rules found" in promtool("check", "rules", path)
    assert len(queries) > 60


def test_they_ask_for_what_there_is() -> None:
    """Every series in a query is scraped, or recorded by a rule."""
    known = scraped() | OTHERS | {rule.get("record", "") for rule in rules()}
    asked = {(query.panel, name) for query in panel_queries("5m") for name in NAME.findall(query.expr)}
    assert {(panel, name) for panel, name in asked if name not in known} == set()


def test_a_host_without_an_estimate_is_ranked_all_the_same(tmp_path: Path) -> None:
    """By recently parented zaps, as all others, but not with those that would gain by their estimates."""
    spared = "instance:shadowwatch_faults_spared:rate5m"
    recent = "instance:shadowwatch_recently_parented_zaps:rate5m"
    values = {(spared, "gains"): 20, (spared, "loses"): -10}
    values |= {(recent, instance): zaps for zaps, instance in enumerate(("unestimated", "gains", "loses"), start=1)}

    def found(panel: str, column: int, of: str, *instances: str) -> dict[str, Any]:
        queries = [query.expr for query in panel_queries("5m") if (query.dashboard, query.panel) == ("fleet", panel)]
        samples = [{"labels": f'{{instance="{name}"}}', "value": values[of, name]} for name in instances]
        return {"expr": queries[column], "eval_time": "0m", "exp_samples": samples}

    test = {
        "input_series": [
            {"series": f'{name}{{job="shadowwatch",instance="{instance}"}}', "values": f"{value}"}
            for (name, instance), value in values.items()
        ],
        "promql_expr_test": [
            found("Hosts that would gain most", 0, spared, "gains"),
            found("Hosts by recently parented zaps", 0, recent, "unestimated", "gains", "loses"),
            found("Hosts by recently parented zaps", 1, spared, "gains", "loses"),
        ],
    }
    path = tmp_path / "ranked.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    assert "SUCCESS" in promtool("test", "rules", path)


def test_the_fleet_needs_no_series_of_levels_and_buckets() -> None:
    """Only what is recorded, and what is one series or a few for each host: a central store has no others."""
    asked = {name for query in panel_queries("5m") if query.dashboard == "fleet" for name in NAME.findall(query.expr)}
    assert {name for name in asked if not re.match("vm:|instance:", name)} == {
        *("ALERTS", "up"),
        *("shadowwatch_build_info", "shadowwatch_paging_info", "shadowwatch_vms"),
    }
