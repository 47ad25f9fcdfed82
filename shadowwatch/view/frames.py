# SPDX-License-Identifier: Apache-2.0
"""From looks at a source to frames: what changed since the look before, and the last numbers of each VM."""

from __future__ import annotations

from collections import deque

from shadowwatch.source import Source
from shadowwatch.view.columns import SPARK, Row, Tick
from shadowwatch.view.screen import Frame


class Frames:
    """Looks at a source again and again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._last: Frame | None = None
        self._cpu_ns: int | None = None
        self._ticks: dict[str, deque[Tick]] = {}

    def at(self, position: float, step: float) -> Frame:
        """The frame of a replay there, of what happened in the `step` seconds before: the same however one came there.

        Only the ticks before that are those of what was seen, as far as it was earlier.
        """
        replay = self._source.replay
        assert replay
        position = min(position, replay.length)
        self._last = None
        for seconds in (position - step, position):
            replay.seek(seconds)
            frame = self.look()
        # It broke off before that.
        return frame if position <= replay.length else self.at(replay.length, step)

    def look(self) -> Frame:
        """The next frame; the one before when no time has passed since."""
        status, now = self._source.status(), self._source.snapshot()
        last = self._last
        if last and now.now_ns == last.now.now_ns:
            return last
        seconds = (now.now_ns - last.now.now_ns) / 1e9 if last else 0.0
        before = {(vm.kvm, vm.pid, vm.name): vm for vm in last.now.vms} if last else {}
        facts = status.facts
        tdp = facts.paging.startswith("tdp_mmu")
        rows = []
        for vm in now.vms:
            then = before.get((vm.kvm, vm.pid, vm.name))
            ticks = self._ticks.setdefault(vm.name, deque(maxlen=SPARK))
            while ticks and ticks[-1].now_ns > now.now_ns:
                ticks.pop()
            if seconds:
                ticks.append(Tick(now.now_ns, vm.all_pages, vm.all_zaps - (then.all_zaps if then else 0)))
            rows.append(Row(vm, then, seconds, tdp, tuple(ticks), facts.table_seconds, facts.fill_seconds))
        for name in self._ticks.keys() - {vm.name for vm in now.vms}:
            del self._ticks[name]
        cpu = None
        if seconds and status.cpu_ns is not None and self._cpu_ns is not None:
            cpu = (status.cpu_ns - self._cpu_ns) / 1e9 / seconds
        self._cpu_ns = status.cpu_ns
        replay = self._source.replay
        self._last = Frame(
            status=status,
            now=now,
            rows=rows,
            seconds=seconds,
            events=now.received - last.now.received if last else 0,
            cpu=cpu,
            position=replay.position if replay else None,
            length=replay.length if replay else 0.0,
            fault=replay.fault if replay else "",
        )
        return self._last
