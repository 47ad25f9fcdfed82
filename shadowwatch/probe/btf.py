# SPDX-License-Identifier: Apache-2.0
"""Struct layouts from the kernel's BTF (Documentation/bpf/btf.rst).

Read here and not by a library: bcc does not give its reader to Python, and bpftool and pahole are programs that a host
would need besides. Kernels of five years have one format, and what is not known of it is an error.
"""

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
#: typedef, volatile, const, restrict.
_NAMES_ANOTHER = (8, 9, 10, 11)

#: The parts of struct btf_type's info: from 7.3 on 24 bits of vlen and 7 of the kind, before 16 and 5, and those
#: between were 0 (include/uapi/linux/btf.h).
_VLEN, _KIND_SHIFT, _KIND = 0xFF_FFFF, 24, 0x7F

#: No struct is nested deeper (MAX_RESOLVE_DEPTH in kernel/bpf/btf.c), or has more members in all.
_DEEPEST, _MOST_MEMBERS = 32, 1 << 16

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
    """The data is no BTF, is damaged, or is of a newer kind than this reader."""


class Btf:
    """One BTF blob; a module's types and strings follow on from those of its `base`, vmlinux.

    Whatever is wrong with it is a BtfError, here or when it is asked for the first time.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        try:
            magic, _, _, header, types, types_len, strings, strings_len = _HEADER.unpack_from(data)
        except struct.error:
            magic = 0
        if magic != _MAGIC:
            raise BtfError("no BTF magic")
        if header + types + types_len > len(data) or header + strings + strings_len > len(data):
            raise BtfError("BTF ends before its types and strings do")
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
                kind = info >> _KIND_SHIFT & _KIND
                if kind in (_STRUCT, _UNION) and name:
                    self._composites.setdefault(name, self._first_id + len(positions))
                positions.append(position)
                fixed, each = _TAIL[kind]
                position += _TYPE.size + fixed + each * (info & _VLEN)
        except KeyError as error:
            raise BtfError(f"BTF type kind {error} is not known") from None
        except struct.error:
            raise BtfError("BTF ends inside a type") from None
        if position > end:
            raise BtfError("BTF ends inside a type")

    def _string(self, offset: int) -> str:
        if self._base and offset < self._first_string:
            return self._base._string(offset)
        start = offset - self._first_string
        try:
            return self._strings[start : self._strings.index(b"\0", start)].decode()
        except ValueError:
            raise BtfError(f"BTF has no string at {offset}") from None

    def _string_offset(self, text: str) -> int | None:
        found = self._strings.find(b"\0" + text.encode() + b"\0")
        if found >= 0:
            return self._first_string + found + 1
        return self._base._string_offset(text) if self._base else None

    def names(self, text: str) -> bool:
        """Whether something here or in the base has this name: a type, a member, a function or a value of an enum."""
        return self._string_offset(text) is not None

    def _type(self, type_id: int) -> tuple[Btf, int]:
        """The blob that has this type, and where in it."""
        if self._base and type_id < self._first_id:
            return self._base._type(type_id)
        if not self._first_id <= type_id < self._end_id:
            raise BtfError(f"BTF has no type {type_id}")
        return self, self._positions[type_id - self._first_id]

    def _members(self, type_id: int, start: int = 0, depth: int = 0) -> Iterator[tuple[str, int, int, int]]:
        if depth > _DEEPEST:
            raise BtfError("BTF has a struct that is in itself")
        owner, position = self._type(type_id)
        _, info, _ = _TYPE.unpack_from(owner._data, position)
        if info >> _KIND_SHIFT & _KIND not in (_STRUCT, _UNION):
            return
        for number in range(info & _VLEN):
            name, member_type, offset = _MEMBER.unpack_from(owner._data, position + _TYPE.size + number * _MEMBER.size)
            width = 0
            if info >> 31:  # kind_flag: the upper byte is the width of a bit field
                offset, width = offset & 0xFF_FFFF, offset >> 24
            if name:
                yield owner._string(name), start + offset, width, member_type
            else:
                # So that those who count see it, too, when there is nothing in it.
                yield "", start + offset, 0, member_type
                yield from self._members(member_type, start + offset, depth + 1)

    def _plain(self, type_id: int) -> int:
        """The type that typedefs and qualifiers lead to."""
        for _ in range(_DEEPEST):
            owner, position = self._type(type_id)
            _, info, following = _TYPE.unpack_from(owner._data, position)
            if info >> _KIND_SHIFT & _KIND not in _NAMES_ANOTHER:
                return type_id
            type_id = following
        raise BtfError("BTF has a type that is another name of itself")

    def _all_members(self, type_id: int, name: str) -> dict[str, tuple[int, int, int]]:
        members = {}
        for number, (member, *place) in enumerate(self._members(type_id)):
            if number == _MOST_MEMBERS:
                raise BtfError(f"BTF has a struct {name} without an end")
            if member:
                members[member] = (place[0], place[1], place[2])
        return members

    def members(self, name: str, *path: str) -> dict[str, tuple[int, int]]:
        """The members of `struct name` or `union name`: {member: (offset in bits, width of a bit field or 0)}.

        With a path, those of its member of that name, and so on, whatever that type is called. Members of anonymous
        structs and unions inside are listed as C sees them. Empty when there is no such type.
        """
        blob: Btf | None = self
        while blob:
            offset = blob._string_offset(name)
            type_id = blob._composites.get(offset) if offset else None
            if type_id is not None:
                members = blob._all_members(type_id, name)
                for step in path:
                    if step not in members:
                        return {}
                    members = blob._all_members(blob._plain(members[step][2]), name)
                return {member: (bits, width) for member, (bits, width, _) in members.items()}
            blob = blob._base
        return {}
