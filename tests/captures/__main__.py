# SPDX-License-Identifier: Apache-2.0
"""Record the captures in the lab: the same workload on Debian's KVM, and on the patched one in both orders."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict

from tests.captures import CAPTURES
from tests.lab.hosts import Kvm
from tests.lab.machine import Lab, Policy, say
from tests.lab.workload import Vmm, Workload

WORKLOAD = Workload("zipf", accesses=6_000)


def record(lab: Lab, name: str) -> None:
    """Record one run of the workload, and beside it what the kernel counted."""
    recorder = lab.popen(f"exec shadowwatch record /srv/out/{name}.capture", stderr=subprocess.STDOUT)
    assert recorder.stdout
    recorder.stdout.readline()
    with Vmm(lab, WORKLOAD) as vmm:
        reading = vmm.finished()
    # The VM is gone, and SIGINT makes the recorder look into the ring once more before it ends.
    lab.run("pkill -INT -f shadowwatch.daemon")
    recorder.communicate(timeout=60)
    shutil.copy(lab.out / f"{name}.capture", CAPTURES[name])
    kept = {key: reading.counters[key] for key in ("mmu_cache_miss", "mmu_shadow_zapped", "mmu_recycled", "pf_taken")}
    text = json.dumps({"workload": asdict(WORKLOAD), "counters": kept}, indent=1)
    CAPTURES[name].with_suffix(".json").write_text(text + "\n")


def main() -> None:
    """Make all of them."""
    wanted: dict[str, tuple[Kvm, Policy | None]] = {
        "debian": ("stock", None),
        "stock": ("patched", "stock"),
        "parents": ("patched", "parents"),
    }
    for name, (kvm, policy) in wanted.items():
        with Lab.boot(kvm=kvm, progress=say) as lab:
            if policy:
                lab.policy(policy)
            record(lab, name)


if __name__ == "__main__":
    main()
