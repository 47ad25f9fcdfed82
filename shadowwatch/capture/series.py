# SPDX-License-Identifier: Apache-2.0
"""One VM of a capture over time: counts and extremes in equal bins of time, whatever the number of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import sub
from typing import NamedTuple, TypeVar

from shadowwatch.capture.format import Reader, reading
from shadowwatch.event.abi import MOST_VMS, RECORD, UNCOUNTED, Batch, Event, Kind, decode, of_a_walk_in_vain
from shadowwatch.event.facts import Facts
from shadowwatch.mmu.pick import only, pick
from shadowwatch.snapshot import VmSnapshot
from shadowwatch.watch import Watch

#: So many bins a capture has: a panel of a printed page can hardly show more, and files stay small.
BINS = 300

_KVM, _NS, _MAPPED, _KIND, _FLAGS = (Event._fields.index(name) for name in ("kvm", "ns", "mapped", "kind", "flags"))
_MOST_SPANS = 4 * MOST_VMS
_COUNTING = frozenset({Kind.ALLOC, Kind.RECLAIM})

N = TypeVar("N", int, float)


class SawTooth:
    """How a figure goes up and down: its extremes, told apart as they come."""

    def __init__(self) -> None:
        #: Changes of direction.
        self.turns = 0
        self._way = 0
        self._last: int | None = None
        self._extreme = 0
        self._swings = 0
        self._travelled = 0

    def take(self, value: int) -> None:
        """The next value."""
        last, self._last = self._last, value
        if last is None:
            self._extreme = value
        if last is None or value == last:
            return
        way = 1 if value > last else -1
        if way == -self._way:
            self.turns += 1
            self._swing(last)
        self._way = way

    def _swing(self, extreme: int) -> None:
        self._swings += 1
        self._travelled += abs(extreme - self._extreme)
        self._extreme = extreme

    @property
    def amplitude(self) -> float:
        """Crest minus trough, the mean of all between two changes of direction; 0 when there were not two."""
        # The ways to the first extreme and from the last are no teeth.
        return self._travelled / self._swings if self._swings else 0.0


@dataclass(frozen=True, slots=True)
class Series:
    """One VM over time, in bins of `width` seconds from its first event on.

    `crests` are the tables of level 1 that a root leads to before the first reclaim of each bin, `troughs` those after
    it, and `fall` is the mean difference; without one both are as at the bin's end. `low` and `high` are the least and
    the most guest pages mapped in a bin (None before the kernel has told, or where it does not count them), `pages`
    the shadow pages by level at the end of each bin, `orphans` those of them that lost their last parent. All else is
    counted in the bin: `zaps` by cause, `directories` zapped by reclaim, the `recent` ones of these that were recently
    parented, `positions`, zaps that reclaim chose by tenth of the list, 0 the newest, and `limited` the refaults under
    the VM's limit and multiples of it, by these.
    `fault` says where the capture broke off.
    """

    path: str
    facts: Facts
    vm: VmSnapshot
    width: float
    crests: tuple[int, ...]
    troughs: tuple[int, ...]
    low: tuple[int | None, ...]
    high: tuple[int | None, ...]
    pages: Mapping[int, tuple[int, ...]]
    orphans: tuple[int, ...]
    zaps: Mapping[int, tuple[int, ...]]
    directories: tuple[int, ...]
    recent: tuple[int, ...]
    positions: tuple[tuple[int, ...], ...]
    fall: float
    limited: Mapping[float, tuple[float, ...]]
    amplitude: float
    turns: int
    fault: str | None

    @property
    def seconds(self) -> float:
        """From the VM's first event to its last."""
        return self.width * len(self.low)


@dataclass(slots=True)
class _Life:
    """The events at an address until a VM ended there, which is another one's then: their times and numbers."""

    first_ns: int
    last_ns: int
    first: int
    last: int
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Span:
    """Where one VM's events begin and end."""

    facts: Facts
    vm: VmSnapshot
    life: _Life
    fault: str | None


def lasting(batch: Batch) -> Batch:
    """The batch at no time: the model then keeps VMs that ended long before the capture does, each by its own name."""
    return batch._replace(now_ns=0)


class _Lives:
    """The VMs of a capture by their addresses, those of an address in their order."""

    def __init__(self) -> None:
        self._lives: dict[int, list[_Life]] = {}
        self._many = 0
        self._events = 0

    def take(self, records: bytes) -> None:
        """The next records."""
        for number, event in enumerate(decode(records)[0], self._events):
            kvm, ns, kind = event[_KVM], event[_NS], event[_KIND]
            lives = self._lives.get(kvm)
            if lives is None or lives[-1].over:
                if of_a_walk_in_vain(kind, event[_FLAGS]):
                    continue
                life = _Life(ns, ns, number, number)
                self._lives.setdefault(kvm, []).append(life)
                self._many += 1
            else:
                life = lives[-1]
                life.first_ns, life.last_ns = min(life.first_ns, ns), max(life.last_ns, ns)
                life.last = number
            life.over = kind == Kind.DESTROY
        self._events += len(records) // RECORD.size

    @property
    def too_many(self) -> bool:
        """Whether the model has forgotten most of them."""
        return self._many > _MOST_SPANS

    def keep(self, vms: Sequence[VmSnapshot]) -> None:
        """Forget those that the model has forgotten, which are the first."""
        kept = Counter(vm.kvm for vm in vms)
        self._lives = {kvm: lives[-kept[kvm] :] for kvm, lives in self._lives.items() if kept[kvm]}
        self._many = kept.total()

    def of(self, vms: Sequence[VmSnapshot], vm: VmSnapshot) -> _Life:
        """That of one of these, all VMs of the model."""
        later = [each.kvm for each in vms[vms.index(vm) + 1 :]].count(vm.kvm)
        lives = self._lives[vm.kvm]
        # Where a VM's end was lost, it and the next one have one life.
        return lives[max(0, len(lives) - 1 - later)]


def _span(reader: Reader, name: str | None) -> _Span:
    lives = _Lives()
    watch = Watch(reader.facts, reader.name_of)
    for batch in reader.whole_batches():
        watch.take(lasting(batch))
        lives.take(batch.records)
        if lives.too_many:
            lives.keep(watch.snapshot().vms)
    vms = watch.snapshot().vms
    if reader.fault and not vms:
        raise reader.fault
    vm = only(vms) if name is None else pick(vms, name)
    return _Span(reader.facts, vm, lives.of(vms, vm), str(reader.fault) if reader.fault else None)


class _Slice(NamedTuple):
    """Records, the bins that have ended with them, and whether a reclaim that is looked at is over or begins then."""

    records: bytes
    ended: int
    over: bool
    begins: bool


class _Sampler:
    """Fills the bins: extremes event by event, the model's counters when a bin ends."""

    def __init__(self, span: _Span, bins: int) -> None:
        self.bins = bins
        self.low: list[int | None] = [None] * bins
        self.high: list[int | None] = [None] * bins
        self.last: list[int | None] = [None] * bins
        self.samples: list[VmSnapshot | None] = []
        #: By bin, the tables in reach before and after its first reclaim.
        self.reached: list[list[int]] = [[] for _ in range(bins)]
        #: The bins in which there is one, and that of the reclaim that is not over.
        self.reclaimed: list[int] = []
        self._reclaiming: int | None = None
        self.saw_tooth = SawTooth()
        self._kvm = span.vm.kvm
        self._life = span.life
        self._events = 0
        self._first_ns = span.life.first_ns
        #: The last event belongs to the last bin.
        self.width_ns = (span.life.last_ns - span.life.first_ns) / bins or 1.0

    def cut(self, records: bytes) -> Iterator[_Slice]:
        """Slices of these records; the tree is looked at before and after the first reclaim of a bin."""
        begin = 0
        ended = len(self.samples)
        before, life = self._events, self._life
        self._events += len(records) // RECORD.size
        for number, event in enumerate(decode(records)[0]):
            if event[_KVM] != self._kvm or not life.first <= before + number <= life.last:
                continue
            # Processors' clocks may differ by a little: a bin that has ended stays so.
            bin_ = max(ended, min(self.bins - 1, int((event[_NS] - self._first_ns) / self.width_ns)))
            over = self._reclaiming is not None and event[_KIND] != Kind.ZAP
            begins = event[_KIND] == Kind.RECLAIM and not self.reached[bin_]
            if bin_ > ended or over or begins:
                yield _Slice(records[begin * RECORD.size : number * RECORD.size], bin_, over, begins)
                begin, ended = number, bin_
            if event[_KIND] in _COUNTING and event[_MAPPED] != UNCOUNTED:
                self._mapped(bin_, event[_MAPPED])
        yield _Slice(records[begin * RECORD.size :], ended, False, False)

    def _mapped(self, bin_: int, mapped: int) -> None:
        self.saw_tooth.take(mapped)
        low, high = self.low[bin_], self.high[bin_]
        self.low[bin_] = mapped if low is None else min(low, mapped)
        self.high[bin_] = mapped if high is None else max(high, mapped)
        self.last[bin_] = mapped

    def sample(self, vm: VmSnapshot | None, reached: int, until: int) -> None:
        """The VM is like this at the ends of the bins up to that one."""
        for bin_ in range(len(self.samples), until):
            self.samples.append(vm)
            if not self.reached[bin_]:
                self.reached[bin_] += [reached] * 2

    def look(self, slice_: _Slice, reached: int) -> None:
        """So many tables are in reach when a reclaim is over or begins."""
        if slice_.over and self._reclaiming is not None:
            self.reached[self._reclaiming].append(reached)
            self._reclaiming = None
        if slice_.begins:
            self._reclaiming = slice_.ended
            self.reclaimed.append(slice_.ended)
            self.reached[slice_.ended].append(reached)

    def end(self, vm: VmSnapshot | None, reached: int) -> None:
        """The capture is over."""
        self.sample(vm, reached, self.bins)
        self.look(_Slice(b"", self.bins, True, False), reached)


def read(path: str, name: str | None = None, bins: int = BINS) -> Series:
    """Read one VM of a capture, the only one with shadow pages without a name.

    The capture is read twice, so memory does not grow with it. ShadowwatchError when it is none, or has no such VM.
    """
    with reading(path) as reader:
        beginning = reader.place()
        span = _span(reader, name)
        name = span.vm.name
        reader.go_to(beginning)
        sampler = _Sampler(span, bins)
        watch = Watch(reader.facts, reader.name_of)
        for batch in map(lasting, reader.whole_batches()):
            for each in sampler.cut(batch.records):
                # What was missed is known at the end of the batch.
                watch.take(batch._replace(records=each.records, missed=watch.missed))
                ends = each.ended > len(sampler.samples)
                if ends or each.over or each.begins:
                    reached = watch.tables_in_reach(name)
                    sampler.look(each, reached)
                    if ends:
                        sampler.sample(watch.vm(name), reached, each.ended)
            if batch.missed != watch.missed:
                watch.take(batch._replace(records=b""))
        if reader.fault and not span.fault:
            raise reader.fault
        sampler.end(watch.vm(name), watch.tables_in_reach(name))
    return _series(path, span, sampler)


def _series(path: str, span: _Span, sampler: _Sampler) -> Series:
    samples = sampler.samples
    levels = sorted({level for vm in samples if vm for level in vm.pages})
    causes = sorted(span.vm.zaps_by_cause)
    crests, troughs = zip(*sampler.reached, strict=True)
    falls = [crests[bin_] - troughs[bin_] for bin_ in sampler.reclaimed]
    by_cause = [vm.zaps_by_cause if vm else {} for vm in samples]
    return Series(
        path=path,
        facts=span.facts,
        vm=span.vm,
        width=sampler.width_ns / 1e9,
        crests=crests,
        troughs=troughs,
        low=_carried(sampler.low, sampler.last),
        high=_carried(sampler.high, sampler.last),
        pages={level: tuple(vm.pages.get(level, 0) if vm else 0 for vm in samples) for level in levels},
        orphans=tuple(vm.orphans if vm else 0 for vm in samples),
        zaps={cause: _steps([by.get(cause, 0) for by in by_cause]) for cause in causes},
        directories=_steps([vm.reclaimed_directories if vm else 0 for vm in samples]),
        recent=_steps([vm.recently_parented if vm else 0 for vm in samples]),
        positions=tuple(zip(*(_steps(column) for column in zip(*map(_tenths, samples), strict=True)), strict=True)),
        fall=sum(falls) / len(falls) if falls else 0.0,
        limited={
            limited.times: _steps([_refaults(vm, limited.times) if vm else 0 for vm in samples])
            for limited in span.vm.limited
        },
        amplitude=sampler.saw_tooth.amplitude,
        turns=sampler.saw_tooth.turns,
        fault=span.fault,
    )


def _carried(values: list[int | None], last: list[int | None]) -> tuple[int | None, ...]:
    """Where nothing was told in a bin, it is as it was at the end of the one before."""
    carried: list[int | None] = []
    now = None
    for value, end in zip(values, last, strict=True):
        carried.append(now if value is None else value)
        now = now if end is None else end
    return tuple(carried)


def _refaults(vm: VmSnapshot, times: float) -> float:
    """Under so many times its limit: before KVM reclaims, as many as there were."""
    return next((limited.likely for limited in vm.limited if limited.times == times), vm.all_refaults)


def _steps(totals: Sequence[N]) -> tuple[N, ...]:
    return (*totals[:1], *map(sub, totals[1:], totals))


def _tenths(vm: VmSnapshot | None) -> tuple[int, ...]:
    """Zaps that reclaim chose, by tenth of the list; position 0 itself is in the first."""
    tenths = [0] * 10
    for distribution in vm.zap_position.values() if vm else ():
        for number, count in enumerate(distribution.counts[:11]):
            tenths[max(0, number - 1)] += count
    return tuple(tenths)
