# SPDX-License-Identifier: Apache-2.0
"""What is in a capture as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from shadowwatch.capture.format import reading
from shadowwatch.event.abi import Event, decode
from shadowwatch.event.facts import Facts
from shadowwatch.snapshot import Snapshot
from shadowwatch.watch import Watch

_KIND = Event._fields.index("kind")


@dataclass(frozen=True, slots=True)
class Contents:
    """A capture read to its end: `kinds` counts events by Kind, the most frequent first, `size` is in bytes.

    `fault` says where it broke off, "" when it is whole.
    """

    path: str
    facts: Facts
    now: Snapshot
    kinds: Mapping[int, int]
    seconds: float
    size: int
    fault: str


def contents(path: str) -> Contents:
    """Read a capture; ShadowwatchError when it is none."""
    with reading(path) as reader:
        watch = Watch(reader.facts, reader.name_of)
        kinds: Counter[int] = Counter()
        first_ns = last_ns = 0
        for batch in reader.whole_batches():
            watch.take(batch)
            kinds.update(event[_KIND] for event in decode(batch.records)[0])
            first_ns, last_ns = first_ns or batch.now_ns, batch.now_ns
        return Contents(
            path=path,
            facts=reader.facts,
            now=watch.snapshot(),
            kinds=dict(kinds.most_common()),
            seconds=(last_ns - first_ns) / 1e9,
            size=reader.size,
            fault=str(reader.fault or ""),
        )
