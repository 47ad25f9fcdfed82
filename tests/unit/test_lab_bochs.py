# SPDX-License-Identifier: Apache-2.0
"""What Bochs starts from: a disk with a kernel, and modules without signatures."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.lab.bochs import disk
from tests.lab.bochs.host import SIGNED, unsigned
from tests.lab.errors import LabError

BASE, ENTRY = 0x1000000, 0x1000020
CODE = b"kernel" * 100


def note(kind: int, content: bytes) -> bytes:
    """One of Xen's notes."""
    return struct.pack("<3I4s", 4, len(content), kind, b"Xen") + content.ljust(-(-len(content) // 4) * 4, b"\0")


def kernel(*notes: bytes) -> bytes:
    """An ELF file of two pieces that lie apart in memory, and these notes."""
    said = b"".join(notes)
    start = 64 + 3 * 56
    pieces = [
        (1, 0, start, 0, BASE, len(CODE), len(CODE), 0),
        (1, 0, start, 0, BASE + 0x2000, len(CODE), 0x3000, 0),
        (4, 0, start + len(CODE), 0, 0, len(said), len(said), 0),
    ]
    head = bytearray(64)
    struct.pack_into("<Q", head, 32, 64)
    struct.pack_into("<H", head, 56, len(pieces))
    return bytes(head) + b"".join(struct.pack("<2I6Q", *piece) for piece in pieces) + CODE + said


def test_a_disk_has_the_kernel_as_it_is_to_lie_in_memory(tmp_path: Path) -> None:
    """After the boot sector: the pieces at their distance, what PVH wants to be told, and the initramfs."""
    target = tmp_path / "disk"
    disk.write(target, kernel(note(1, b"other"), note(18, ENTRY.to_bytes(8, "little"))), b"initramfs", "quiet")
    content = target.read_bytes()
    assert len(content) % disk.CYLINDER == 0
    assert content[510:512] == b"\x55\xaa"
    memory = content[512:]
    assert memory.startswith(CODE)
    assert memory[0x2000:].startswith(CODE)
    assert memory[0x2000 + len(CODE) : 0x5000].strip(b"\0") == b""
    info = memory[0x5000:]
    magic, version, _, modules, module_at, arguments_at, _, _, _, _ = struct.unpack_from("<4I4Q2I", info)
    assert (magic, version, modules) == (0x336EC578, 1, 1)
    assert memory[arguments_at - BASE :].startswith(b"quiet\0")
    address, size, _, _ = struct.unpack_from("<4Q", memory, module_at - BASE)
    assert memory[address - BASE :][:size] == b"initramfs"
    # The boot sector enters it there.
    assert struct.pack("<BI", 0xB8, ENTRY) in content[:512]


def test_a_kernel_without_an_entry_for_it_is_an_error(tmp_path: Path) -> None:
    """With the option that it lacks."""
    with pytest.raises(LabError, match=r"no PVH entry: .*CONFIG_PVH"):
        disk.write(tmp_path / "disk", kernel(note(1, b"other")), b"", "")


def test_a_modules_signature_is_taken_off() -> None:
    """And one that has none stays as it is."""
    module = b"\x7fELF module"
    signature = b"signature"
    signed = module + signature + struct.pack(">8xI", len(signature)) + SIGNED
    assert unsigned(signed) == module
    assert unsigned(module) == module
