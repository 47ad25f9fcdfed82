# SPDX-License-Identifier: Apache-2.0
"""Declarations and a snapshot → metric families."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS, Samples
from shadowwatch.mmu.histogram import Distribution
from shadowwatch.watch import Watch


def _family(name: str, type: str, help: str, labels: Sequence[str], samples: Samples) -> Metric:
    name = f"shadowwatch_{name}"
    if type == "info":
        info = InfoMetricFamily(name.removesuffix("_info"), help)
        for values, _ in samples:
            info.add_metric([], dict(zip(labels, values, strict=True)))
        return info
    if type == "histogram":
        histogram = HistogramMetricFamily(name, help, labels=labels)
        for values, value in samples:
            assert isinstance(value, Distribution)
            bounds = [*(str(float(bound)) for bound in value.bounds), "+Inf"]
            histogram.add_metric(values, list(zip(bounds, accumulate(value.counts), strict=True)), value.total)
        return histogram
    plain = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[type]
    family: CounterMetricFamily | GaugeMetricFamily = plain(name, help, labels=labels)
    for values, value in samples:
        assert not isinstance(value, Distribution)
        family.add_metric(values, value)
    return family


class WatchCollector(Collector):
    """Makes all families anew from one snapshot for each scrape."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before a scrape; without this, registering would scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Take a snapshot and yield every declared metric."""
        now = self._watch.snapshot()
        for daemon in DAEMON_METRICS:
            yield _family(daemon.name, daemon.type, daemon.help, daemon.labels, daemon.samples(now, self._watch.facts))
        for metric in VM_METRICS:
            samples = (((vm.name, *values), value) for vm in now.vms for values, value in metric.samples(vm))
            yield _family(metric.name, metric.type, metric.help, ("vm", *metric.labels), samples)


def exposition(watch: Watch) -> bytes:
    """All of the watch's metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(WatchCollector(watch))
    text: bytes = generate_latest(registry)
    return text
