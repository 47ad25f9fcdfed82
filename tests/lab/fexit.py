# SPDX-License-Identifier: Apache-2.0
"""Trace the end of functions of the kvm module with a BPF program that does nothing, until standard input ends.

It runs in the lab, as root, with bpf(2): bcc knows the functions of vmlinux only.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

SYS_BPF = 321  # of x86-64
#: enum bpf_cmd, bpf_prog_type and bpf_attach_type, include/uapi/linux/bpf.h
PROG_LOAD, OBJ_GET_INFO_BY_FD, RAW_TRACEPOINT_OPEN, BTF_GET_FD_BY_ID, BTF_GET_NEXT_ID = 5, 15, 17, 19, 23
TRACING, TRACE_FEXIT = 26, 25
#: r0 = 0; exit
NOTHING = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
FUNC = 12  # enum in include/uapi/linux/btf.h
#: Bytes that follow a type of each kind: so many, and so many for each of its members.
TAIL = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0)}
TAIL[19] = (0, 12)

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    attr = ctypes.create_string_buffer(attributes, 128)
    result = _libc.syscall(SYS_BPF, command, attr, len(attr))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result, attr.raw


def _btf_of(module: str) -> int:
    """A descriptor of the module's type information."""
    number = 0
    while True:
        (number,) = struct.unpack_from("4xI", _bpf(BTF_GET_NEXT_ID, struct.pack("I", number))[1])
        descriptor, _ = _bpf(BTF_GET_FD_BY_ID, struct.pack("I", number))
        name, info = ctypes.create_string_buffer(64), ctypes.create_string_buffer(32)
        struct.pack_into("QI", info, 16, ctypes.addressof(name), len(name))
        _bpf(OBJ_GET_INFO_BY_FD, struct.pack("IIQ", descriptor, len(info), ctypes.addressof(info)))
        if name.value.decode() == module:
            return descriptor
        os.close(descriptor)


def _types(data: bytes) -> tuple[int, dict[int, int]]:
    """How many types there are, and the id of each function by the place of its name."""
    header, types, length = struct.unpack_from("<III", data, 4)
    position, end, number, functions = header + types, header + types + length, 0, {}
    while position < end:
        name, info = struct.unpack_from("<II", data, position)
        kind, number = info >> 24 & 0x1F, number + 1
        if kind == FUNC:
            functions[name] = number
        fixed, each = TAIL.get(kind, (0, 0))
        position += 12 + fixed + each * (info & 0xFFFF)
    return number, functions


def _strings(data: bytes) -> bytes:
    header, _, _, strings, length = struct.unpack_from("<IIIII", data, 4)
    return data[header + strings : header + strings + length]


def main() -> None:
    """Attach to the functions that the command line names."""
    base, kvm = (Path("/sys/kernel/btf", name).read_bytes() for name in ("vmlinux", "kvm"))
    before, first = _types(base)[0], len(_strings(base))
    functions, strings = _types(kvm)[1], _strings(kvm)
    btf = _btf_of("kvm")
    licence, code = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(NOTHING)
    for function in sys.argv[1:]:
        number = before + functions[first + strings.index(b"\0" + function.encode() + b"\0") + 1]
        head = struct.pack("<IIQQ44x", TRACING, 2, ctypes.addressof(code), ctypes.addressof(licence))
        program, _ = _bpf(PROG_LOAD, head + struct.pack("<I36xII", TRACE_FEXIT, number, btf))
        _bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI", 0, program))
    print("attached", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
