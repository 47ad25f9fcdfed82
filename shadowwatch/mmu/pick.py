# SPDX-License-Identifier: Apache-2.0
"""Which VM somebody means."""

from __future__ import annotations

from collections.abc import Sequence

from shadowwatch.errors import ShadowwatchError
from shadowwatch.snapshot import VmSnapshot


def pick(vms: Sequence[VmSnapshot], wanted: str) -> VmSnapshot:
    """The VM of this name, or else of this pid; ShadowwatchError when there is none, or more than one."""
    found = [vm for vm in vms if vm.name == wanted] or [vm for vm in vms if str(vm.pid) == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise ShadowwatchError(f"{wanted} is more than one VM; choose from {_listed(found)}")
    if vms:
        raise ShadowwatchError(f"there is no VM {wanted}; choose from {_listed(vms)}")
    raise ShadowwatchError(
        f"there is no VM {wanted}, and no other either; start one, or look at another time or capture"
    )


def only(vms: Sequence[VmSnapshot]) -> VmSnapshot:
    """The one VM that has allocated shadow pages; ShadowwatchError when that is none, or more than one."""
    found = [vm for vm in vms if vm.allocations]
    if len(found) == 1:
        return found[0]
    if found:
        raise ShadowwatchError(f"there is more than one VM with shadow pages; choose with --vm from {_listed(found)}")
    raise ShadowwatchError("no VM has allocated a shadow page; record one that does")


def _listed(vms: Sequence[VmSnapshot]) -> str:
    return ", ".join(f"{vm.name} (pid {vm.pid}{', ended' if vm.ended else ''})" for vm in vms)
