# SPDX-License-Identifier: Apache-2.0
"""Declarations and a snapshot → Prometheus' text format (version 0.0.4).

Written here and not by prometheus_client, whose families and samples are objects: for 1,000 VMs it takes many times as
long (tests/bench/scrape_cost.py). VMs whose lines differ in their numbers alone share a template of them, and what is
said of a VM is kept until it has events again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from operator import attrgetter
from typing import Any

from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from shadowwatch.metrics.metric import DaemonMetric, Value, VmMetric
from shadowwatch.snapshot import Distribution, VmSnapshot
from shadowwatch.watch import Watch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: So many templates are kept: VMs have few shapes, unless their levels, causes and policies come and go all the time.
TEMPLATES = 1000

#: What follows each metric in a template: a line that none of them has.
_END = ";\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _label(label: str, value: str) -> str:
    return f',{label}="{_escaped(value)}"'


def _full_name(metric: VmMetric | DaemonMetric) -> str:
    return f"shadowwatch_{metric.name}{'_total' if metric.type == 'counter' else ''}"


def _heading(metric: VmMetric | DaemonMetric) -> str:
    name = _full_name(metric)
    return f"# HELP {name} {metric.help}\n# TYPE {name} {'gauge' if metric.type == 'info' else metric.type}\n"


def _getter(metrics: Iterable[VmMetric]) -> Callable[[VmSnapshot], tuple[Any, ...]]:
    return attrgetter(*(str(metric.of) for metric in metrics))


_NAMED = [metric for metric in VM_METRICS if isinstance(metric.of, str)]
_HISTOGRAMS = [metric for metric in _NAMED if metric.type == "histogram"]
_ONE_VALUE = [metric for metric in _NAMED if metric not in _HISTOGRAMS and not metric.labels]
_BY_LEVEL = [metric for metric in _NAMED if metric not in _HISTOGRAMS and metric.labels]
_TOLD = [metric for metric in VM_METRICS if callable(metric.of)]

#: Their order in a template, in which _figures() has their numbers; and where each of VM_METRICS is in it.
_ORDER = (*_ONE_VALUE, *_BY_LEVEL, *_HISTOGRAMS, *_TOLD)
_PLACES = tuple(_ORDER.index(metric) for metric in VM_METRICS)

_values_of, _by_level_of, _histograms_of = map(_getter, (_ONE_VALUE, _BY_LEVEL, _HISTOGRAMS))
_needs_of = attrgetter(*(metric.needs or "name" for metric in _TOLD))


def _figures(vm: VmSnapshot) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The VM's shape, which is all that its lines have beside its name and numbers; and these, in the lines' order.

    This is the hot path of a scrape: a hundred numbers for a VM.
    """
    shape: list[Any] = []
    numbers = [*_values_of(vm)]
    if None in numbers:
        shape = [place for place, value in enumerate(numbers) if value is None]
        numbers = [value for value in numbers if value is not None]
    for values in _by_level_of(vm):
        shape.append((*values,))
        numbers += values.values()
    for values in _histograms_of(vm):
        if isinstance(values, Distribution):
            values = {0: values}
        shape.append((*values,))
        for _, counts, total in values.values():
            numbers += accumulate(counts)
            numbers += (numbers[-1], total)
    for place, needed in enumerate(_needs_of(vm)):
        if needed:
            shape.append(place)
            info = _TOLD[place].type == "info"
            for labels, value in _TOLD[place].samples(vm):
                if info:
                    # What they say is each VM's own.
                    numbers += [_escaped(label).encode() for label in labels]
                else:
                    shape.append(labels)
                numbers.append(value)
    return (*shape,), (*numbers,)


def _template(vm: VmSnapshot) -> list[bytes]:
    """The lines of all VMs of this one's shape, to be joined by what names a VM, with a % for each number."""
    before, pieces = "", []
    for metric in _ORDER:
        for labels, value in metric.samples(vm):
            told = ["%s"] * len(labels) if metric.type == "info" else [label.replace("%", "%%") for label in labels]
            # %d is faster, and of what is true or false %a is a word; what is told may be whole in one VM alone.
            number = "%d" if isinstance(value, int) and isinstance(metric.of, str) else "%a"
            for suffix, more, form in _lines(value, number):
                pieces.append(f"{before}{_full_name(metric)}{suffix}{{")
                before = f"{''.join(map(_label, metric.labels, told))}{more}}} {form}\n"
        before += _END
    return [piece.encode() for piece in (*pieces, before)]


def _lines(value: Value, number: str) -> Iterator[tuple[str, str, str]]:
    """Of each line of a sample what follows the metric's name, its last label, and the number's form."""
    if isinstance(value, Distribution):
        for bound in (*map(float, value.bounds), "+Inf"):
            yield "_bucket", f',le="{bound}"', "%d"
        yield "_count", "", "%d"
        yield "_sum", "", "%a"
    else:
        yield "", "", number


class Exposition:
    """A watch's metrics as text; what changed since the last time is made again."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        #: A VM's name -> its figures, and what each metric says of them, in _ORDER.
        self._known: dict[str, tuple[VmSnapshot, list[bytes]]] = {}
        self._templates: dict[tuple[Any, ...], list[bytes]] = {}

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
        self._known = {
            vm.name: known[vm.name] if vm.name in known and known[vm.name][0] is vm else (vm, self._texts(vm))
            for vm in now.vms
        }
        columns = [*zip(*(texts for _, texts in self._known.values()), strict=True)]
        for metric, place in zip(VM_METRICS, _PLACES, strict=True):
            yield b"".join((_heading(metric).encode(), *(columns[place] if columns else ())))

    def _texts(self, vm: VmSnapshot) -> list[bytes]:
        shape, numbers = _figures(vm)
        template = self._templates.get(shape)
        if template is None:
            if len(self._templates) == TEMPLATES:
                self._templates.clear()
            template = self._templates[shape] = _template(vm)
        named = _label("vm", vm.name.replace("%", "%%"))[1:].encode()
        return (named.join(template) % numbers).split(_END.encode())


def exposition(watch: Watch) -> bytes:
    """All of the watch's metrics."""
    return b"".join(Exposition(watch).pieces())
