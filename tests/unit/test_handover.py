# SPDX-License-Identifier: Apache-2.0
"""What the long-running half is given, and whom it may become."""

from __future__ import annotations

import mmap
import os
import pwd
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.start.handover import COMMAND, Handover, User, check_reach, unprivileged_user
from tests.unit.story import FACTS


def test_a_handover_comes_through_whole() -> None:
    """Every field with something of its own in it, through the memory that the other half reads, and in its types."""
    given = Handover(
        ring=3,
        ring_size=4096,
        counters=4,
        requests=5,
        programs=(13, 14),
        facts=FACTS.to_json(),
        listen="127.0.0.1:0",
        audit_seconds=2.5,
        audits=3,
        difference=6,
        difference_path="/d",
        captures=((7, "/a"), (8, "/b")),
        capture_most=1 << 20,
        control=9,
        listeners=(10, 12),
        metrics=11,
        seconds=1.5,
        commands=15,
        config="/etc/shadowwatch.toml",
        settings={"what_if": ["parents"], "recent_seconds": None, "ring_mib": 4},
        given={"listen": ""},
        web={"/web.yml": "tls_server_config: {}\n"},
    )
    untouched = [field.name for field in fields(Handover) if getattr(given, field.name) == field.default]
    assert untouched == []
    message = given.write()
    assert os.get_inheritable(message)  # by the exec
    taken = Handover.read(message)
    assert taken == given
    assert taken.known_facts() == FACTS
    assert taken.descriptors() == {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}


def test_the_command_is_the_long_running_half() -> None:
    """What the start execs reads the handover, says that it is ready, and ends when its time is over or kvm is gone."""
    ring, counters, requests = (os.memfd_create(name) for name in ("ring", "counters", "requests"))
    size = 1 << 20
    os.truncate(ring, 2 * mmap.PAGESIZE + size)
    for descriptor in (counters, requests):
        os.truncate(descriptor, mmap.PAGESIZE)
    handover = Handover(ring, size, counters, requests, FACTS.to_json(), listen="", seconds=0.1)
    message = handover.write()
    descriptors = (ring, counters, requests, message)
    done = subprocess.run(
        [*COMMAND, str(message)], pass_fds=descriptors, capture_output=True, text=True, timeout=60, check=False
    )
    for descriptor in descriptors:
        os.close(descriptor)
    assert COMMAND[-1] == "shadowwatch.daemon"
    assert f"probes on Linux {FACTS.kernel}" in done.stdout
    gone = "shadowwatch: the kvm module was unloaded, and the probes with it; start shadowwatch again\n"
    assert (done.returncode, done.stderr) in ((0, ""), (1, gone))


def test_the_user_is_one_without_privileges() -> None:
    """Root is refused, an unknown name is said, and without a name nobody is found at the latest."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to become somebody else")
    assert unprivileged_user(None).uid != 0
    assert unprivileged_user("nobody") == User("nobody", 65534, pwd.getpwnam("nobody").pw_gid)
    assert (os.geteuid(), os.getegid()) == (0, 0)
    with pytest.raises(ShadowwatchError, match="--user root is root; name a user without privileges"):
        unprivileged_user("root")
    with pytest.raises(ShadowwatchError, match="there is no user no-such-user to run as; name another with --user"):
        unprivileged_user("no-such-user")


def test_who_is_not_root_stays_who_it_is() -> None:
    """As the service does, which begins as its own user; another one is refused."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to become somebody else")
    code = (
        "import os\nfrom shadowwatch.start.handover import unprivileged_user, ShadowwatchError\n"
        "os.setuid(65534)\n"
        "print(unprivileged_user(None).name, unprivileged_user('nobody').name)\n"
        "try: unprivileged_user('daemon')\n"
        "except ShadowwatchError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == "nobody nobody\nonly root may run as --user daemon; leave that out, or run it with sudo\n"


def test_who_is_not_root_needs_no_name() -> None:
    """As in a container that is started with a number: the socket's group is the one that the process has."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to become somebody else")
    code = "from shadowwatch.start.handover import unprivileged_user as user; print(user(None), user('4242'))"
    who = ["setpriv", "--reuid=4242", "--regid=4343", "--clear-groups"]
    said = subprocess.run([*who, sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [f"{User('4242', 4242, 4343)} {User('4242', 4242, 4343)}"]


@pytest.mark.parametrize("lacks", ["setuid", "setgid"])
def test_root_who_may_not_become_another_says_so_in_one_sentence(lacks: str) -> None:
    """As in a container that is given only what probes take; it is still root, and heard it before it attached."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to be one with less")
    code = (
        "import os\nfrom shadowwatch.start.handover import unprivileged_user, ShadowwatchError\n"
        "try: unprivileged_user('nobody')\n"
        "except ShadowwatchError as error: print(error, os.geteuid(), os.getegid())"
    )
    who = ["setpriv", f"--bounding-set=-{lacks}"]
    said = subprocess.run([*who, sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == (
        "root may not become user nobody here: Operation not permitted; allow it CAP_SETUID and CAP_SETGID,"
        " or start it as that user with the capabilities of shadowwatch.service 0 0\n"
    )


def test_capabilities_of_a_user_other_than_root_are_given_up() -> None:
    """Such as systemd's AmbientCapabilities=, with which a process begins again at each exec."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to give some away")
    code = (
        "import os\nfrom shadowwatch.start.handover import _drop_privileges, unprivileged_user\n"
        "path = '/proc/self/status'\nprint(open(path).read())\n"
        "_drop_privileges(unprivileged_user(None))\nos.execv('/bin/cat', ['cat', path])"
    )
    some = "-all,+chown,+kill"
    user = ("--reuid=65534", "--regid=65534", "--clear-groups")
    who = ["setpriv", *user, f"--inh-caps={some}", f"--ambient-caps={some}"]
    said = subprocess.run([*who, sys.executable, "-u", "-c", code], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^Cap(Inh|Prm|Eff|Amb):\t(\w+)$", said, re.MULTILINE)
    assert [int(value, 16) for _, value in found] == 4 * [0x21] + 4 * [0]
    assert re.findall(r"^NoNewPrivs:\t(\d)$", said, re.MULTILINE) == ["0", "1"]


def test_an_installation_that_the_user_may_not_read_is_one_sentence(tmp_path: Path) -> None:
    """As in a checkout below /root: said before exec, not by an interpreter that finds no module."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to become somebody else")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "module.py").touch()
    code = (
        "import os, sys; from shadowwatch.start.handover import check_reach, ShadowwatchError\n"
        "os.setuid(65534)\n"
        "try: check_reach(sys.argv[1], sys.argv[2])\n"
        "except ShadowwatchError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, "/bin/true", str(hidden / "module.py")], check=True, capture_output=True, text=True
    ).stdout
    assert said == (
        f"user nobody may not read {hidden / 'module.py'};"
        " install shadowwatch where every user may, or name one who may with --user\n"
    )
    check_reach("/bin/true", "/bin/true")


def test_a_standard_stream_that_is_closed_is_held_by_nothing() -> None:
    """Else the ring, a capture or the socket would have its number, and get what is written to it."""
    code = (
        "import os; from shadowwatch.start.launch import _hold_standard_streams as hold; hold(); said = os.open("
        "os.environ['SAID'], os.O_WRONLY); assert said > 2\n"
        "for number in range(3): os.write(said, os.readlink(f'/proc/self/fd/{number}').encode() + b' ')"
    )
    reader, writer = os.pipe()
    environment = {**os.environ, "SAID": f"/proc/{os.getpid()}/fd/{writer}"}
    subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code], env=environment, check=True
    )
    os.close(writer)
    with open(reader) as said:
        assert said.read() == "/dev/null " * 3
