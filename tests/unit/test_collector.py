# SPDX-License-Identifier: Apache-2.0
"""Metrics as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from shadowwatch.event.abi import Batch
from shadowwatch.metrics.collector import exposition
from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from shadowwatch.watch import Watch
from tests.golden import matches
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
    watch = Watch(FACTS, {4711: "web1", 12: "gone", 13: "lossy"}.__getitem__)
    records = story.records() + ended.records() + lossy.records()
    watch.take(Batch(story.ns + 40_000_000, 2, 1, records + b"cut"))
    return watch


def parsed(watch: Watch) -> list[Metric]:
    """The exposition, read back by Prometheus' own parser."""
    return list(text_string_to_metric_families(exposition(watch).decode()))  # type: ignore[no-untyped-call]


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
