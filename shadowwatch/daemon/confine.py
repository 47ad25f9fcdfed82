# SPDX-License-Identifier: Apache-2.0
"""The system calls that the long-running half makes once it is ready; the kernel refuses it all others.

The only user of libseccomp, which apt and systemd need, too: every Debian has it.
"""

from __future__ import annotations

import ctypes
import errno
import os

from shadowwatch.errors import ShadowwatchError

#: What Python needs to look at the ring, answer askers and write into open files. There is nothing in it that
#: starts a process, makes a socket, changes what is in the file system, or looks into another process.
ALLOWED = (
    *("brk", "madvise", "memfd_create", "mmap", "mprotect", "mremap", "munmap"),
    *("exit", "exit_group", "futex", "rseq", "sched_yield", "set_robust_list"),
    *("restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack", "tgkill"),
    *("clock_gettime", "clock_nanosleep", "getrandom", "gettimeofday", "sched_rr_get_interval"),
    *("close", "dup", "fcntl", "fstat", "ftruncate", "getdents64", "ioctl", "lseek", "newfstatat", "readlink", "statx"),
    *("pread64", "pwrite64", "read", "write"),
    *("accept4", "getpeername", "getsockname", "getsockopt", "setsockopt", "shutdown"),
    *("recvfrom", "recvmsg", "sendmsg", "sendto"),
    *("epoll_ctl", "epoll_pwait", "epoll_wait", "poll", "ppoll"),
    *("getcwd", "getegid", "geteuid", "getgid", "getpid", "getrusage", "gettid", "getuid", "prlimit64", "uname"),
)

#: include/uapi/linux/sched.h
_CLONE_THREAD = 0x10000

#: seccomp.h
_ACT_ALLOW, _ACT_ERRNO, _CTL_TSYNC, _CMP_MASKED_EQ = 0x7FFF0000, 0x00050000, 4, 7


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: argument `arg`, after the mask, is the value."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64))


def confine() -> None:
    """Have the kernel refuse what is not ALLOWED, in all threads of this process and for good.

    It answers ENOSYS, as an older kernel would to a newer libc, which then does with less.
    Raises ShadowwatchError when the kernel or libseccomp cannot do that.
    """
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise ShadowwatchError(f"libseccomp cannot be used ({error}); apt install libseccomp2") from None
    library.seccomp_init.restype = ctypes.c_void_p
    calls = ctypes.c_void_p(library.seccomp_init(_ACT_ERRNO | errno.ENOSYS))

    def done(result: int) -> None:
        if result:
            raise ShadowwatchError(
                f"cannot install the filter of system calls: {os.strerror(-result)};"
                " allow the process seccomp(2), which needs CONFIG_SECCOMP_FILTER=y"
            )

    def allow(name: str, *where: _Comparison) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        comparisons = (_Comparison * len(where))(*where)
        done(library.seccomp_rule_add_array(calls, _ACT_ALLOW, number, len(where), comparisons))

    done(library.seccomp_attr_set(calls, _CTL_TSYNC, 1))
    for name in ALLOWED:
        allow(name)
    # To read, and that it is not made or emptied.
    allow("openat", _Comparison(2, _CMP_MASKED_EQ, os.O_ACCMODE | os.O_CREAT | os.O_TRUNC, os.O_RDONLY))
    # Threads. Not clone3, whose flags are where no filter can look: without it libc takes this one.
    allow("clone", _Comparison(0, _CMP_MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    done(library.seccomp_load(calls))
    library.seccomp_release(calls)
