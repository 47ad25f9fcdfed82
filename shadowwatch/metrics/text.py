# SPDX-License-Identifier: Apache-2.0
"""Declarations and a snapshot → Prometheus' text format (version 0.0.4).

Written here and not by prometheus_client, whose families and samples are objects: for 1,000 VMs it takes eight times as
long (tests/bench/scrape_cost.py). And what is said of a VM is kept until it has events again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate, repeat
from operator import attrgetter
from typing import Any

from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from shadowwatch.metrics.metric import LABELS, DaemonMetric, Samples, VmMetric
from shadowwatch.snapshot import VmSnapshot
from shadowwatch.watch import Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _label(label: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f',{label}="{escaped}"'


def _full_name(metric: VmMetric | DaemonMetric) -> str:
    return f"shadowwatch_{metric.name}{'_total' if metric.type == 'counter' else ''}"


def _heading(metric: VmMetric | DaemonMetric) -> str:
    name = _full_name(metric)
    return f"# HELP {name} {metric.help}\n# TYPE {name} {'gauge' if metric.type == 'info' else metric.type}\n"


@cache
def _histogram(name: str, bounds: Sequence[float]) -> tuple[str, ...]:
    """The lines of one histogram, to be joined by its labels, with %s for each number in turn."""
    buckets = (f',le="{bound}"}} %s\n{name}_bucket{{' for bound in map(float, bounds))
    return f"{name}_bucket{{", *buckets, f',le="+Inf"}} %s\n{name}_count{{', f"}} %s\n{name}_sum{{", "} %s\n"


def _texts(metric: VmMetric, vms: Sequence[VmSnapshot], names: Sequence[str]) -> list[str]:
    """The lines of each VM. This is the hot path of a scrape: a hundred of them for a VM."""
    if callable(metric.of):
        return _told(metric, metric.of, vms, names)
    values: Iterator[Any] = map(attrgetter(metric.of), vms)
    if metric.type == "histogram":
        return _histograms(metric, values, names)
    start = f"{_full_name(metric)}{{"
    if metric.labels:
        ends = [f"{''.join(map(_label, metric.labels, label))}}} " for label in LABELS]
        return [
            "".join([f"{start}{called}{ends[level]}{value}\n" for level, value in by_level.items()])
            for called, by_level in zip(names, values, strict=True)
        ]
    # Plus, for of what is true or false a number is told.
    return [
        "" if value is None else f"{start}{called}}} {+value}\n" for called, value in zip(names, values, strict=True)
    ]


def _told(
    metric: VmMetric, samples: Callable[[VmSnapshot], Samples], vms: Sequence[VmSnapshot], names: Sequence[str]
) -> list[str]:
    start = f"{_full_name(metric)}{{"
    needed: Iterable[object] = map(attrgetter(metric.needs), vms) if metric.needs else repeat(True)
    #: Values of the metric's own labels -> their text; they are levels, causes and the like, so few.
    known: dict[tuple[str, ...], str] = {}
    texts = []
    for vm, called, needs in zip(vms, names, needed, strict=False):
        text = ""
        if needs:
            for values, value in samples(vm):
                if values not in known:
                    known[values] = "".join(map(_label, metric.labels, values))
                text += f"{start}{called}{known[values]}}} {value}\n"
        texts.append(text)
    return texts


def _histograms(metric: VmMetric, values: Iterable[Any], names: Sequence[str]) -> list[str]:
    name = _full_name(metric)
    ends = ["".join(map(_label, metric.labels, label)) for label in LABELS] if metric.labels else [""]
    bounds: Sequence[float] | None = None
    between: Sequence[str] = ()
    texts = []
    for called, value in zip(names, values, strict=True):
        called = called.replace("%", "%%")
        text = ""
        for level, (its_bounds, counts, total) in value.items() if metric.labels else ((0, value),):
            if bounds is not its_bounds:
                bounds, between = its_bounds, _histogram(name, its_bounds)
            below = (*accumulate(counts),)
            text += (called + ends[level]).join(between) % (*below, below[-1], total)
        texts.append(text)
    return texts


class Exposition:
    """A watch's metrics as text; what changed since the last time is made again."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        #: A VM's name -> its figures, and what each metric says of them.
        self._known: dict[str, tuple[VmSnapshot, tuple[str, ...]]] = {}

    def pieces(self) -> Iterator[bytes]:
        """Take a snapshot, and yield each metric with all of its samples."""
        now, facts = self._watch.snapshot(), self._watch.facts
        for daemon in DAEMON_METRICS:
            lines = [_heading(daemon)]
            for values, value in daemon.samples(now, facts):
                labels = "".join(map(_label, daemon.labels, values))[1:]
                lines.append(f"{_full_name(daemon)}{f'{{{labels}}}' if labels else ''} {value}\n")
            yield "".join(lines).encode()
        known = self._known
        changed = [vm for vm in now.vms if vm.name not in known or known[vm.name][0] is not vm]
        names = [_label("vm", vm.name)[1:] for vm in changed]
        made = zip(*(_texts(metric, changed, names) for metric in VM_METRICS), strict=True)
        fresh = {vm.name: (vm, texts) for vm, texts in zip(changed, made, strict=True)}
        self._known = {vm.name: fresh.get(vm.name) or known[vm.name] for vm in now.vms}
        columns = zip(*(texts for _, texts in self._known.values()), strict=True) if now.vms else repeat(())
        for metric, texts in zip(VM_METRICS, columns, strict=False):
            yield "".join([_heading(metric), *texts]).encode()


def exposition(watch: Watch) -> bytes:
    """All of the watch's metrics."""
    return b"".join(Exposition(watch).pieces())
