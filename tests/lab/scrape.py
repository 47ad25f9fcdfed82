# SPDX-License-Identifier: Apache-2.0
"""The daemon's metrics as numbers to calculate with."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress

from prometheus_client.parser import text_string_to_metric_families

from shadowwatch.config import LISTEN
from shadowwatch.metrics.exporter import split_address
from tests.lab.errors import LabError
from tests.lab.own import SLOWNESS

#: Where the daemon listens when nothing else is said.
PORT = split_address(LISTEN.default)[1]
#: Characters of an error, which is read by people.
MESSAGE = 2000


class Metrics:
    """One scrape, which knows what it was asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: dict[str, object] = {}
        self._samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Add up the samples of `shadowwatch_<name>` that have these labels."""
        total = sum(value for _, value in self._chosen(name, labels))
        self.asked[_shown(name, labels)] = total
        return total

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Add up the same samples, apart for each value of one label."""
        sums: dict[str, float] = {}
        for found, value in self._chosen(name, labels):
            sums[found[label]] = sums.get(found[label], 0) + value
        self.asked[f"{_shown(name, labels)} by {label}"] = sums
        return sums

    def _chosen(self, name: str, wanted: Mapping[str, str]) -> list[tuple[Mapping[str, str], float]]:
        return [
            (labels, value)
            for sample, labels, value in self._samples
            if sample == f"shadowwatch_{name}" and wanted.items() <= labels.items()
        ]

    def ours(self) -> list[str]:
        """The lines about shadowwatch itself, without those about its process."""
        return [line for line in self.text.splitlines() if "shadowwatch_" in line]


def _shown(name: str, labels: Mapping[str, str]) -> str:
    wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{wanted}}}" if wanted else name


def scrape(port: int) -> Metrics:
    """Read the metrics that are published on this port of this machine's loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return Metrics(answer.read().decode())


def settled(port: int, vm: str, allocations: int) -> Metrics:
    """Scrape once the daemon has heard of as many allocations as the kernel counts."""
    return scrape_until(port, lambda metrics: metrics.sum("allocations_total", vm=vm) >= allocations)


def scrape_until(port: int, holds: Callable[[Metrics], bool], seconds: float = 30.0 * SLOWNESS) -> Metrics:
    """Scrape until this holds, and return that scrape; LabError with what it asked when it never does."""
    deadline = time.monotonic() + seconds
    said = "nobody listens"
    while time.monotonic() < deadline:
        with suppress(OSError):  # the daemon may be about to start
            metrics = scrape(port)
            if holds(metrics):
                return metrics
            said = "; ".join(f"{question} is {answer}" for question, answer in metrics.asked.items())
        time.sleep(0.1)
    raise LabError(f"the metrics did not come to what was awaited in {seconds:.0f} s: {said[:MESSAGE]}")
