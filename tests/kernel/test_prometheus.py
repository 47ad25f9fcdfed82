# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes the service: every query has an answer, and alerts fire and resolve in an incident."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest

from tests.kernel.watched import AUDITS, Watched
from tests.lab.prometheus import Prometheus, hastened
from tests.lab.workload import Vmm, Workload
from tests.queries import panel_queries
from tests.unit.test_rules import RULES, rules

pytestmark = pytest.mark.soak

#: Five scrapes are enough for a rate. A restart takes as long here as anywhere: what looks for one looks back further.
DURATIONS = {"1m": "2s", "2m": "4s", "5m": "10s", "10m": "75s", "1h": "2m"}
STORM = Workload("incident", accesses=3_000)
STATUS = "systemctl status shadowwatch"
#: As docs/fleet.md has it, and its test counts it.
SERIES_OF_A_VM = 166
#: Of the VM's page faults, as the fleet's dashboard has it.
SPARED = "vm:shadowwatch_faults_spared:rate5m / vm:shadowwatch_faults:rate5m"
#: Between its rounds, so that the emulated machine has time for the daemon.
PAUSE_MS = 300


@pytest.fixture(scope="module")
def prometheus(patched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The server, with the project's own rules; the daemon that it asks estimates what `parents` would spare."""
    patched.lab.start_daemon(f"{AUDITS} --what-if parents")
    hasty = hastened(RULES.read_text(), DURATIONS)
    with Prometheus(tmp_path_factory.mktemp("prometheus"), patched.port, hasty) as server:
        yield server
    patched.lab.start_daemon(AUDITS)


def unanswered(prometheus: Prometheus, queries: list[str]) -> list[str]:
    """Those of the queries that have no answer, or none that is a number."""
    return [expr for expr in queries if all(math.isnan(value) for _, value in prometheus.ask(expr))]


def test_a_storm(patched: Watched, prometheus: Prometheus) -> None:
    """Of a VM that thrashes every panel and rule tells, and the one alert that fires names the cure that helps.

    What moving parents up would spare is what the daemon's own counters say, and nothing is left when they are moved.
    """

    def fires(*names: str) -> None:
        prometheus.until(lambda: prometheus.firing(vm=STORM.name), set(names))

    def spared() -> float:
        ((_, share),) = prometheus.ask(SPARED)
        return share

    patched.lab.policy("stock")
    with Vmm(patched.lab, STORM, rounds=0, pause_ms=PAUSE_MS):
        fires("KvmRecentlyParentedZaps")
        asked = [query.expr for query in panel_queries(DURATIONS["5m"])]
        recorded = [rule["record"] for rule in rules() if "record" in rule]
        # What has not happened has no answer, but what it is measured by has.
        measured = [
            re.sub(r" [=<>]+ [\d.]+$", "", rule["expr"])
            for rule in rules()
            if rule.get("alert", "").startswith("Shadowwatch")
        ]
        assert len(asked) > 60
        assert len(recorded) > 10
        assert len(measured) == 6
        assert unanswered(prometheus, asked + recorded + measured) == []
        assert prometheus.ask('count({vm="incident",__name__=~"shadowwatch_.*"})') == [({}, SERIES_OF_A_VM)]
        faults = patched.metrics().by("policy", "what_if_faults_total", vm=STORM.name)
        assert spared() == pytest.approx(1 - faults["parents"] / faults["as_recorded"], abs=0.03)
        assert spared() > 0.1
        patched.lab.policy("parents")
        fires("KvmReclaimStorm")
        prometheus.until(lambda: abs(spared()) < 0.01, True)
        assert prometheus.ask('sum(rate(shadowwatch_parent_moves_total{vm="incident"}[10s]))')[0][1] > 0
        patched.lab.policy("newest")
        fires("KvmNewestFirstReclaim")
        patched.lab.policy("stock")
        fires("KvmRecentlyParentedZaps")
    fires()


def test_the_daemon_is_killed_and_kvm_is_loaded_again(patched: Watched, prometheus: Prometheus) -> None:
    """Both show, also that it is another process afterwards, and both are over when the daemon is there again."""
    lab = patched.lab

    def starts() -> set[float]:
        return {value for _, value in prometheus.ask("process_start_time_seconds")}

    def fires(*names: str) -> None:
        prometheus.until(prometheus.firing, set(names))

    fires()
    first = starts()
    lab.run("kill -9 $(systemctl show -p MainPID --value shadowwatch)")
    fires("ShadowwatchDown")
    fires("ShadowwatchRestarted")
    second = starts()
    lab.unload_kvm()
    prometheus.until(lambda: "ShadowwatchDown" in prometheus.firing(), True)
    prometheus.until(lambda: "waiting for the kvm module" in lab.run(STATUS, check=False).stdout, True)
    lab.load_kvm("patched")
    fires("ShadowwatchRestarted")
    assert len(first | second | starts()) == 3
    fires()
