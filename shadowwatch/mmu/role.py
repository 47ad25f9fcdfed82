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

    The layout moves between kernels (7.3 widened `access` and moved `invalid` from bit 11
    to 12), so it always comes from BTF, or from the capture that holds the words.
    """

    def __init__(self, fields: Mapping[str, tuple[int, int]]) -> None:
        shift, width = fields["level"]
        self.levels: dict[int, int] = _Levels(shift, (1 << width) - 1)
        self.invalid = 1 << fields["invalid"][0]
