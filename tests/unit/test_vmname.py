# SPDX-License-Identifier: Apache-2.0
"""pid → VM name, from the command lines that VMMs have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shadowwatch.daemon.vmname import name_in, name_of


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("qemu-system-x86_64 -m 96 -name web1 -accel kvm", "web1"),
        ("qemu-system-x86_64 -name guest=web2,debug-threads=on -S", "web2"),
        ("qemu-system-x86_64 -name web3,process=foo", "web3"),
        ("firecracker --api-sock /run/a --id 551e7604", "551e7604"),
        ("firecracker --id=551e7604", "551e7604"),
        ("lkvm run --name kvmtool-guest -m 128", "kvmtool-guest"),
        ("qemu-system-x86_64 -m 96", None),
        ("qemu-system-x86_64 -name", None),
        ("qemu-system-x86_64 -name guest=", None),
        ("", None),
    ],
)
def test_the_name_is_the_one_a_person_gave(command: str, name: str | None) -> None:
    """QEMU, libvirt's QEMU, Firecracker, kvmtool; none where none was given."""
    assert name_in(command.split()) == name


def test_a_real_process_is_named_by_its_command_line() -> None:
    """What psutil reads from /proc of a process that runs."""
    sleeper = [sys.executable, "-c", "print(flush=True); input()", "-name", "guest=real,debug-threads=on"]
    with subprocess.Popen(sleeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # it runs
        assert name_of(process.pid) == "real"
        process.communicate(b"\n")


def test_a_process_without_a_name_or_gone_is_its_pid() -> None:
    """Never an error: the VM is real whatever its process is."""
    assert name_of(os.getpid()) == str(os.getpid())
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert name_of(process.pid) == str(process.pid)
