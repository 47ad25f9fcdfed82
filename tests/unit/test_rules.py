# SPDX-License-Identifier: Apache-2.0
"""Prometheus' rules: checked by its own tool, in step with the code and with the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from shadowwatch.cli import parser
from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from shadowwatch.probe.plan import POINTS
from shadowwatch.snapshot import RECLAIM
from shadowwatch.view.insight import LARGE_SHARE, THRASHING_SECONDS
from tests.lab.prometheus import promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "prometheus" / "rules.yml"
TESTS = Path(__file__).parent / "rules.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"
#: What a counter, a histogram and an info metric are called when they are scraped.
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "info": ("",),
}

Rule = dict[str, Any]


def rules() -> list[Rule]:
    """All of them, in their order."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[Rule]:
    """Those that alert."""
    return [rule for rule in rules() if "alert" in rule]


def scraped() -> set[str]:
    """The names that Prometheus knows after a scrape."""
    return {
        f"shadowwatch_{metric.name}{suffix}"
        for metric in (*VM_METRICS, *DAEMON_METRICS)
        for suffix in SUFFIXES[metric.type]
    }


def test_promtool_finds_no_fault() -> None:
    """Syntax, names, templates."""
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", RULES)


def test_series_in_alerts_out() -> None:
    """Each alert fires when it should, says what to do, resolves, and is silent when all is well."""
    assert "SUCCESS" in promtool("test", "rules", TESTS)
    tested = {
        test["alertname"]
        for tests in yaml.safe_load(TESTS.read_text())["tests"]
        for test in tests.get("alert_rule_test", ())
        if test.get("exp_alerts")
    }
    assert tested == {alert["alert"] for alert in alerts()}


def test_they_ask_for_what_there_is() -> None:
    """Every metric in an expression is declared, or made by a rule before it."""
    known = scraped()
    for rule in rules():
        named = set(re.findall(r"[\w:]*shadowwatch_[\w:]+", rule["expr"]))
        assert named <= known, rule
        known.add(rule.get("record", ""))


def test_each_alert_has_a_fix_and_a_section_of_the_runbook() -> None:
    """In the same order, so that neither is forgotten."""
    sections = re.findall(r"^(?:## |\*\*)(\w+)", RUNBOOK.read_text(), re.MULTILINE)
    assert sections == [word for alert in alerts() for word in (alert["alert"], "Means", "Look", "Fix")]
    for alert in alerts():
        notes = alert["annotations"]
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        # The page of a daemon: the alert's own, or of one that is up when that is down.
        address = (
            '{{ . | first | label "instance" }}' if alert["alert"] == "ShadowwatchDown" else "{{ $labels.instance }}"
        )
        assert f"http://{address}/runbook#{alert['alert'].lower()}" in notes["runbook_url"]
        assert notes["summary"]
        assert notes["description"].count(" Fix: ") == 1


def test_the_runbook_names_commands_that_exist() -> None:
    """Of this program, with options that it takes."""
    commands = next(action.choices for action in parser()._actions if action.choices)
    assert isinstance(commands, dict)
    named = re.findall(r"[#$] shadowwatch (\w+)(.*?)`", RUNBOOK.read_text(), re.DOTALL)
    assert {command for command, _ in named} >= {"top", "tree", "doctor", "audit", "replay"}
    for command, words in named:
        assert set(re.findall(r"--[\w-]+", words)) <= commands[command]._option_string_actions.keys()


def test_what_they_call_reclaim_and_thrashing_is_what_top_does() -> None:
    """The causes, the seconds and the share are the code's own."""
    causes = "|".join(cause.name.lower() for cause in sorted(RECLAIM))
    text = RULES.read_text()
    assert set(re.findall(r'cause=~"(.*?)"', text)) == {causes}
    assert set(re.findall(r"reclaim:rate5m \* (\d+) >", text)) == {f"{THRASHING_SECONDS:g}"}
    assert set(re.findall(r"ratio_rate5m >= ([\d.]+)", text)) == {f"{LARGE_SHARE:g}"}


def test_all_probe_points_of_a_stock_kernel_are_counted() -> None:
    """Those that attach something: symbols and members that are only read have no metric."""
    points = [point.name for point in POINTS if not point.patched and any(hook.program for hook in point.hooks)]
    (found,) = re.findall(r'point=~"(.*?)"}\) < (\d+)', RULES.read_text())
    assert found == ("|".join(points), str(len(points)))
