# SPDX-License-Identifier: Apache-2.0
"""Reclaim policies, one small file each; POLICIES is all of them, by the kernel's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from shadowwatch.errors import ShadowwatchError
from shadowwatch.simulate.policies.leaf_first import LeafFirst
from shadowwatch.simulate.policies.mapped import Mapped
from shadowwatch.simulate.policies.newest import Newest
from shadowwatch.simulate.policies.parents import Parents
from shadowwatch.simulate.policies.stock import Stock

POLICIES: Mapping[str, type[Stock]] = {policy.name: policy for policy in (Stock, Parents, Mapped, LeafFirst, Newest)}

#: Those that can be estimated from what another one did.
SENSIBLE = tuple(name for name, policy in POLICIES.items() if policy.bounded)


def choose(names: Sequence[str] | None) -> tuple[str, ...]:
    """The policies of these names, the sensible ones without any; ShadowwatchError when there is none of a name."""
    for name in names or ():
        if name not in POLICIES:
            nearest = get_close_matches(name, POLICIES, 1)
            cure = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(POLICIES)}"
            raise ShadowwatchError(f"there is no reclaim policy {name}; {cure}")
    return tuple(dict.fromkeys(names)) if names else SENSIBLE
