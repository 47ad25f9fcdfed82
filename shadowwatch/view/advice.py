# SPDX-License-Identifier: Apache-2.0
"""The limit that would end a VM's refaults, and what it costs."""

from __future__ import annotations

from typing import NamedTuple

from shadowwatch.view.columns import Row

#: The lowest limit is advised that spares this share of the refaults.
ENOUGH = 0.9

#: What a shadow page takes of the host: 4 KiB of sptes, 4 KiB of shadowed_translation (gfns before v6.0, commit
#: 6a97575d5cc8) which pages for a guest's own tables have, and struct kvm_mmu_page, 184 to 224 bytes from 5.10 to 7.3.
PAGE_BYTES = 4096 + 4096 + 224


class Advice(NamedTuple):
    """A limit in shadow pages, the share of the refaults that it would have spared, and the bytes that it takes more.

    It is the lowest of those that are followed that spares ENOUGH, or else the highest.
    """

    limit: int
    spares: float
    memory: int

    @property
    def enough(self) -> bool:
        """Whether it would end nearly all refaults."""
        return self.spares >= ENOUGH

    @property
    def option(self) -> str:
        """QEMU's option that sets it, in bytes of sptes (accel/kvm/kvm-all.c, target/i386/kvm/kvm.c)."""
        return f"-machine kvm-shadow-mem={self.limit * 4096}"


def spared(there_would_be: float, refaults: float) -> float:
    """The share of so many refaults that is spared where there would be as many; estimates may be out of its bounds."""
    return min(max(1 - there_would_be / refaults, 0.0), 1.0)


def advice(row: Row) -> Advice | None:
    """What would have spared the VM most of its refaults since the look before; None when nothing says so."""
    refaults = row.limited()
    there_were = refaults.get(1.0, 0.0)
    found = None
    for times, there_would_be in refaults.items() if there_were > 0 else ():
        limit = round(row.vm.limit * times)
        # Of a VM whose limit KVM has not told, or set to 0, no multiple is higher.
        if limit > row.vm.limit:
            found = Advice(limit, spared(there_would_be, there_were), (limit - row.vm.limit) * PAGE_BYTES)
            if found.enough:
                break
    return found
