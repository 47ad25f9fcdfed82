# SPDX-License-Identifier: Apache-2.0
"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from shadowwatch.event.abi import Batch
from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from shadowwatch.metrics.metric import DaemonMetric, Samples, VmMetric
from shadowwatch.metrics.text import TEMPLATES, Exposition, exposition
from shadowwatch.mmu.model import KEEP_NS
from shadowwatch.snapshot import Distribution
from shadowwatch.watch import Watch
from tests.golden import matches
from tests.unit.lively import Guest
from tests.unit.story import FACTS, GUEST_WRITE, Story


def a_bit_of_everything() -> Watch:
    """One VM with each figure above 0, and one that has ended."""
    story = Story()
    story.mapped = 300
    story.alloc(1, level=3)
    story.alloc(2, level=2)
    story.link(1, 0, 2)
    for page in (10, 11, 13):
        story.alloc(page)
        story.link(2, page - 10, page)
    story.move(2)
    story.write(0x77000)
    story.reclaim()
    story.zap(2, level=2)
    story.zap(11, caller="__kvm_mmu_prepare_zap_page")
    story.zap(1, level=3, caller=GUEST_WRITE)
    story.zap(1, level=3, caller=GUEST_WRITE, invalid=True)
    story.zap(10)
    story.alloc(12, gfn=10)
    story.zap(99)
    ended = Story(kvm=0x1000, pid=12)
    ended.alloc(1)
    ended.destroy()
    lossy = Story(kvm=0x2000, pid=13)
    lossy.alloc(1)
    lossy.alloc(2)
    del lossy.events[0]
    lossy.used = 0
    lossy.alloc(3)
    lossy.zap(3)
    lossy.other(99)
    names = {4711: "web1", 12: "gone", 13: "lossy"}
    watch = Watch(FACTS, lambda pid: names.get(pid, f"{pid} %d%s"), ("parents",))
    records = story.records() + ended.records() + lossy.records()
    watch.take(Batch(story.ns + 40_000_000, 2, 1, records + b"cut"))
    return watch


def parsed(watch: Watch) -> list[Metric]:
    """The exposition, read back by Prometheus' own parser."""
    return list(text_string_to_metric_families(exposition(watch).decode()))


def test_the_exposition_is_what_it_was() -> None:
    """Golden: names, help, types, labels and values of everything."""
    matches("metrics.txt", exposition(a_bit_of_everything()).decode())


def test_every_declared_metric_is_exported_and_named_by_convention() -> None:
    """Prometheus' own parser reads it back; counters end in _total, units are base units."""
    families = {family.name: family for family in parsed(a_bit_of_everything())}
    for metric in (*VM_METRICS, *DAEMON_METRICS):
        name = f"shadowwatch_{metric.name}"
        family = families.get(name) or families[name.removesuffix("_total")]
        assert family.samples, name
        assert metric.help.endswith("."), name
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name


def test_no_two_samples_share_name_and_labels() -> None:
    """Prometheus would refuse the whole scrape."""
    seen = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in parsed(a_bit_of_everything())
        for sample in family.samples
    ]
    assert len(seen) == len(set(seen)) > 100


def declared(watch: Watch) -> Iterator[Metric]:
    """What the declarations say, as prometheus_client's own objects."""
    now = watch.snapshot()
    none: dict[str, str] = {}
    told: list[tuple[VmMetric | DaemonMetric, list[tuple[dict[str, str], Samples]]]] = [
        *((metric, [(none, metric.samples(now, FACTS))]) for metric in DAEMON_METRICS),
        *((metric, [({"vm": vm.name}, metric.samples(vm)) for vm in now.vms]) for metric in VM_METRICS),
    ]
    for metric, parts in told:
        type = "gauge" if metric.type == "info" else metric.type
        family = Metric(f"shadowwatch_{metric.name}", metric.help, type)
        for first, values, value in ((first, *sample) for first, samples in parts for sample in samples):
            labels = first | dict(zip(metric.labels, values, strict=True))
            if isinstance(value, Distribution):
                bounds = [*(str(float(bound)) for bound in value.bounds), "+Inf"]
                for bound, count in zip(bounds, accumulate(value.counts), strict=True):
                    family.add_sample(f"{family.name}_bucket", labels | {"le": bound}, count)
                family.add_sample(f"{family.name}_count", labels, sum(value.counts))
                family.add_sample(f"{family.name}_sum", labels, value.total)
            else:
                family.add_sample(family.name + ("_total" if type == "counter" else ""), labels, value)
        yield family


class Declared(Collector):
    """One family for prometheus_client to write."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        """That family."""
        return [self._family]


def by_prometheus_client(watch: Watch) -> list[Metric]:
    """The same written by prometheus_client from its own objects, and read back."""
    registry = CollectorRegistry()
    for family in declared(watch):
        registry.register(Declared(family))
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def test_it_says_what_was_declared_as_prometheus_client_would() -> None:
    """Every sample of one VM, whose name has all that needs an escape."""
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    story.zap(1, level=2)
    watch = Watch(FACTS, lambda _: 'a\\b"c%s%{0}ü')
    watch.take(Batch(story.ns, 0, 0, story.records()))
    theirs = by_prometheus_client(watch)
    assert parsed(watch) == theirs
    assert sum(len(family.samples) for family in theirs) > 80


@pytest.mark.parametrize("templates", [TEMPLATES, 1])
def test_vms_that_have_the_same_lines_keep_their_own_figures(templates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As prometheus_client would: they share a template, also when one VM's is forgotten for another's."""
    monkeypatch.setattr("shadowwatch.metrics.text.TEMPLATES", templates)
    watch = a_bit_of_everything()
    guests = [Guest(100 + number) for number in range(6)]
    kept = Exposition(watch)
    for turns in (1, 3, 30):
        for number, guest in enumerate(guests):
            for _ in range(turns + number // 2):
                guest.turn()
            watch.take(Batch(guest.story.ns, 0, 0, guest.take()))
        text = b"".join(kept.pieces()).decode()
        assert list(text_string_to_metric_families(text)) == by_prometheus_client(watch)
    assert 1 <= len(kept._templates) <= templates


def test_what_is_kept_from_the_last_scrape_is_still_true() -> None:
    """Scraped after each event, the text is that of a watch that heard the same and was never scraped before."""
    story, ended = Story(), Story(kvm=0x1000, pid=12)
    steps: list[tuple[Story, str, tuple[int, ...]]] = [
        (story, "alloc", (1, 3)),
        (story, "alloc", (2, 2)),
        (ended, "alloc", (1,)),
        (story, "link", (1, 0, 2)),
        (story, "write", (0x77000,)),
        (story, "reclaim", ()),
        (ended, "destroy", ()),
        (story, "zap", (2, 2)),
        (story, "zap", (99,)),
    ]
    names = {4711: "web1", 12: "gone"}.__getitem__
    scraped, batches = Watch(FACTS, names), []
    kept = Exposition(scraped)
    for number, (teller, call, arguments) in enumerate(steps):
        teller.ns = 10**9 + number
        getattr(teller, call)(*arguments)
        batches.append(Batch(2 * 10**9 + number, 0, 0, teller.records()))
        teller.events.clear()
        scraped.take(batches[-1])
        never_scraped = Watch(FACTS, names)
        for batch in batches:
            never_scraped.take(batch)
        assert b"".join(kept.pieces()) == exposition(never_scraped), call
    assert b'vm="gone"' in exposition(scraped)
    scraped.take(Batch(2 * 10**9 + KEEP_NS, 0, 0, b""))
    assert b'vm="gone"' not in b"".join(kept.pieces())
