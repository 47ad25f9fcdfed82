# SPDX-License-Identifier: Apache-2.0
"""Every kernel, stock and patched, in every way that the shadow MMU comes to be used, against the kernel itself."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tests.lab import programs, workload
from tests.lab.bochs import watched as bochs
from tests.lab.cache import default_root, key
from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.hosts import DEFAULT, HOSTS, Kvm
from tests.lab.kept import Lines
from tests.lab.machine import Lab, Mode, build, say
from tests.lab.scrape import PORT, Metrics, scrape_until, settled
from tests.lab.snapshot import daemon_files
from tests.lab.workload import Vmm, Workload

RESULT = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
MODES: tuple[Mode, ...] = ("shadow", "tdp", "nested")
PROCESSORS = (1, 2)
LINUX = "linux"
RECLAIM = ("quota", "resize", "shrinker")
#: After the workload, so that the last audits are of a VM at rest.
LAST_AUDITS = 2
#: Of the whole matrix: what the workloads touch, and the audits of each VM once all are at rest.
ACCESSES, RESTED_AUDITS = 100_000, 90
INTEL_ACCESSES, INTEL_AUDITS = 3_000, 5
#: A VM at rest is audited ten times a second, by the clock of an emulated machine.
AUDITS_SECONDS = 300.0

DIFFERENCE = "/var/lib/shadowwatch/difference.capture"

Maker = Literal["AMD", "Intel"]


@dataclass(frozen=True)
class Cell:
    """One KVM in one mode on one kind of machine."""

    host: str
    kvm: Kvm
    mode: Mode
    processors: int = 1
    maker: Maker = "AMD"


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
        # Debian's KVM counts a page that takes its children along as two at most, however many there are: its
        # kvm_mmu_prepare_zap_page() returns a bool. The patched one counts all of them.
        too_low = self.cell.mode == "nested" and self.cell.kvm == "stock"
        reclaimed = reclaim[0] >= reclaim[1] if too_low else reclaim[0] == reclaim[1]
        counted = allocations[0] == allocations[1] and zaps[0] == zaps[1] and reclaimed
        return counted and self.exact and self.audits > 0 and not self.differing and not self.lost

    def line(self) -> str:
        """Return the row as one of a table in Markdown."""
        causes = ", ".join(f"{cause} {count:,}" for cause, count in sorted(self.causes.items()) if count)
        counters = " ".join(f"{mine:,}{'=' if mine == kernel else '≠'}{kernel:,}" for mine, kernel in self.counters)
        cells = (
            *(self.release, f"{self.cell.processors} {self.cell.maker}", self.cell.kvm, self.cell.mode, self.workload),
            *(f"{self.events:,}", counters),
            *(f"{self.audits:,}", f"{self.compared:,}", f"{self.differing:,}", causes),
            *(f"{self.resyncs:,}", f"{self.lost:,}", "right" if self.right else "**wrong**"),
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| Linux | processors | KVM | mode | workload | events | allocations, zaps, reclaim: daemon's and kernel's | audits"
    " | entries compared | differing | zaps by cause | resyncs | lost | |\n"
    "| --- | --- | --- | --- | --- | --: | --- | --: | --: | --: | --- | --: | --: | --- |"
)


def cells(hosts: Sequence[str], processors: Sequence[int] = (1,)) -> Iterator[Cell]:
    """Yield the cells of these hosts; one without patches has no patched KVM."""
    for host in (host for host in hosts if HOSTS[host].runs_guests):
        kvms: tuple[Kvm, ...] = ("stock", "patched") if HOSTS[host].sources else ("stock",)
        yield from (Cell(host, kvm, mode, number) for number in processors for kvm in kvms for mode in MODES)


def intel_cells(hosts: Sequence[str]) -> list[Cell]:
    """Return the cells of an Intel processor: of one Linux, and of the same as PREEMPT_RT has it."""
    watched = [host for host in hosts if host == DEFAULT or not HOSTS[host].runs_guests]
    return [Cell(host, "stock", mode, maker="Intel") for host in watched for mode in MODES]


def workloads(cell: Cell, accesses: int) -> Iterator[Workload]:
    """Yield what runs in a cell besides a real Linux."""
    for pattern in ("zipf", "uniform"):
        plain = Workload(f"{pattern}-{cell.mode}", pattern, accesses=accesses, yields=True)
        yield replace(plain, spread=cell.mode == "tdp", nested=cell.mode == "nested")
    if cell.mode != "nested":
        restless = Workload(f"restless-{cell.mode}", "uniform", accesses=accesses // 5, unrest=True, yields=True)
        yield replace(restless, spread=cell.mode == "tdp", vcpus=4)
    if cell.mode == "shadow":
        yield replace(restless, name="rewriting-shadow", rewrites=True)


def watch(lab: Lab, cell: Cell, accesses: int = 20_000, rested: int = LAST_AUDITS) -> Iterator[Row]:
    """Load the cell's KVM, start the daemon with audits, and yield what each workload comes to.

    Each VM stays until all are done, and at least so many of its audits are of a VM at rest.
    """
    lab.run("systemctl stop shadowwatch", check=False)
    lab.load_kvm(cell.kvm, cell.mode)
    if cell.kvm == "patched":
        lab.policy("parents")
    lab.start_daemon(f"--audit-interval 0.1 --ring-mib 32 --difference {DIFFERENCE}")
    port = lab.forward(PORT)
    with ExitStack() as running:
        counters: dict[str, Mapping[str, int]] = {}
        # First of all, since it takes long enough without others.
        if cell.mode == "shadow":
            guest = running.enter_context(RealGuest(lab, name=LINUX))
            try:
                guest.wait()
                guest.stop()
                counters[LINUX] = guest.counters()
            except LabError as error:
                # Under another QEMU it may hang (README.md here); the others are watched all the same.
                say(f"matrix: {cell}: {error}")
                guest.quit()
        for each in workloads(cell, accesses):
            vmm = running.enter_context(Vmm(lab, each))
            counters[each.name] = vmm.finished().counters
            if each.vcpus > 1 or each.unrest:
                vmm.do("rest")
                # The last slot took all pages with it: audits are to find some.
                counters[each.name] = vmm.again().counters
        for vm, kernels in counters.items():
            metrics = settled(port, vm, kernels["mmu_cache_miss"])
        begun = metrics.by("vm", "vm_audits_total")

        def is_rested(metrics: Metrics) -> bool:
            audits = metrics.by("vm", "vm_audits_total")
            return all(audits[vm] >= begun[vm] + rested for vm in counters)

        metrics = scrape_until(port, is_rested, AUDITS_SECONDS)
        for vm, kernels in counters.items():
            yield _row(lab.release, cell, vm, kernels, metrics)


def watch_intel(release: str, cell: Cell) -> Iterator[Row]:
    """Likewise on an Intel processor, whose emulator is slower, and has no clients that would change a VM meanwhile."""
    # Its initramfs has no nice(1).
    guests = [(replace(each, yields=False), ("",)) for each in workloads(cell, INTEL_ACCESSES) if not each.unrest]
    readings, metrics = bochs.watched(cell.mode, guests, INTEL_AUDITS, host=cell.host, progress=say)
    for reading in readings:
        yield _row(release, cell, reading.name, reading.counters, metrics)


def _row(release: str, cell: Cell, vm: str, counters: Mapping[str, int], metrics: Metrics) -> Row:
    zaps = {cause: int(count) for cause, count in metrics.by("cause", "zaps_total", vm=vm).items()}

    def total(name: str) -> int:
        return int(metrics.sum(name, vm=vm))

    allocations, zapped = total("allocations_total"), sum(zaps.values()) + total("root_zaps_total")
    return Row(
        cell=cell,
        release=release,
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


def missing(rows: Sequence[Row], wanted: Sequence[Cell]) -> str:
    """Say what has no rows of all that was wanted; nothing when all has."""
    found = {(row.cell, row.workload == LINUX) for row in rows}
    said = [
        f"{cell.host} {cell.kvm} {cell.mode} on {cell.processors} {cell.maker}{' (a real Linux)' if linux else ''}"
        for cell in wanted
        for linux in (False, True)
        if (cell, linux) not in found
        # Whatever else there is, only this has a real Linux.
        and not (linux and (cell.mode != "shadow" or cell.maker == "Intel" or (cell, False) not in found))
    ]
    return f"Not in it, since it did not run to an end: {', '.join(said)}.\n\n" if said else ""


def page(rows: Sequence[Row], wanted: Sequence[Cell]) -> str:
    """Return the result as a page in Markdown, of these cells and any others that have rows."""
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
        " compares the model with the kernel's own list, position by position, and the parents of each page. Slots"
        " come and go and the limit changes beneath `restless`, whose four vCPUs use one tree, and `rewriting`, whose"
        " guest writes to its page tables all the time. QEMU emulates AMD's processors, several of them by one thread,"
        " in turn, and Bochs Intel's. With nested guests Debian's KVM counts too few reclaimed pages, since it does not"
        " count what goes with its parent; the patched one does.\n\n"
        f"{sums}\n\n{missing(rows, wanted)}{HEAD}\n{lines}\n"
    )


class Kept:
    """The rows of cells that were right: those of other sources are as if they were not there."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        files = [Path(__file__), Path(str(workload.__file__)), programs.VMM]
        self._key = key([*daemon_files(), *files])

    def of(self, cell: Cell, release: str) -> list[Row]:
        """Return the rows of a cell with this kernel; none when it is still to be done."""
        return _rows(self._lines.rows.get(self._name(cell, release), ()))

    def besides(self, cells: Sequence[Cell]) -> list[Row]:
        """Return the rows of other cells, which other machines have come to."""
        found = (_rows(rows) for name, rows in self._lines.rows.items() if name.startswith(self._key))
        return [row for rows in found for row in rows if row.cell not in cells]

    def add(self, cell: Cell, release: str, rows: Sequence[Row]) -> None:
        """Keep the rows of a cell."""
        self._lines.add(self._name(cell, release), [asdict(row) for row in rows])

    def _name(self, cell: Cell, release: str) -> str:
        return f"{self._key} {release} {cell}"


def _rows(kept: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [Row(**{**row, "cell": Cell(**row["cell"]), "counters": tuple(map(tuple, row["counters"]))}) for row in kept]


def _keep_difference(lab: Lab, cell: Cell) -> None:
    """Say what the first difference was that an audit found in a cell, and keep the events that led to it."""
    started = "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID shadowwatch)"
    said = lab.run(f"journalctl -o cat {started} --grep 'an audit found'", check=False).stdout.strip()
    if said:
        name = f"difference-{cell.host}-{cell.kvm}-{cell.mode}-{cell.processors}.capture"
        lab.run(["cp", DIFFERENCE, f"/srv/out/{name}"])
        kept = default_root().parent / name
        shutil.copy(lab.out / name, kept)
        print(f"matrix: {cell}: {said}; {kept} has what led to it", file=sys.stderr)


def main(hosts: Sequence[str]) -> int:
    """Go on with the matrix, write the page when it was the whole one, and return the exit status."""
    kept = Kept(default_root().parent / "matrix.jsonl")
    wanted = [*cells(hosts or list(HOSTS), PROCESSORS), *intel_cells(hosts or list(HOSTS))]
    rows: list[Row] = []
    failed = 0
    begun = time.monotonic()
    for machine in dict.fromkeys((cell.host, cell.processors, cell.maker) for cell in wanted):
        host, processors, maker = machine
        first: Kvm = "patched" if HOSTS[host].sources else "stock"
        release = build(host, first, say).kernel.release
        with ExitStack() as running:
            lab = None
            for cell in wanted:
                if (cell.host, cell.processors, cell.maker) != machine:
                    continue
                found = kept.of(cell, release)
                try:
                    if not found:
                        if maker == "Intel":
                            found = list(watch_intel(release, cell))
                        else:
                            lab = lab or running.enter_context(
                                Lab.boot(host=host, kvm=first, processors=processors, load=False, progress=say)
                            )
                            found = list(watch(lab, cell, ACCESSES, RESTED_AUDITS))
                            _keep_difference(lab, cell)
                        if all(row.right for row in found):
                            kept.add(cell, release, found)
                except LabError as error:
                    failed += 1
                    print(f"matrix: {cell}: {error}", file=sys.stderr)
                rows += found
                print(*(row.line() for row in found), sep="\n", flush=True)
    rows += kept.besides(wanted)
    text = page(rows, wanted)
    if not hosts:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(text)
    print(f"matrix: {text.splitlines()[4]} {time.monotonic() - begun:.0f} s")
    return 0 if all(row.right for row in rows) and not failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"matrix: {error}")
