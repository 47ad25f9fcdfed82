# SPDX-License-Identifier: Apache-2.0
"""What the mail claims, each one declaration: the claim, the figures that decide it, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from tests.experiment.figures import Effect, Figures, Place

#: Directories that had just been given a child are a problem when they are more than this part of those reclaimed.
MANY = 0.1
#: A walk is expensive when it takes more than this part of all instructions, and kills performance with more than that.
#: The mail has no figures for its words; these are ours.
EXPENSIVE, KILLS = 0.05, 0.2

#: Parts of less than this are shown with a digit more.
TENTHS = 0.1
#: So many places are named.
FEW = 8

Effects = Mapping[Place, Effect]


def falls(effect: Effect) -> int:
    """Less is what was claimed."""
    return -effect.sign


def above(limit: float) -> Callable[[Effect], int]:
    """More than this part everywhere is what was claimed; it is not so where it is less in all runs."""
    return lambda effect: 1 if min(effect.changes) > limit else -1 if max(effect.changes) < limit else 0


def percent(ratio: float, digits: int = 0) -> str:
    """A change, as people read it."""
    text = f"{100 * ratio:+.{digits}f} %".replace("-", "−")
    return f"{0:.0f} %" if not any(digit in text for digit in "123456789") else text


def share(part: float) -> str:
    """A part of something, as people read it."""
    return percent(part, 0 if abs(part) >= TENTHS else 1).removeprefix("+")


def over(effects: Effects, show: Callable[[float], str] = percent) -> str:
    """The medians of all places: their median, and their lowest and highest."""
    middles = [effect.median for effect in effects.values()]
    return f"{show(median(middles))} in the median ({show(min(middles))} to {show(max(middles))})"


def named(places: list[Place]) -> str:
    """Cases with their limits; only how many, if there are more than anybody would read."""
    if len(places) > FEW:
        return f"in {len(places)}"
    limits: dict[str, list[str]] = {}
    for case, limit in places:
        limits.setdefault(case, []).append("" if case.endswith(f"-{limit}") else f" {limit}")
    return ", ".join(case + " and".join(filter(None, (",".join(each[:-1]), each[-1]))) for case, each in limits.items())


@dataclass(frozen=True)
class Claim:
    """One claim: how it reads, what is measured, which sign of that bears it out, and what else there is to say."""

    says: str
    measures: str
    effects: Callable[[Figures], Effects]
    sign: Callable[[Effect], int]
    adds: Callable[[Figures], str] = lambda figures: ""
    show: Callable[[float], str] = percent

    def verdict(self, figures: Figures) -> str:
        """Confirmed where it is so everywhere, refuted where nowhere, and conditional in between."""
        signs = {self.sign(effect) for effect in self.effects(figures).values()}
        if not signs:
            return "not measured"
        if signs == {0}:
            return "no effect seen"
        if signs == {1}:
            return "confirmed"
        return "conditional" if 1 in signs else "refuted"

    def shows(self, figures: Figures) -> str:
        """The figures, and where it is otherwise."""
        effects = self.effects(figures)
        if not effects:
            return ""
        groups = {
            sign: [place for place, effect in effects.items() if self.sign(effect) == sign] for sign in (1, 0, -1)
        }
        said = f"{self.measures} {over(effects, self.show)}."
        if len(groups[1]) < len(effects):
            said += f" So in {len(groups[1])} of {len(effects)} guests and limits"
            for sign, words in ((0, "no effect seen"), (-1, "the other way")):
                said += f"; {words}: {named(groups[sign])}" if 0 < len(groups[sign]) < len(effects) else ""
            said += "."
        return f"{said} {self.adds(figures)}".strip()


def _seen(figures: Figures, of: Callable[[Place], Effect | None]) -> Effects:
    found = {place: of(place) for place in figures.places()}
    return {place: effect for place, effect in found.items() if effect}


def _walk(figures: Figures) -> str:
    each = [walk for place in figures.places() if (walk := figures.walk(place)) is not None]
    net = figures.effects("parents", "instructions")
    held = figures.effects("parents", "lock_ns")
    said = f"One walk takes {median(each):,.0f} instructions ({min(each):,.0f} to {max(each):,.0f})." if each else ""
    if net:
        said += f" With the faults that it spares, all instructions change by {over(net)}"
        said += f", and time under mmu_lock by {over(held)}." if held else "."
    return said


def _against_parents(figures: Figures) -> str:
    beyond = figures.effects("leaf-first", "page_faults", "parents")
    return f"Against `parents`: {over(beyond)}, without a single move." if beyond else ""


def _throttled(figures: Figures) -> str:
    beyond = figures.effects("mapped", "instructions", "parents")
    return "Computed from the mappings that KVM counted × the walk that was measured, since no kernel here does it." + (
        f" The throttled form, `mapped`, measured: {over(beyond)} beyond `parents`." if beyond else ""
    )


CLAIMS = (
    Claim(
        "The oldest page “can well be a directory level page holding a just added table level page”",
        "In stock order, of the directories that reclaim zapped, so many had been given a child less than one"
        " list-length of allocations before:",
        lambda figures: _seen(figures, figures.recent_share),
        above(MANY),
        show=share,
    ),
    Claim(
        "With parents moved up “there is less saw-toothing”",
        "Tables that a root leads to, from crest to trough:",
        lambda figures: figures.effects("parents", "in_reach_amplitude"),
        falls,
    ),
    Claim(
        "“… and also fewer changes overall”",
        "Changes of direction of that:",
        lambda figures: figures.effects("parents", "in_reach_turns"),
        falls,
    ),
    Claim(
        "“… because we don't zap mappings that are still in use as often”",
        "Page faults under `parents`:",
        lambda figures: figures.effects("parents", "page_faults"),
        falls,
    ),
    Claim(
        "“the list_move and parent walk are quite expensive”",
        f"More than {EXPENSIVE:.0%} of all instructions is expensive; the walks alone are".replace("%", " %"),
        lambda figures: _seen(figures, figures.walks),
        above(EXPENSIVE),
        _walk,
        share,
    ),
    Claim(
        "“It should really be done every time a new guest page table is mapped”",
        "Page faults under `mapped`, beyond those of `parents`:",
        lambda figures: figures.effects("mapped", "page_faults", "parents"),
        falls,
    ),
    Claim(
        "“This would obviously completely kill performance-wise”",
        f"More than {KILLS:.0%} of all instructions kills; walking at every mapping would add".replace("%", " %"),
        lambda figures: _seen(figures, figures.unthrottled),
        above(KILLS),
        _throttled,
        share,
    ),
    Claim(
        "“prefers ‘old’ PT_PAGE_TABLE_LEVEL over directories” would be another way",
        "Page faults under `leaf-first`:",
        lambda figures: figures.effects("leaf-first", "page_faults"),
        falls,
        _against_parents,
    ),
)
