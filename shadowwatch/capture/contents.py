# SPDX-License-Identifier: Apache-2.0
"""What is in a capture as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from shadowwatch.capture.format import reading
from shadowwatch.capture.series import lasting
from shadowwatch.event.abi import Event, decode
from shadowwatch.event.facts import Facts
from shadowwatch.snapshot import Snapshot
from shadowwatch.watch import Watch

_KIND = Event._fields.index("kind")


@dataclass(frozen=True, slots=True)
class Contents:
    """A capture read to its end: `kinds` counts events by Kind, the most frequent first, `size` is in bytes.

    VMs that ended are in `now`, too, however long before; `left` more are not, which ended before those.
    `fault` says where it broke off, "" when it is whole.
    """

    path: str
    facts: Facts
    now: Snapshot
    left: int
    kinds: Mapping[int, int]
    seconds: float
    size: int
    fault: str


def contents(path: str) -> Contents:
    """Read a capture; ShadowwatchError when it is none."""
    with reading(path) as reader:
        watch = Watch(reader.facts, reader.name_of)
        kinds: Counter[int] = Counter()
        first_ns = last_ns = vms = 0
        for batch in reader.whole_batches():
            vms += len(watch.take(lasting(batch)))
            kinds.update(event[_KIND] for event in decode(batch.records)[0])
            first_ns, last_ns = first_ns or batch.now_ns, batch.now_ns
        now = watch.snapshot()
        return Contents(
            path=path,
            facts=reader.facts,
            now=now,
            left=vms - len(now.vms),
            kinds=dict(kinds.most_common()),
            seconds=(last_ns - first_ns) / 1e9,
            size=reader.size,
            fault=str(reader.fault or ""),
        )
