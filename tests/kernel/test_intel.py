# SPDX-License-Identifier: Apache-2.0
"""Intel: what the kernel counts there is what it counts on AMD, to the page."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.lab.bochs import machine
from tests.lab.bochs.host import Host, loading
from tests.lab.bochs.watched import watched
from tests.lab.errors import LabError
from tests.lab.machine import CHECKOUT, Lab, Mode, say
from tests.lab.workload import Reading, Vmm, Workload

#: For what a killed run had started to end.
GONE_SECONDS = 60.0
#: Of a VM at rest.
AUDITS = 5

#: (mmu_cache_miss, mmu_recycled, mmu_shadow_zapped)
Counts = tuple[int, int, int]


@dataclass(frozen=True)
class Course:
    """A workload, and what its VMM is told to do then: of each step the kernel's counts when it is done."""

    mode: Mode
    workload: Workload
    steps: Mapping[str, Counts]


COURSES = (
    Course(
        "shadow",
        Workload("shadow", accesses=3_000),
        {
            "": (1775, 1715, 1715),
            "write 3": (1777, 1736, 1736),
            "stos": (1779, 1736, 1737),
            "unsync": (1780, 1736, 1737),
            "reuse": (1782, 1736, 1738),
            "reload": (1782, 1736, 1738),
            "share 5": (1783, 1736, 1738),
            "memslot": (1783, 1736, 1783),
            "run": (3558, 3451, 3499),
            "resize 100": (3558, 3451, 3499),
        },
    ),
    Course(
        "tdp",
        Workload("tdp", accesses=3_000, spread=True),
        {"": (1802, 1753, 1753), "memslot": (1802, 1753, 1802), "run": (3604, 3506, 3556)},
    ),
    Course(
        "nested",
        Workload("nested", accesses=10_000, nested=True),
        {
            "": (6724, 1956, 6671),
            "relink": (6726, 1956, 6672),
            "write 3": (6727, 1956, 6674),
            "stos": (6728, 1956, 6674),
            "unsync": (6728, 1956, 6674),
            "reuse": (6730, 1956, 6674),
            "reload": (6730, 1956, 6674),
            "memslot": (6730, 1956, 6730),
            "run": (13454, 3912, 13402),
        },
    ),
)


def counts(reading: Reading) -> Counts:
    """What of the counters is of the shadow MMU's list."""
    counters = reading.counters
    return counters["mmu_cache_miss"], counters["mmu_recycled"], counters["mmu_shadow_zapped"]


def compared(course: Course, readings: Sequence[Reading]) -> None:
    """Assert that each step came to what it comes to everywhere."""
    found = dict(zip(course.steps, map(counts, readings), strict=True))
    assert found == course.steps, f"it came to {found}"


def test_intel_counts_what_amd_counts() -> None:
    """For each mode: the workload, and all that makes KVM drop pages of it."""
    script = ""
    for course in COURSES:
        words = "".join(f"{step}\n" for step in course.steps if step)
        script += f"{loading(course.mode)}{shlex.join(course.workload.argv())} <<.\n{words}.\n"
    with Host(script, progress=say) as host:
        said = [Reading(**json.loads(line)) for line in host.lines() if line.startswith("{")]
        say(f"intel: {host.machine.processor_seconds():.0f} s of processor time")
    for course in COURSES:
        compared(course, [reading for reading in said if reading.name == course.workload.name])


@pytest.mark.soak
@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.mode)
def test_the_daemon_on_intel(course: Course) -> None:
    """The kernel comes to the same beside it, and so does the daemon, with nothing lost and no difference in audits."""
    readings, metrics = watched(course.mode, [(course.workload, tuple(course.steps))], AUDITS, progress=say)
    compared(course, readings)
    allocations, _, zapped = counts(readings[-1])
    zaps = metrics.sum("zaps_total") + metrics.sum("root_zaps_total")
    assert (metrics.sum("allocations_total"), zaps) == (allocations, zapped)
    assert metrics.sum("events_lost_total") == 0
    assert metrics.sum("vm_audits_total") >= AUDITS
    entries = metrics.by("result", "vm_audit_entries_total")
    assert entries["same"] > 0
    assert entries["differing"] == 0
    say(f"intel: {course.mode}: {allocations:,} allocations, {zapped:,} zaps, {entries['same']:,.0f} entries audited")


def test_a_host_that_is_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it said last; here before it has said anything."""
    monkeypatch.setattr(machine, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(machine, "WORKED_SECONDS", 0.0)
    with (
        Host("") as host,
        pytest.raises(LabError, match=r"silent for \d+ s, in which Bochs had \d+ s of a processor: .+"),
    ):
        list(host.lines())


@pytest.mark.soak
def test_a_screen_that_is_full_stops_nothing() -> None:
    """Bochs draws on a terminal, which takes some 4 KiB before somebody has to read it."""
    with Host("seq 2000 >/dev/tty0\necho drawn\n") as host:
        assert "drawn" in list(host.lines())


@pytest.mark.soak
def test_a_host_that_fails_says_why() -> None:
    """Its script's error is on its console, and then the kernel's."""
    with Host("ls /missing\n") as host, pytest.raises(LabError, match=r"died: .*/missing: No.*panic"):
        list(host.lines())


#: Who starts a host, and says so.
STARTING = """\
import sys, time
from tests.lab.bochs.host import Host
host = Host("")
print(host.folder, flush=True)
time.sleep(1000)
"""


def test_nothing_is_left_of_a_host_whose_starter_was_killed() -> None:
    """Neither Bochs nor its folder."""
    starter = subprocess.Popen([sys.executable, "-c", STARTING], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout
    folder = Path(starter.stdout.readline().strip())
    started = psutil.Process(starter.pid).children(recursive=True)
    assert any("bochs" in " ".join(each.cmdline()) for each in started)
    assert folder.exists()
    starter.kill()
    starter.communicate()
    left = psutil.wait_procs(started, timeout=GONE_SECONDS)[1]
    assert [each.cmdline() for each in left] == []
    assert not folder.exists()


@pytest.mark.soak
@pytest.mark.parametrize("course", COURSES, ids=lambda course: course.mode)
def test_amd_counts_what_intel_counts(bare: Lab, course: Course) -> None:
    """The same in the lab that all other tests are in."""
    bare.load_kvm("stock", course.mode)
    with Vmm(bare, course.workload) as vmm:
        compared(course, [vmm.do(step) if step else vmm.finished() for step in course.steps])
