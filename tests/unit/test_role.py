# SPDX-License-Identifier: Apache-2.0
"""Roles, and which sptes a guest's write to its page table clears, against guest tables written out."""

from __future__ import annotations

import pytest

from shadowwatch.mmu.role import RoleLayout
from tests.unit.hosts import WHOLE

KERNELS = {name: host.role for name, host in WHOLE.items()}


def word(kernel: str, **fields: int) -> int:
    """A role of this kernel; `four_bytes` is the bit that it has for 4-byte guest entries, by its name there."""
    layout = KERNELS[kernel]
    four_bytes = fields.pop("four_bytes", 0)
    if "gpte_is_8_bytes" in layout:
        fields["gpte_is_8_bytes"] = 1 - four_bytes
    else:
        fields["has_4_byte_gpte"] = four_bytes
    role = 0
    for field, value in fields.items():
        bit, width = layout[field]
        assert value < 1 << width
        role |= value << bit
    return role


def shadowing(level: int, quadrant: int, four_bytes: int) -> dict[int, list[int]]:
    """Guest entry -> the sptes made from it in this shadow page, as 512 sptes translate a guest's table.

    Tables of 8-byte entries have one spte for each. A table of 1024 4-byte entries takes two
    shadow tables, its quadrants; a directory of 1024 takes four, since an entry that maps 4 MiB
    takes two sptes of 2 MiB.
    """
    if not four_bytes:
        return {entry: [entry] for entry in range(512)}
    sptes_each = 2 if level == 2 else 1
    made: dict[int, list[int]] = {entry: [] for entry in range(1024)}
    spte = 0
    for entry in range(1024):
        for _ in range(sptes_each):
            if spte // 512 == quadrant:
                made[entry].append(spte % 512)
            spte += 1
    return made


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("level", "quadrant", "four_bytes"),
    [
        *((level, 0, 0) for level in (1, 2, 3, 4, 5)),
        *((1, quadrant, 1) for quadrant in (0, 1)),
        *((2, quadrant, 1) for quadrant in (0, 1, 2, 3)),
    ],
)
def test_a_write_clears_the_sptes_made_from_what_was_there(
    kernel: str, level: int, quadrant: int, four_bytes: int
) -> None:
    """At each byte of the guest's table, on each kernel by the name that the bit has there."""
    roles = RoleLayout(KERNELS[kernel])
    role = word(kernel, level=level, quadrant=quadrant, four_bytes=four_bytes)
    made = shadowing(level, quadrant, four_bytes)
    for byte in range(0x1000):
        entry = byte // (4 if four_bytes else 8)
        cleared = [offset // 8 for offset in roles.written(role, 0x7_F000_0000 + byte)]
        assert cleared == made[entry], byte


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_page_that_shadows_no_table_keeps_its_sptes(kernel: str) -> None:
    """Direct pages everywhere, passthrough ones where the role knows them (since 5.19)."""
    roles = RoleLayout(KERNELS[kernel])
    fields = ["direct"] + ["passthrough"] * ("passthrough" in KERNELS[kernel])
    for field in fields:
        for four_bytes in (0, 1):
            role = word(kernel, level=2, four_bytes=four_bytes, **{field: 1})
            assert all(not roles.written(role, byte) for byte in range(0x1000))


def test_the_recorded_kernels_have_both_names_of_the_bit() -> None:
    """gpte_is_8_bytes until 5.16, has_4_byte_gpte since."""
    old = {kernel for kernel, layout in KERNELS.items() if "gpte_is_8_bytes" in layout}
    assert old == {"5.10", "u5.15"}
    assert all("has_4_byte_gpte" in layout for kernel, layout in KERNELS.items() if kernel not in old)


@pytest.mark.parametrize("kernel", KERNELS)
def test_level_and_invalid_are_read_where_this_kernel_has_them(kernel: str) -> None:
    """Bit 11 until 7.1, bit 12 in 7.3, where `access` grew."""
    roles = RoleLayout(KERNELS[kernel])
    everything_else = (1 << 32) - 1 & ~0xF
    for level in range(16):
        assert roles.levels[level | everything_else] == level
    assert roles.invalid == 1 << (12 if kernel.startswith("7.3") else 11)
    assert roles.field(word(kernel, level=3, quadrant=2), "quadrant") == 2
    assert roles.field(0xFFFF_FFFF, "no_such_field") == 0
