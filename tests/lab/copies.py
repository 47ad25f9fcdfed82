# SPDX-License-Identifier: Apache-2.0
"""Copy a large value into a BPF map again and again, until this is ended or its standard input is.

While the kernel copies it runs no kprobe's program on this processor (bpf_disable_instrumentation()), and one that is
preemptible lets others have the processor meanwhile: a VM that faults then is heard of by nobody. It runs in the lab,
as root.
"""

import ctypes
import os
import select
import struct
import sys

SYS_BPF = 321  # of x86-64
#: enum bpf_cmd and bpf_map_type, include/uapi/linux/bpf.h
MAP_CREATE, MAP_UPDATE_ELEM, ARRAY = 0, 2, 2
VALUE = 4 << 20  # bytes, as many as a value may have

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    attr = ctypes.create_string_buffer(attributes, 128)
    result: int = _libc.syscall(SYS_BPF, command, attr, len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main() -> None:
    """Say that it begins, and go on."""
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(VALUE)
    descriptor = _bpf(MAP_CREATE, struct.pack("IIIII", ARRAY, len(key), VALUE, 1, 0))
    update = struct.pack("IxxxxQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value), 0)
    print("copies", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        _bpf(MAP_UPDATE_ELEM, update)


if __name__ == "__main__":
    main()
