# SPDX-License-Identifier: Apache-2.0
"""`union kvm_mmu_page_role`: the word, read by the layout of the kernel that wrote it."""

from __future__ import annotations

from collections.abc import Mapping


class _Levels(dict[int, int]):
    """role word -> level, worked out once for each of the few words that there are."""

    def __init__(self, shift: int, mask: int) -> None:
        super().__init__()
        self._shift = shift
        self._mask = mask

    def __missing__(self, role: int) -> int:
        level = self[role] = (role >> self._shift) & self._mask
        return level


class RoleLayout:
    """Where the bits of a role are: {field: (first bit, width)}.

    The layout moves between kernels (a8827c196146, v7.2, widened `access`, which moved `invalid`
    from bit 11 to 12), so it always comes from BTF, or from the capture that holds the words.
    """

    def __init__(self, fields: Mapping[str, tuple[int, int]]) -> None:
        shift, width = fields["level"]
        self.levels: dict[int, int] = _Levels(shift, (1 << width) - 1)
        self.invalid = 1 << fields["invalid"][0]
        self._fields = fields

    def field(self, role: int, name: str) -> int:
        """The value of a field, 0 when this kernel's role has none of the name."""
        bit, width = self._fields.get(name, (0, 0))
        return role >> bit & (1 << width) - 1

    def set_fields(self, role: int) -> list[tuple[str, int, int]]:
        """The fields that are not 0, but the level, as (name, value, width in bits), from the first bit on."""
        fields = sorted((bit, name, width) for name, (bit, width) in self._fields.items() if name != "level")
        values = ((name, role >> bit & (1 << width) - 1, width) for bit, name, width in fields)
        return [(name, value, width) for name, value, width in values if value]

    def written(self, role: int, address: int) -> range:
        """Offsets of the sptes that KVM clears when the guest writes to its table at this address.

        As get_written_sptes() of arch/x86/kvm/mmu/mmu.c does, the same from 5.10 to 7.3 but for
        the name of the bit: gpte_is_8_bytes became has_4_byte_gpte with the opposite meaning
        (bb3b394d35e8, v5.17). Empty when the page does not shadow what was written.
        """
        if self.field(role, "direct") or self.field(role, "passthrough"):
            return range(0)
        offset = address & 0xFFF
        four_bytes = "gpte_is_8_bytes" in self._fields and not self.field(role, "gpte_is_8_bytes")
        if not (four_bytes or self.field(role, "has_4_byte_gpte")):
            return range(offset & ~7, (offset & ~7) + 8, 8)
        count = 1
        offset <<= 1
        if self.levels[role] == 2:
            offset = (offset & ~7) << 1
            count = 2
        if offset >> 12 != self.field(role, "quadrant"):
            return range(0)
        offset &= 0xFF8
        return range(offset, offset + 8 * count, 8)
