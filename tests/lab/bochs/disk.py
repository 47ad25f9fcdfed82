# SPDX-License-Identifier: Apache-2.0
"""A disk that a PC starts one kernel from, without a boot loader to install."""

import struct
from pathlib import Path

from tests.lab.command import output, require
from tests.lab.errors import LabError

BOOT = Path(__file__).parent / "boot.S"
BLOCK = 64 * 512  # what boot.S reads at once
CYLINDER = 16 * 63 * 512
PAGE = 4096
MEMORY_MAP = 0x7000  # where boot.S puts it

ELF_LOAD, ELF_NOTE = 1, 4
PVH_NOTE = (b"Xen\0", 18)  # XEN_ELFNOTE_PHYS32_ENTRY
START_MAGIC = 0x336EC578
START_INFO, MODULE, ARGUMENTS = 0, 64, 128  # in the page after the kernel


def write(target: Path, vmlinux: bytes, initramfs: bytes, arguments: str) -> None:
    """Write a disk that starts this kernel, an ELF file, by its PVH entry."""
    require("gcc")
    base, kernel, entry = _flat(vmlinux)
    kernel = _padded(kernel, PAGE)
    info = base + len(kernel)
    start = struct.pack("<4I4Q2I", START_MAGIC, 1, 0, 1, info + MODULE, info + ARGUMENTS, 0, MEMORY_MAP, 0, 0)
    module = struct.pack("<4Q", info + PAGE, len(initramfs), 0, 0)
    page = start.ljust(MODULE, b"\0") + module.ljust(ARGUMENTS - MODULE, b"\0") + arguments.encode()
    if len(page) >= PAGE:
        raise LabError("the kernel's arguments do not fit in a page: use fewer")
    content = _padded(kernel + page.ljust(PAGE, b"\0") + initramfs, BLOCK)
    symbols = {"ADDRESS": base, "BLOCKS": len(content) // BLOCK, "INFO": info, "ENTRY": entry}
    target.write_bytes(_padded(_boot_sector(target, symbols) + content, CYLINDER))


def _boot_sector(target: Path, symbols: dict[str, int]) -> bytes:
    made, linked = target.with_suffix(".o"), target.with_suffix(".boot")
    defined = ",".join(f"--defsym,{name}={value:#x}" for name, value in symbols.items())
    output(["gcc", "-m32", "-c", f"-Wa,{defined}", BOOT, "-o", made])
    output(["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat", "binary", made, "-o", linked])
    return linked.read_bytes()


def _flat(elf: bytes) -> tuple[int, bytes, int]:
    """Return where a kernel lies in memory, what is there, and where it is entered."""
    (table,), (count,) = struct.unpack_from("<Q", elf, 32), struct.unpack_from("<H", elf, 56)
    # Of each: type, flags, offset, virtual and physical address, size in the file and in memory, alignment.
    headers = [struct.unpack_from("<2I6Q", elf, table + 56 * index) for index in range(count)]
    loads = [header for header in headers if header[0] == ELF_LOAD]
    base = min(header[4] for header in loads)
    memory = bytearray(max(header[4] + header[6] for header in loads) - base)
    for _, _, offset, _, physical, size, _, _ in loads:
        memory[physical - base : physical - base + size] = elf[offset : offset + size]
    for kind, _, offset, _, _, size, _, _ in headers:
        if kind == ELF_NOTE and (entry := _pvh_entry(elf[offset : offset + size])):
            return base, bytes(memory), entry
    raise LabError("the kernel has no PVH entry: it was built without CONFIG_PVH")


def _pvh_entry(notes: bytes) -> int:
    at = 0
    while at < len(notes):
        name, size, kind = struct.unpack_from("<3I", notes, at)
        content = at + 12 + _rounded(name, 4)
        if (notes[at + 12 : at + 12 + name], kind) == PVH_NOTE:
            return int.from_bytes(notes[content : content + size], "little")
        at = content + _rounded(size, 4)
    return 0


def _padded(content: bytes, unit: int) -> bytes:
    return content.ljust(_rounded(len(content), unit), b"\0")


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
