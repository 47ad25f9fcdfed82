# SPDX-License-Identifier: Apache-2.0
"""States of labs: what one is made again for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import emulator, machine
from tests.lab.archive import KernelSet
from tests.lab.boot import Boot
from tests.lab.emulator import Hardware
from tests.lab.hosts import HOSTS
from tests.lab.image import Image
from tests.lab.kernel import Kernel
from tests.lab.machine import CHECKOUT
from tests.lab.parts import Parts
from tests.lab.qemu import Program
from tests.lab.snapshot import inputs


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """What a lab without patches is made of."""
    kernel = Kernel(HOSTS["6.1"], KernelSet("6.1.0-56-amd64", "6.1.192-1", {}), tmp_path, tmp_path, tmp_path)
    boot = Boot(tmp_path / "boot-1/vmlinux", tmp_path / "boot-1/initramfs")
    image = Image(tmp_path / "image-1/disk", tmp_path / "image-1/key", tmp_path / "image-1/known_hosts")
    return Parts(Program(("qemu",), "1:7.2"), kernel, boot, image, tmp_path, None)


def test_a_state_is_of_one_machine(parts: Parts) -> None:
    """One whose devices, processor or kernel arguments are others does not go on from it."""
    made_from = inputs(parts, "stock", None)
    assert {"boot-1", "image-1", "1:7.2", Path(emulator.__file__), Path(machine.__file__)} <= set(made_from)
    assert inputs(parts, "stock", None, Hardware(processors=2)) != made_from


def test_a_state_with_a_daemon_is_of_one_daemon(parts: Parts) -> None:
    """Its arguments, its code, its probes and the page that it has read are in the memory that is saved."""
    made_from = inputs(parts, "stock", "--ring-mib 1")
    alone = inputs(parts, "stock", None)
    files = {CHECKOUT / name for name in ("shadowwatch/daemon/loop.py", "bpf/mmu.bpf.c", "docs/runbook.md")}
    assert {"--ring-mib 1", *files} <= set(made_from) - set(alone)
