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
        ("qemu-system-x86_64 -name guest=db,,blue,debug-threads=on", "db,blue"),
        ("qemu-system-x86_64 -name db,,blue", "db,blue"),
        ("qemu-system-x86_64 -name guest=,,a", ",a"),
        ("qemu-system-x86_64 -name ,,a", ",a"),
        ("qemu-system-x86_64 -name a,,,debug-threads=on", "a,"),
        ("qemu-system-x86_64 -name db,,x=1", "db,x=1"),
        ("qemu-system-x86_64 -name guest=a=b", "a=b"),
        ("qemu-system-x86_64 -name debug-threads=on,guest=web1", "web1"),
        ("qemu-system-x86_64 -name process=a,debug-threads=on", None),
        ("qemu-system-x86_64 -name debug-threads=on", None),
        ("qemu-system-x86_64 -name web1 -name debug-threads=on", "web1"),
        ("qemu-system-x86_64 -name web1 -name guest=web2", "web2"),
        ("qemu-system-x86_64 --name guest=web1,debug-threads=on", "web1"),
        ("qemu-system-x86_64 -append --name=a -m 96", None),
        ("qemu-system-x86_64 -append --id -m 96", None),
        ("qemu-system-x86_64 -append -name -name web1", "web1"),
        ("qemu-system-x86_64 -fw_cfg --name=a -device x,id=b", None),
        ("/usr/libexec/qemu-kvm -name guest=web1", "web1"),
        ("/usr/bin/kvm -id 100 -name web1,debug-threads=on", "web1"),
        ("kvm --name web1,process=a", "web1"),
        ("stratovirt -name web1 -append --name=a", "web1"),
        ("firecracker --api-sock /run/a --id 551e --start-time-us 7", "551e"),
        ("firecracker --config-file a -- --id b", None),
        ("crosvm run --name web1 -p --name=a /kernel", "web1"),
        ("crosvm run -p --name=a --name=web1 /kernel", "web1"),
        ("crosvm run --params --name=a /kernel", None),
        ("lkvm run -k /kernel -p --name=a --name a,b", "a,b"),
        ("lkvm run --name a -- /bin/b --name c", "a"),
        ("cloud-hypervisor --kernel /kernel --cmdline --name=a --disk path=a,id=b", None),
        ("cloud-hypervisor --id=", None),
        ("/usr/lib/virtualbox/VBoxHeadless --comment web1 --startvm 551e", "web1"),
    ],
)
def test_the_name_is_the_one_a_person_gave(command: str, name: str | None) -> None:
    """QEMU, libvirt's QEMU, Firecracker, kvmtool and more, each as it reads its words; none where none was given."""
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
