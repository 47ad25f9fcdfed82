# SPDX-License-Identifier: Apache-2.0
"""Reclaim policies, one small file each; POLICIES is all of them, by the kernel's names.

What is simulated is a policy, under the limit that a VM had or another one: `parents`, `stock@128`, `stock@2x`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shadowwatch.errors import ShadowwatchError, clipped, meant
from shadowwatch.simulate.policies.accessed import Accessed
from shadowwatch.simulate.policies.childless import Childless
from shadowwatch.simulate.policies.leaf_first import LeafFirst
from shadowwatch.simulate.policies.mapped import Mapped
from shadowwatch.simulate.policies.newest import Newest
from shadowwatch.simulate.policies.parents import Parents
from shadowwatch.simulate.policies.stock import Stock

POLICIES: Mapping[str, type[Stock]] = {
    policy.name: policy for policy in (Stock, Parents, Mapped, LeafFirst, Childless, Accessed, Newest)
}

#: Those that can be estimated from what another one did.
SENSIBLE = tuple(name for name, policy in POLICIES.items() if policy.bounded)

#: Those that keep directories that are in use, the best first: what is recommended to who loses such.
SPARING = (Accessed.name, Childless.name, Parents.name, Mapped.name)


#: KVM_MIN_ALLOC_MMU_PAGES: KVM takes no lower limit from a VMM (arch/x86/include/asm/kvm_host.h).
LOWEST = 64
HIGHEST = 1 << 31

_LIMIT = re.compile(r"(\d{1,10})|(\d{1,6}(?:\.\d{1,6})?)x")


class Limit(NamedTuple):
    """So many shadow pages, or so many times as many as the VM had; 0 is neither."""

    pages: int = 0
    times: float = 0.0

    def instead_of(self, limit: int) -> int:
        """What the limit would have been where it was this one."""
        return self.pages or max(LOWEST, round(limit * self.times)) if self != AS_RECORDED else limit

    def too_low(self, limit: int) -> bool:
        """Whether it is a multiple that makes less of this limit than KVM takes."""
        return self.times > 0 and round(limit * self.times) < LOWEST


AS_RECORDED = Limit()


def limit(text: str) -> Limit:
    """The limit that is meant by `128` or `2x`; ShadowwatchError when none is."""
    found = _LIMIT.fullmatch(text)
    meant = Limit(int(found[1] or 0), float(found[2] or 0)) if found else AS_RECORDED
    if not (LOWEST <= meant.pages < HIGHEST or meant.times > 0):
        raise ShadowwatchError(
            f"{clipped(text)!r} is not a limit; give a number of shadow pages from {LOWEST} on, or times the VM's"
            " own, such as 2x"
        )
    return meant


def parsed(name: str) -> tuple[type[Stock], Limit]:
    """The policy and the limit that a name stands for; ShadowwatchError when there is none."""
    policy, at, text = name.partition("@")
    if policy not in POLICIES:
        raise ShadowwatchError(f"there is no reclaim policy {clipped(policy)}; {meant(policy, POLICIES)}")
    return POLICIES[policy], limit(text) if at else AS_RECORDED


def choose(names: Sequence[str] | None, limits: Sequence[str] = ()) -> tuple[str, ...]:
    """These policies, the sensible ones without any, under the recorded limit and under each of these.

    ShadowwatchError when there is no policy of a name, or a limit is none.
    """
    for text in limits:
        limit(text)
    chosen = [
        name if not text else f"{name}@{text}"
        for name in names or SENSIBLE
        for text in ("", *(limits if "@" not in name else ()))
    ]
    for name in chosen:
        parsed(name)
    return tuple(dict.fromkeys(chosen))
