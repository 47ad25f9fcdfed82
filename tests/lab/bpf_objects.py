# SPDX-License-Identifier: Apache-2.0
"""What there is of BPF in this kernel: a line for each program, map, link, key of a hash, and kprobe.

It runs in the lab, as root, with bpf(2). What systemd loads for its units is left out.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

SYS_BPF = 321  # of x86-64
#: enum bpf_cmd, include/uapi/linux/bpf.h
MAP_GET_NEXT_KEY, OBJ_GET_INFO_BY_FD = 4, 15
#: For each kind: GET_NEXT_ID, GET_FD_BY_ID, and where its info has a name (a link has none).
KINDS = {"program": (11, 13, 64), "map": (12, 14, 24), "link": (31, 30, None)}
NAME, INFO = 16, 256  # bytes
HASH = 1  # enum bpf_map_type

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Make the call; returns its result, or -errno, and the attributes as the kernel left them."""
    attr = ctypes.create_string_buffer(attributes, 128)
    result = _libc.syscall(SYS_BPF, command, attr, len(attr))
    return (-ctypes.get_errno() if result < 0 else result), attr.raw


def _keys(descriptor: int, key_size: int) -> int:
    """How many keys a hash has, while nobody changes it."""
    key, following = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(key_size)
    count, last = 0, 0
    while not _bpf(MAP_GET_NEXT_KEY, struct.pack("IxxxxQQ", descriptor, last, ctypes.addressof(following)))[0]:
        count += 1
        key.raw, last = following.raw, ctypes.addressof(key)
    return count


def _objects(kind: str) -> Iterator[str]:
    next_id, by_id, name_at = KINDS[kind]
    number = 0
    while True:
        result, attributes = _bpf(next_id, struct.pack("II", number, 0))
        if result:
            return
        (number,) = struct.unpack_from("4xI", attributes)
        descriptor, _ = _bpf(by_id, struct.pack("I", number))
        if descriptor < 0:  # it has just gone
            continue
        info = ctypes.create_string_buffer(INFO)
        _bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", descriptor, INFO, ctypes.addressof(info)))
        name = info.raw[name_at : name_at + NAME].rstrip(b"\0").decode() if name_at else ""
        if not name.startswith("sd_"):
            yield f"{kind} {name}".rstrip()
            type_, _, key_size = struct.unpack_from("III", info)
            if kind == "map" and type_ == HASH:
                yield from [f"key {name}"] * _keys(descriptor, key_size)
        os.close(descriptor)


def main() -> None:
    """Print them."""
    for kind in KINDS:
        for line in _objects(kind):
            print(line)
    for line in Path("/sys/kernel/debug/kprobes/list").read_text().splitlines():
        print("kprobe", line.split()[2])


if __name__ == "__main__":
    main()
