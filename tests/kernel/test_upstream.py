# SPDX-License-Identifier: Apache-2.0
"""The series for the KVM list: it builds after each patch, does what its letter says, and the daemon can follow it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.simulate.run import simulated
from tests.kernel.watched import AUDITS, Watched, audited
from tests.lab import patched, selftests
from tests.lab.cache import Cache, default_root
from tests.lab.debian import Apt, sources
from tests.lab.hosts import HOSTS, Kvm
from tests.lab.machine import MODES, Lab, Mode, build, say
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload

pytestmark = pytest.mark.soak

HOST = HOSTS["7.x"]
PATCHES = HOST.patches("upstream")
SELFTEST = "x86/mmu_reclaim_test"
#: What it says of Debian's KVM.
UNMAPPED = "KVM unmapped memory that was used recently"
WHY: Mapping[Mode, str] = {"shadow": UNMAPPED, "tdp": UNMAPPED, "nested": "KVM recycled only"}


@pytest.fixture(scope="module")
def beside() -> Iterator[Watched]:
    """A lab with the series' KVM and the daemon."""
    with ready("upstream", host=HOST.name, kvm="upstream", daemon=AUDITS, progress=say) as lab:
        yield Watched(lab)


@pytest.fixture(scope="module")
def alone() -> Iterator[Lab]:
    """One without the daemon that has the series' selftest."""
    programs = selftests.prepare(
        Cache(default_root(), say), build(HOST.name, "upstream", say).kernel, "upstream", SELFTEST
    )
    with ready("upstream-alone", host=HOST.name, kvm="upstream", progress=say) as lab:
        shutil.copytree(programs, lab.out / "selftests")
        yield lab


@pytest.mark.parametrize("number", range(1, len(PATCHES)))
def test_kvm_builds_after_each_patch(tmp_path: Path, number: int) -> None:
    """As it does after the last one, when a lab is made of it."""
    (tmp_path / "patches").mkdir()
    for patch in PATCHES[:number]:
        shutil.copy(patch, tmp_path / "patches")
    kernel = build(HOST.name, "upstream", say).kernel
    cache = Cache(default_root(), say)
    source = patched.source(cache, Apt(cache, HOST.name, sources(HOST.kernel)), HOST, kernel.packages)
    some = replace(patched.check(HOST, "upstream"), folders={"upstream": str(tmp_path / "patches")})
    kernel = replace(kernel, host=replace(HOST, sources=some))
    modules = patched.prepare(Cache(tmp_path / "cache", say), kernel, source, "upstream")
    assert {path.name for path in modules.iterdir()} == set(patched.MODULES)


@pytest.mark.parametrize("mode", MODES)
def test_the_selftest_passes_with_the_series_and_not_without(alone: Lab, mode: Mode) -> None:
    """Debian's KVM unmaps what was used recently, or counts too few recycled pages; the series' does neither."""
    said = {}
    statuses: dict[Kvm, int] = {"stock": 254, "upstream": 0}
    for kvm, status in statuses.items():
        alone.load_kvm(kvm, mode)
        done = alone.run("/srv/out/selftests/mmu_reclaim_test", check=False)
        said[kvm] = done.stdout + done.stderr
        say(said[kvm])
        assert done.returncode == status
    assert WHY[mode] in said["stock"]


def test_the_daemon_follows_it_by_its_own_tracepoint(beside: Watched, tmp_path: Path) -> None:
    """Audits find no difference, and `childless` makes each zap of a recording again, as many as the kernel counted."""
    lab = beside.lab
    kept = tmp_path / "upstream.capture"
    recorder = lab.popen(f"exec shadowwatch record /srv/out/{kept.name}", stderr=subprocess.STDOUT)
    assert recorder.stdout
    assert "recording to" in recorder.stdout.readline()
    with Vmm(lab, Workload("zipf", accesses=6_000)) as vmm:
        counters = vmm.finished().counters
        beside.settled("zipf", counters["mmu_cache_miss"])
        audited(beside, "zipf")
        lab.run("pkill -INT -f 'shadowwatch record'")
        recorder.communicate(timeout=60)
    shutil.copy(lab.out / kept.name, kept)
    with reading(str(kept)) as reader:
        result = simulated(reader, ["childless", "stock"], lambda _: None)
    assert result.facts.probes["link"] == "kvm_mmu_link_page"
    assert result.facts.policy == "childless"
    (of,) = result.vms.values()
    same = of["childless"]
    assert same.reproduced == same.zaps == same.recorded_zaps == counters["mmu_recycled"] > 0
    assert of["stock"].reproduced < same.recorded_zaps
