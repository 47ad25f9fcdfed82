# SPDX-License-Identifier: Apache-2.0
"""From looks at a source to frames: what changed since the look before, and the last numbers of each VM."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from shadowwatch.source import Replay, Source
from shadowwatch.view.columns import SPARK, Row, pages, zaps
from shadowwatch.view.screen import Frame


class Frames:
    """Looks at a source again and again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._last: Frame | None = None
        self._cpu_ns: int | None = None
        self._pages: dict[str, deque[int]] = {}
        self._zaps: dict[str, deque[int]] = {}

    def look(self) -> Frame:
        """The next frame; the one before when nothing was heard since, and none before it when a replay went back."""
        status, now = self._source.status(), self._source.snapshot()
        last = self._last
        replay = self._source if isinstance(self._source, Replay) else None
        position, fault = (replay.position, replay.fault) if replay else (None, "")
        if last and now.now_ns == last.now.now_ns:
            self._last = replace(last, position=position, fault=fault)
            return self._last
        if last and now.now_ns < last.now.now_ns:
            last = None
            self._pages, self._zaps = {}, {}
        seconds = (now.now_ns - last.now.now_ns) / 1e9 if last else 0.0
        before = {(vm.kvm, vm.name): vm for vm in last.now.vms} if last else {}
        tdp = status.facts.paging.startswith("tdp_mmu")
        rows = []
        for vm in now.vms:
            row = Row(vm, before.get((vm.kvm, vm.name)), seconds, tdp)
            pages_before = self._pages.setdefault(vm.name, deque(maxlen=SPARK))
            zaps_before = self._zaps.setdefault(vm.name, deque(maxlen=SPARK))
            pages_before.append(pages(vm))
            zaps_before.append(row.change(zaps))
            rows.append(Row(vm, row.before, seconds, tdp, tuple(pages_before), tuple(zaps_before)))
        names = {vm.name for vm in now.vms}
        for kept in (self._pages, self._zaps):
            for name in kept.keys() - names:
                del kept[name]
        cpu = None
        if last and seconds and status.cpu_ns is not None and self._cpu_ns is not None:
            cpu = (status.cpu_ns - self._cpu_ns) / 1e9 / seconds
        self._cpu_ns = status.cpu_ns
        self._last = Frame(
            status=status,
            now=now,
            rows=rows,
            seconds=seconds,
            events=now.received - last.now.received if last else 0,
            cpu=cpu,
            position=position,
            length=replay.length if replay else 0.0,
            fault=fault,
        )
        return self._last
