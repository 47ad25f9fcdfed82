# SPDX-License-Identifier: Apache-2.0
"""Make system calls in another process, as somebody who got into it would: `intruder.py PID CALL,ARGUMENT... ...`.

It runs in the lab, as root, with ptrace(2); prints what each call returned, a number of its own or -errno.
"""

import ctypes
import os
import re
import sys
from pathlib import Path

#: include/uapi/linux/ptrace.h
GETREGS, SETREGS, SINGLESTEP, ATTACH, DETACH = 12, 13, 9, 16, 17
#: Places in struct user_regs_struct (arch/x86/include/asm/user_64.h), in words.
ORIG_RAX, RAX, RIP = 15, 10, 16
ARGUMENTS = (14, 13, 12)  # rdi, rsi, rdx
WORDS = 27

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, pid: int, data: object = None) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace {request}")


def _syscall_instruction(pid: int) -> int:
    """The address of one in the process' libc."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = re.search(r"^(\w+)-(\w+) r-xp .*/libc\.so\.6$", maps, re.MULTILINE)
    assert found
    start, end = int(found[1], 16), int(found[2], 16)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(start)
        return start + memory.read(end - start).index(b"\x0f\x05")


def call(pid: int, number: int, *arguments: int) -> int:
    """Have the process make one system call, and let it go on as if nothing had been."""
    instruction = _syscall_instruction(pid)
    _ptrace(ATTACH, pid)
    os.waitpid(pid, 0)
    before, now = (ctypes.c_ulonglong * WORDS)(), (ctypes.c_ulonglong * WORDS)()
    _ptrace(GETREGS, pid, before)
    ctypes.memmove(now, before, ctypes.sizeof(before))
    # No system call is under way that would have to be begun again.
    now[ORIG_RAX], now[RAX], now[RIP] = 2**64 - 1, number, instruction
    for place, argument in zip(ARGUMENTS, arguments, strict=False):
        now[place] = argument
    _ptrace(SETREGS, pid, now)
    _ptrace(SINGLESTEP, pid)
    os.waitpid(pid, 0)
    _ptrace(GETREGS, pid, now)
    _ptrace(SETREGS, pid, before)
    _ptrace(DETACH, pid)
    return ctypes.c_longlong(now[RAX]).value


if __name__ == "__main__":
    for words in sys.argv[2:]:
        print(call(int(sys.argv[1]), *map(int, words.split(","))))
