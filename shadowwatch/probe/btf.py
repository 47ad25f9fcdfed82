# SPDX-License-Identifier: Apache-2.0
"""Struct layouts from the kernel's BTF (Documentation/bpf/btf.rst)."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_MAGIC = 0xEB9F
_STRUCT, _UNION = 4, 5

#: kind -> (bytes after struct btf_type, bytes for each of its vlen entries)
_TAIL = {
    1: (4, 0),
    2: (0, 0),
    3: (12, 0),
    4: (0, 12),
    5: (0, 12),
    6: (0, 8),
    7: (0, 0),
    8: (0, 0),
    9: (0, 0),
    10: (0, 0),
    11: (0, 0),
    12: (0, 0),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    16: (0, 0),
    17: (4, 0),
    18: (0, 0),
    19: (0, 12),
}


class BtfError(ValueError):
    """The data is no BTF, or of a newer kind than this reader."""


class Btf:
    """One BTF blob; a module's types and strings follow on from those of its `base`, vmlinux."""

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        try:
            magic, _, _, header, types, types_len, strings, strings_len = _HEADER.unpack_from(data)
        except struct.error:
            magic = 0
        if magic != _MAGIC:
            raise BtfError("no BTF magic")
        self._base = base
        self._data = data
        self._strings = data[header + strings : header + strings + strings_len]
        self._first_string = base._end_string if base else 0
        self._end_string: int = self._first_string + strings_len
        self._first_id = base._end_id if base else 1
        self._positions = array("I")
        self._composites: dict[int, int] = {}
        self._scan(header + types, header + types + types_len)
        self._end_id: int = self._first_id + len(self._positions)

    @classmethod
    def load(cls, path: Path, base: Btf | None = None) -> Self:
        """Read a file such as /sys/kernel/btf/kvm; OSError or BtfError when that fails."""
        return cls(path.read_bytes(), base)

    def _scan(self, position: int, end: int) -> None:
        data, positions = self._data, self._positions
        try:
            while position < end:
                name, info, _ = _TYPE.unpack_from(data, position)
                kind = info >> 24 & 0x1F
                if kind in (_STRUCT, _UNION) and name:
                    self._composites.setdefault(name, self._first_id + len(positions))
                positions.append(position)
                fixed, each = _TAIL[kind]
                position += _TYPE.size + fixed + each * (info & 0xFFFF)
        except KeyError as error:
            raise BtfError(f"BTF type kind {error} is not known") from None
        except struct.error:
            raise BtfError("BTF ends inside a type") from None

    def _string(self, offset: int) -> str:
        if self._base and offset < self._first_string:
            return self._base._string(offset)
        start = offset - self._first_string
        return self._strings[start : self._strings.index(b"\0", start)].decode()

    def _string_offset(self, text: str) -> int | None:
        found = self._strings.find(b"\0" + text.encode() + b"\0")
        if found >= 0:
            return self._first_string + found + 1
        return self._base._string_offset(text) if self._base else None

    def _owner(self, type_id: int) -> Btf:
        return self._base._owner(type_id) if self._base and type_id < self._first_id else self

    def _members(self, type_id: int, start: int = 0) -> Iterator[tuple[str, int, int]]:
        owner = self._owner(type_id)
        position = owner._positions[type_id - owner._first_id]
        _, info, _ = _TYPE.unpack_from(owner._data, position)
        if info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return
        for number in range(info & 0xFFFF):
            name, member_type, offset = _MEMBER.unpack_from(owner._data, position + _TYPE.size + number * _MEMBER.size)
            width = 0
            if info >> 31:  # kind_flag: the upper byte is the width of a bit field
                offset, width = offset & 0xFF_FFFF, offset >> 24
            if name:
                yield owner._string(name), start + offset, width
            else:
                yield from self._members(member_type, start + offset)

    def members(self, name: str) -> dict[str, tuple[int, int]]:
        """The members of `struct name` or `union name`: {member: (offset in bits, width of a bit field or 0)}.

        Members of anonymous structs and unions inside are listed as C sees them. Empty when
        there is no such type.
        """
        blob: Btf | None = self
        while blob:
            offset = blob._string_offset(name)
            type_id = blob._composites.get(offset) if offset else None
            if type_id is not None:
                return {member: (bits, width) for member, bits, width in blob._members(type_id)}
            blob = blob._base
        return {}
