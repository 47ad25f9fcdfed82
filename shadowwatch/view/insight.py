# SPDX-License-Identifier: Apache-2.0
"""What the figures mean, in a sentence: which VM thrashes, whether reclaim's order is to blame, and what would help."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from shadowwatch.errors import counted
from shadowwatch.event.facts import PAGING
from shadowwatch.simulate.policies import SPARING
from shadowwatch.snapshot import Cause, VmSnapshot
from shadowwatch.source import Status
from shadowwatch.view.advice import advice
from shadowwatch.view.columns import DIRECTORIES, RECENT, RECLAIMED, Row

#: A VM that reclaims its whole limit in less than this many seconds thrashes.
THRASHING_SECONDS = 10.0
#: From this share of the reclaimed directories on, the order is to blame.
LARGE_SHARE = 0.25
#: What a directory is, for those who have not met one.
_DIRECTORIES = "directories (tables that point to tables)"
_GAINED = "had just gained a child, which went with them"
#: What else takes pages away in numbers -> why, and what can be done about it; no limit helps.
_OTHERWISE: Mapping[frozenset[Cause], tuple[str, str]] = {
    frozenset({Cause.GUEST_WRITE, Cause.UNPROTECT}): (
        "its guest writes to its page tables",
        "Nested paging would end that, if the processor has it; larger pages in the guest make it rarer.",
    ),
    frozenset({Cause.MEMSLOT, Cause.ZAP_ALL}): (
        "its memory slots change, or all pages are to go",
        "Look for what does that in its VMM: memory that is plugged in and out, a display, devices.",
    ),
    frozenset({Cause.NX_RECOVERY}): (
        "they were split for nx_huge_pages and are to be huge again",
        "See kvm's parameters nx_huge_pages and nx_huge_pages_recovery_ratio.",
    ),
    frozenset({Cause.PARENT_CAP}): (
        "a page has 1,000 parents and gets one more",
        "Nested paging would end that, if the processor has it.",
    ),
}
#: A limit that spares a smaller share of the refaults is not worth its memory.
LITTLE = 0.1
#: Less of a processor is not worth a sentence.
LITTLE_TIME = 0.005


def insight(rows: Sequence[Row], status: Status) -> str:
    """One sentence or two about the VM that fares worst, or why there is nothing to say."""
    living = [row for row in rows if not row.vm.ended]
    paging = status.facts.paging
    if paging.startswith("tdp_mmu") and not any(row.vm.pages for row in living):
        return f"{PAGING[paging]}."
    if not living:
        return "No VM is running."
    newest = next((row.vm.name for row in living if row.vm.newest_first), None)
    if newest:
        cure = "set reclaim_policy to stock, or boot another kernel where there is none"
        return f"{newest}: reclaim takes the newest pages, as Linux 5.9 to 5.11.1 did by mistake; {cure}."
    if not living[0].seconds:
        return "Measuring: rates come with the next update."
    worst = ranked(living)[0]
    name, rate = worst.vm.name, worst.rate(RECLAIMED)
    reclaims = f"KVM reclaims {counted(round(rate), 'shadow page')}/s"
    if not _thrashes(worst) and (otherwise := _otherwise(living)):
        return otherwise
    if not rate:
        return "KVM reclaims no shadow pages now."
    if not _thrashes(worst):
        few = f"few for its limit of {worst.vm.limit:,}; it does not thrash"
        return f"{name}: {reclaims}, {few}."
    thrashes = f"{name} thrashes: {reclaims} at its limit of {worst.vm.limit:,}"
    return " ".join(filter(None, (f"{thrashes}{_time(worst)}.", _limit(worst), _order(worst, status))))


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The VMs in the order in which they need somebody: the one that fares worst is first, those that ended are last.

    Of those that fare alike, those come first that have had more recently parented zaps, then by their names.
    """
    by_name = sorted(rows, key=lambda row: row.vm.name)
    return sorted(by_name, key=lambda row: (not row.vm.ended, *_badness(row), RECENT(row.vm)), reverse=True)


def _otherwise(rows: Sequence[Row]) -> str:
    """Which VM loses as many pages as it may have in that time for another cause, and why; nothing if none does."""
    losses = [
        (row.rate(partial(_zapped, causes=causes)), row, said) for row in rows for causes, said in _OTHERWISE.items()
    ]
    rate, row, (why, cure) = max(losses, key=lambda loss: loss[0] / max(1, loss[1].vm.limit))
    if rate * THRASHING_SECONDS < max(1, row.vm.limit):
        return ""
    return f"{row.vm.name}: KVM zaps {counted(round(rate), 'shadow page')}/s because {why}; no limit helps. {cure}"


def _zapped(vm: VmSnapshot, *, causes: Collection[Cause]) -> int:
    return sum(zaps for (_, cause), zaps in vm.zaps.items() if cause in causes)


def _time(row: Row) -> str:
    """What that takes, as the end of a sentence; nothing where it is too little to say."""
    least, most = row.loses()
    if most < LITTLE_TIME:
        return ""
    what = "which" if row.table_seconds else "and reclaim alone"
    bounds = f"{least:.0%}", f"{most:.0%}"
    between = f" ({bounds[0]} to {bounds[1]})" if bounds[0] != bounds[1] else ""
    return f", {what} takes {(least + most) / 2:.0%} of a processor{between}"


def _limit(row: Row) -> str:
    """What a higher limit would do, in a sentence; nothing where it is not known."""
    advised = advice(row)
    if advised is None:
        return ""
    if advised.spares < LITTLE:
        return f"Even a limit of {advised.limit:,} would spare only {advised.spares:.0%} of its refaults."
    memory = f"{advised.memory / (1 << 20):,.1f} MiB"
    return f"A limit of {advised.limit:,} would spare {advised.spares:.0%} of its refaults, for {memory}."


def _order(row: Row, status: Status) -> str:
    """Whether the order of reclaim is to blame: what would help before the reason, which may be cut off."""
    directories, recent = row.change(DIRECTORIES), row.change(RECENT)
    if directories and recent / directories >= LARGE_SHARE:
        return _cure(row, status, f"{recent / directories:.0%}")
    needs = "" if advice(row) else "The VM needs a higher limit. "
    some = f"only {recent:,} of the {directories:,}" if recent else "none of the"
    return f"{needs}The order of reclaim is not to blame: {some} reclaimed {_DIRECTORIES} had just gained a child."


def _turnover(row: Row) -> float:
    """How many times its limit a VM reclaims in a second."""
    return row.rate(RECLAIMED) / max(1, row.vm.limit)


def _thrashes(row: Row) -> bool:
    return _turnover(row) * THRASHING_SECONDS >= 1


def _badness(row: Row) -> tuple[bool, float, float, float]:
    """A VM that thrashes is worse than any that does not, and then one that loses more time, in whole percents."""
    return _thrashes(row), round(sum(row.loses()) / 2, 2), row.rate(RECENT), _turnover(row)


def _cure(row: Row, status: Status, share: str) -> str:
    """What would keep the directories that reclaim takes; `share` of them had just gained a child."""
    limit = advice(row)
    lost = f"{share} of the reclaimed {_DIRECTORIES} {_GAINED}"
    if status.policy in SPARING:
        needs = "" if limit else "A higher limit would help: "
        return f"{needs}reclaim_policy {status.policy} keeps what it can already, and still {lost}."
    policy, spared = _best(row)
    cure = f"reclaim_policy {policy}" if status.policy else f"A KVM with reclaim_policy {policy}"
    if spared is None:
        may = "" if status.policy or limit else "A higher limit may help. "
        return f"{may}{cure} would keep {_DIRECTORIES} that are in use: {share} of those reclaimed {_GAINED}."
    if spared <= 0:
        needs = "" if limit else "The VM needs a higher limit: "
        return f"{needs}{cure} would save no page faults, although {lost}."
    return f"{cure} would save about {spared:.0%} of its page faults: {lost}."


def _best(row: Row) -> tuple[str, float | None]:
    """The policy that would keep them with the fewest page faults, and the share that it saves; None: no estimate."""
    shares = {policy: _spared(row, policy) for policy in SPARING if policy in row.vm.what_if}
    known = {policy: share for policy, share in shares.items() if share is not None}
    return max(known.items(), key=lambda one: one[1], default=(SPARING[0], None))


def _spared(row: Row, policy: str) -> float | None:
    """The share of the page faults that a policy is estimated to save; None when none are known."""
    faults = row.change(partial(_recorded, policy=policy))
    if faults <= 0:  # below 0 when the daemon was restarted meanwhile
        return None
    return round(1 - row.change(partial(_likely, policy=policy)) / faults, 2)


def _likely(vm: VmSnapshot, *, policy: str) -> int:
    """Page faults that build page tables, as estimated for a policy."""
    estimate = vm.what_if.get(policy)
    return round(estimate.likely_faults) if estimate else 0


def _recorded(vm: VmSnapshot, *, policy: str) -> int:
    """The same as they were, 0 without an estimate to compare them with."""
    return vm.what_if[policy].recorded_faults if policy in vm.what_if else 0
