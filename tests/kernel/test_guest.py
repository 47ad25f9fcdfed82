# SPDX-License-Identifier: Apache-2.0
"""A guest that does not boot, which is an error that is said: which one, what its console said, and the cure."""

from __future__ import annotations

import signal

import pytest

from tests.kernel.watched import Watched
from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.machine import Lab, say
from tests.lab.show import booting

SECONDS = 1.0
STARTS = 12


def test_a_guest_that_does_not_boot_is_an_error(patched: Watched) -> None:
    """It is halted at once, so it says nothing; whoever waits for it is told."""
    with RealGuest(patched.lab, name="halted") as guest:
        guest.stop()
        with pytest.raises(
            LabError, match=r"^guest halted is not at its init after \d+ s: its console is silent; .*make"
        ):
            guest.booted(SECONDS)


def test_a_guest_that_does_not_boot_ends_what_is_shown_meanwhile(patched: Watched) -> None:
    """Nobody waits for it, as in `make run`, where people look at others."""
    with RealGuest(patched.lab, name="unseen") as guest:
        guest.stop()
        with pytest.raises(LabError, match=r"^guest unseen is not at its init"), booting(guest, SECONDS):
            _wait_for_ever()


def test_a_guest_that_boots_is_left_alone(patched: Watched) -> None:
    """Its init runs: whoever looks at others goes on when its time is up."""
    with RealGuest(patched.lab, name="boots", processes=1) as guest:
        guest.wait()
        with booting(guest, SECONDS):
            signal.pause()


def test_the_time_of_a_guest_is_that_of_its_vcpu(patched: Watched) -> None:
    """Most of what its QEMU takes, of which the first thread has little more than the start; crowds are woken."""
    with RealGuest(patched.lab, name="timed", processes=5, crowd=5, turns=2) as guest:
        guest.wait()
        guest.stop()
        spent = patched.lab.run(f"cat /proc/{guest.pid}/schedstat /proc/{guest.pid}/task/*/schedstat").stdout
        first, *threads = (int(line.split()[0]) for line in spent.splitlines())
        assert first + guest.vcpu_ns() <= sum(threads) < 1.5 * guest.vcpu_ns()


def test_a_guest_that_ends_is_an_error_with_its_last_words(patched: Watched) -> None:
    """Its QEMU is killed while it runs its processes."""
    with RealGuest(patched.lab, name="killed", processes=1_000_000) as guest:
        guest.booted()
        patched.lab.run(["kill", "-KILL", str(guest.pid)])
        with pytest.raises(
            LabError, match=r"^guest killed ended in the lab .* its console says last: guest: init runs"
        ):
            guest.wait()


def _wait_for_ever() -> None:
    while True:
        signal.pause()


@pytest.mark.soak
def test_a_nested_linux_takes_its_pages_along_when_it_ends() -> None:
    """Its hypervisor, a KVM as well, clears what led to its page tables: the host's zaps them, and reclaim none."""
    with (
        Lab.boot(mode="nested") as lab,
        RealGuest(lab, name="takes-along", pages=1024, memory=512, processes=1, sources=2, nested=True) as guest,
    ):
        guest.wait()
        counters = guest.counters()
        assert counters["mmu_cache_miss"] > 30
        assert counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"] < 10
        assert counters["mmu_recycled"] == 0


@pytest.mark.soak
def test_a_real_linux_starts_each_time_on_two_processors() -> None:
    """QEMU delivers no interrupt twice, after which a guest waits for ever; before one of four hung."""
    with Lab.boot(kvm="stock", processors=2, progress=say) as lab:
        lab.run("(yes & yes &) </dev/null >/dev/null 2>&1")
        for number in range(STARTS):
            with RealGuest(lab, name=f"starts-{number}", processes=5) as guest:
                guest.wait()
