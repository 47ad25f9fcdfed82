# SPDX-License-Identifier: Apache-2.0
"""From the privileged half to the long-running one: drop everything, keep the descriptors, exec."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, Self

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.facts import Facts

#: include/uapi/linux/prctl.h and capability.h
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _CAPABILITY_VERSION_3 = 24, 38, 0x20080522

#: The long-running half, by whose last word people find it with pgrep; behind it comes the handover's descriptor.
COMMAND = (sys.executable, "-P", "-X", "faulthandler", "-m", "shadowwatch.daemon")

#: They end the long-running half, which waits for them and for its next look at the ring in one place.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: It makes the long-running half read its configuration again, and ends one that has none.
RELOAD_SIGNAL = signal.SIGHUP


@dataclass(frozen=True, slots=True)
class Handover:
    """All that the long-running half is given: open descriptors (-1: none), and words.

    `listeners` are sockets to serve at instead of making one for `listen`.
    `settings` are those of `run` by name, empty without a reload; `config` is their file, None for the default one,
    and those that are `given` as flags win over it; `web` is what their web.config file and those that it names had.
    """

    ring: int
    ring_size: int
    counters: int
    requests: int
    facts: str
    listen: str
    programs: tuple[int, ...] = ()
    audit_seconds: float | None = None
    audits: int = 0
    difference: int = -1
    difference_path: str = ""
    captures: tuple[tuple[int, str], ...] = ()
    capture_most: int | None = None
    control: int = -1
    listeners: tuple[int, ...] = ()
    metrics: int = -1
    seconds: float | None = None
    commands: int = -1
    config: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    web: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, descriptor: int) -> Self:
        """Read what `write` wrote."""
        with open(descriptor) as file:
            values = json.load(file)
            captures = tuple((int(descriptor), str(path)) for descriptor, path in values.pop("captures"))
            programs, listeners = (tuple(map(int, values.pop(name))) for name in ("programs", "listeners"))
            return cls(**values, captures=captures, programs=programs, listeners=listeners)

    def write(self) -> int:
        """Write it into memory, and return the descriptor to read it from."""
        message = os.memfd_create("handover", 0)
        os.write(message, json.dumps(asdict(self)).encode())
        os.lseek(message, 0, os.SEEK_SET)
        return message

    def descriptors(self) -> frozenset[int]:
        """All that must stay open."""
        captures = (descriptor for descriptor, _ in self.captures)
        single = {self.ring, self.counters, self.requests, self.commands, self.control, self.metrics}
        return frozenset({*single, self.difference, *captures, *self.programs, *self.listeners})

    def known_facts(self) -> Facts:
        """The facts about the host."""
        return Facts.from_json(self.facts)


@dataclass(frozen=True, slots=True)
class User:
    """Whom the long-running half runs as."""

    name: str
    uid: int
    gid: int


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # as in a container that is started with a number
        return str(uid)


def unprivileged_user(name: str | None) -> User:
    """Look up the user to become: `name`, else shadowwatch, else nobody; who is not root stays who it is."""
    if os.geteuid() != 0:
        current = User(_name_of(os.geteuid()), os.geteuid(), os.getegid())
        if name in (None, current.name):
            return current
        raise ShadowwatchError(f"only root may run as --user {name}; leave that out, or run it with sudo")
    user = find_user(name)
    _try_to_be(user)
    return user


def find_user(name: str | None) -> User:
    """The user that root would become; ShadowwatchError when there is none, or it is root."""
    for candidate in (name,) if name else ("shadowwatch", "nobody"):
        try:
            user = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if user.pw_uid != 0:
            return User(user.pw_name, user.pw_uid, user.pw_gid)
        raise ShadowwatchError(f"--user {candidate} is root; name a user without privileges, such as nobody")
    raise ShadowwatchError(f"there is no user {name or 'nobody'} to run as; name another with --user")


def _try_to_be(user: User) -> None:
    """Be this user for a moment: who may not, as root in a container, hears of it before anything is attached."""
    group = os.getegid()
    try:
        os.setegid(user.gid)
        os.seteuid(user.uid)
    except OSError as error:
        raise ShadowwatchError(
            f"root may not become user {user.name} here: {error.strerror}; allow it CAP_SETUID and CAP_SETGID,"
            " or start it as that user with the capabilities of shadowwatch.service"
        ) from None
    finally:
        os.seteuid(0)
        os.setegid(group)


def _drop_privileges(user: User) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # The service may not do this, nor take another user; its bounding set is of no use to one that gets no privileges.
    capability = 0
    while libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(user.gid)
        os.setuid(user.uid)
    # Effective, permitted and inheritable, each twice 32 bits, and with them ambient (capabilities(7)).
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ShadowwatchError(
            f"cannot give up privileges: {os.strerror(ctypes.get_errno())}; allow the process capset(2) and prctl(2)"
        )


def check_reach(program: str, package: str) -> None:
    """Raise ShadowwatchError when this process' user may not run the one or read the other."""
    for path, mode, do in ((program, os.X_OK, "run"), (package, os.R_OK, "read")):
        if not os.access(path, mode):
            raise ShadowwatchError(
                f"user {_name_of(os.getuid())} may not {do} {path};"
                " install shadowwatch where every user may, or name one who may with --user"
            )


def execute(handover: Handover, links: tuple[int, ...], user: User) -> NoReturn:
    """Become the long-running half: this process, without privileges, without LLVM in memory."""
    message = handover.write()
    keep = {0, 1, 2, message, *handover.descriptors(), *links}
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        # Links hold the programs, and programs the other maps: nothing else needs to stay open.
        with suppress(OSError):  # listdir's own descriptor is gone by now
            os.set_inheritable(descriptor, descriptor in keep)
    os.chdir("/")
    # The mask outlives exec, and threads inherit it: from here on a signal waits until it is asked for.
    signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, RELOAD_SIGNAL))
    _drop_privileges(user)
    check_reach(sys.executable, __file__)
    os.execv(sys.executable, [*COMMAND, str(message)])
