# SPDX-License-Identifier: Apache-2.0
"""Every kernel, stock and patched, in every way that the shadow MMU comes to be used, against the kernel itself."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.hosts import HOSTS
from tests.lab.machine import Kvm, Lab, Mode, say
from tests.lab.scrape import PORT, Metrics, scrape_until, settled
from tests.lab.workload import Pattern, Vmm, Workload

RESULT = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
MODES: tuple[Mode, ...] = ("shadow", "tdp", "nested")
PATTERNS: tuple[Pattern, ...] = ("zipf", "uniform")
LINUX = "linux"
RECLAIM = ("quota", "resize", "shrinker")
#: After the workload, so that the last audits are of a VM at rest.
LAST_AUDITS = 2


@dataclass(frozen=True)
class Cell:
    """One KVM in one mode."""

    host: str
    kvm: Kvm
    mode: Mode


@dataclass(frozen=True)
class Row:
    """What one workload in a cell came to."""

    cell: Cell
    release: str
    workload: str
    events: int
    counters: tuple[tuple[int, int], ...]  # (the daemon's, the kernel's): allocations, zaps, reclaim
    audits: int
    compared: int
    differing: int
    causes: Mapping[str, int]
    resyncs: int
    lost: int
    exact: bool

    @property
    def right(self) -> bool:
        """Whether the daemon counted what the kernel did, lost nothing, and had every entry as the kernel had it."""
        allocations, zaps, reclaim = self.counters
        # KVM counts a page that takes its children along as two at most, however many there are: its
        # kvm_mmu_prepare_zap_page() returns a bool.
        reclaimed = reclaim[0] >= reclaim[1] if self.cell.mode == "nested" else reclaim[0] == reclaim[1]
        counted = allocations[0] == allocations[1] and zaps[0] == zaps[1] and reclaimed
        return counted and self.exact and self.audits > 0 and not self.differing and not self.lost

    def line(self) -> str:
        """Return the row as one of a table in Markdown."""
        causes = ", ".join(f"{cause} {count:,}" for cause, count in sorted(self.causes.items()) if count)
        counters = " ".join(f"{mine:,}{'=' if mine == kernel else '≠'}{kernel:,}" for mine, kernel in self.counters)
        cells = (
            *(self.release, self.cell.kvm, self.cell.mode, self.workload, f"{self.events:,}", counters),
            *(f"{self.audits:,}", f"{self.compared:,}", f"{self.differing:,}", causes),
            *(f"{self.resyncs:,}", f"{self.lost:,}", "right" if self.right else "**wrong**"),
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| Linux | KVM | mode | workload | events | allocations, zaps, reclaim: daemon's and kernel's | audits"
    " | entries compared | differing | zaps by cause | resyncs | lost | |\n"
    "| --- | --- | --- | --- | --: | --- | --: | --: | --: | --- | --: | --: | --- |"
)


def cells(hosts: Sequence[str]) -> Iterator[Cell]:
    """Yield the cells of these hosts; one without patches has no patched KVM."""
    for host in hosts:
        kvms: tuple[Kvm, ...] = ("stock", "patched") if HOSTS[host].sources else ("stock",)
        yield from (Cell(host, kvm, mode) for kvm in kvms for mode in MODES)


def watch(lab: Lab, cell: Cell, accesses: int = 20_000) -> Iterator[Row]:
    """Load the cell's KVM, start the daemon with audits, and yield what each workload comes to."""
    lab.run("systemctl stop shadowwatch", check=False)
    lab.load_kvm(cell.kvm, cell.mode)
    if cell.kvm == "patched":
        lab.policy("parents")
    lab.start_daemon("--audit-interval 0.1 --difference /var/lib/shadowwatch/difference.capture")
    port = lab.forward(PORT)
    for pattern in PATTERNS:
        workload = Workload(
            f"{pattern}-{cell.mode}",
            pattern,
            accesses=accesses,
            spread=cell.mode == "tdp",
            nested=cell.mode == "nested",
        )
        with Vmm(lab, workload) as vmm:
            yield _row(lab, cell, port, workload.name, vmm.finished().counters)
    if cell.mode == "shadow":
        with RealGuest(lab, name=LINUX) as guest:
            guest.wait()
            guest.stop()
            yield _row(lab, cell, port, LINUX, guest.counters())


def _row(lab: Lab, cell: Cell, port: int, vm: str, counters: Mapping[str, int]) -> Row:
    begun = settled(port, vm, counters["mmu_cache_miss"]).sum("vm_audits_total", vm=vm)

    def rested(metrics: Metrics) -> bool:
        return metrics.sum("vm_audits_total", vm=vm) >= begun + LAST_AUDITS

    metrics = scrape_until(port, rested)
    zaps = {cause: int(count) for cause, count in metrics.by("cause", "zaps_total", vm=vm).items()}

    def total(name: str) -> int:
        return int(metrics.sum(name, vm=vm))

    allocations, zapped = total("allocations_total"), sum(zaps.values()) + total("root_zaps_total")
    return Row(
        cell=cell,
        release=lab.release,
        workload=vm,
        events=allocations + zapped + total("links_total") + total("parent_moves_total") + total("reclaims_total"),
        counters=(
            (allocations, counters["mmu_cache_miss"]),
            (zapped, counters["mmu_shadow_zapped"]),
            (sum(zaps.get(cause, 0) for cause in RECLAIM), counters["mmu_recycled"]),
        ),
        audits=total("vm_audits_total"),
        compared=total("vm_audit_entries_total"),
        differing=int(metrics.sum("vm_audit_entries_total", vm=vm, result="differing")),
        causes=zaps,
        resyncs=total("vm_resyncs_total"),
        lost=total("vm_events_lost_total") + int(metrics.sum("events_lost_total")),
        exact=total("vm_exact") == 1,
    )


def page(rows: Sequence[Row]) -> str:
    """Return the result as a page in Markdown."""
    sums = (
        f"{sum(row.events for row in rows):,} events, {sum(row.audits for row in rows):,} audits,"
        f" {sum(row.compared for row in rows):,} entries compared, {sum(row.differing for row in rows):,} differing,"
        f" {sum(row.lost for row in rows):,} events lost;"
        f" {sum(row.right for row in rows)} of {len(rows)} rows are right."
    )
    lines = "\n".join(row.line() for row in rows)
    return (
        "# The kernel matrix\n\n"
        "Made by `make matrix`, in the lab. Each row is one guest; *mode* is how the host comes to use the shadow MMU:"
        " `shadow` without nested paging, `tdp` nested paging with `tdp_mmu=N`, `nested` a guest's guest, whose page"
        " tables are shadowed while the TDP MMU serves the rest. On a patched KVM the policy is `parents`. An audit"
        " compares the model with the kernel's own list, position by position, and the parents of each page. With"
        " nested guests KVM's own count of reclaimed pages is too low, since it does not count what goes with its"
        " parent.\n\n"
        f"{sums}\n\n{HEAD}\n{lines}\n"
    )


def main(hosts: Sequence[str]) -> int:
    """Go through the matrix, write the page when it was the whole one, and return the exit status."""
    rows: list[Row] = []
    failed = 0
    begun = time.monotonic()
    for host in hosts or list(HOSTS):
        first: Kvm = "patched" if HOSTS[host].sources else "stock"
        with Lab.boot(host=host, kvm=first, progress=say) as lab:
            for cell in cells([host]):
                try:
                    for row in watch(lab, cell):
                        rows.append(row)
                        print(row.line(), flush=True)
                except LabError as error:
                    failed += 1
                    print(f"matrix: {cell}: {error}", file=sys.stderr)
    text = page(rows)
    if not hosts and not failed:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text)
    print(f"matrix: {text.splitlines()[4]} {time.monotonic() - begun:.0f} s")
    return 0 if all(row.right for row in rows) and not failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"matrix: {error}")
