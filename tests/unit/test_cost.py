# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch cost`: arithmetic on its times, what it prints, what it keeps for the daemon, and its probe points."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.commands.cost import known, pid_of
from shadowwatch.cost import BUCKETS, Cost, Figures, Times, VmCost, edge, figures, store, stored, together
from shadowwatch.errors import ShadowwatchError
from shadowwatch.probe.attach import source_folder
from shadowwatch.probe.cost import COST_DEFINES, COST_POINTS, HANDLERS, make_cost_plan
from shadowwatch.probe.host import Host
from shadowwatch.probe.plan import Plan
from shadowwatch.view.cost import as_json, as_text, length
from tests.golden import matches
from tests.unit.hosts import HOSTS, STOCK, with_symbols
from tests.unit.test_record import Terminal

NONE = Times(0, 0.0, (0,) * BUCKETS)


def bucket_of(ns: int) -> int:
    """As bpf/cost.bpf.c has it: the power of two, and the two bits below the first."""
    ns = min(ns, (1 << 32) - 1)
    log = ns.bit_length() - 1
    return 0 if ns < 4 else log * 4 + (ns >> (log - 2) & 3)


def times(*ns: int) -> Times:
    """Those of these lengths."""
    buckets = [0] * BUCKETS
    for each in ns:
        buckets[bucket_of(each)] += 1
    return Times(len(ns), sum(ns) / 1e9, tuple(buckets))


def measurement(*vms: VmCost, missed: int = 0, known: bool = True) -> Cost:
    """One of ten seconds."""
    return Cost("kvm1", "6.1.0-test", 1_800_000_000.0, 10.0, missed, vms, known)


WEB = VmCost(
    "web1",
    4711,
    building=times(*[61_000] * 900, *[45_000] * 800, *[260_000] * 30),
    other=times(*[9_000] * 120),
    reclaim=times(*[410_000] * 70, *[900_000] * 4),
    tables=1_912,
)
IDLE = VmCost("db", 815, building=times(30_000), other=NONE, reclaim=NONE, tables=3)


@given(st.integers(4, (1 << 32) - 1))
def test_a_bucket_holds_what_is_between_its_edges(ns: int) -> None:
    """What BPF files a time under is where Python takes it for."""
    bucket = bucket_of(ns)
    assert bucket < BUCKETS
    assert edge(bucket) <= ns / 1e9 < edge(bucket + 1)


@given(st.lists(st.integers(1_000, 10_000_000), min_size=1), st.floats(0.01, 1.0))
def test_quantiles_are_within_a_bucket_of_the_truth(ns: list[int], part: float) -> None:
    """Which is a fifth at most."""
    ns.sort()
    found = times(*ns).quantile(part) * 1e9
    least = next(each for number, each in enumerate(ns, 1) if number >= part * len(ns) * (1 - 1e-9))
    bucket = bucket_of(least)
    assert edge(bucket) * 1e9 * (1 - 1e-9) <= found <= edge(bucket + 1) * 1e9 * (1 + 1e-9)


def test_of_none_all_is_nothing() -> None:
    """No mean, no quantile."""
    assert (NONE.mean, NONE.quantile(0.5), sum(NONE.octaves())) == (0.0, 0.0, 0)


def test_octaves_and_sums() -> None:
    """64 to 127 ns are the seventh power of two; VMs add up bucket by bucket."""
    assert times(64, 127, 128).octaves()[6:8] == (2, 1)
    assert together([times(64), times(127, 128)]) == times(64, 127, 128)


def test_the_figures_for_the_daemon_are_means_of_all_vms() -> None:
    """Over faults, and over the tables that they built; none when no fault built one."""
    found = figures(measurement(WEB, IDLE))
    assert found
    assert (found.faults, found.tables) == (1731, 1915)
    assert found.fault_seconds == pytest.approx((900 * 61e-6 + 800 * 45e-6 + 30 * 260e-6 + 30e-6) / 1731)
    assert found.table_seconds == pytest.approx(found.fault_seconds * 1731 / 1915)
    assert found.fill_seconds == pytest.approx((WEB.other.seconds + IDLE.other.seconds) / 1915)
    assert figures(measurement(replace(WEB, building=NONE, tables=0))) is None


def test_what_is_kept_can_be_read_by_all(tmp_path: Path) -> None:
    """In a folder that is made for it, and written again by the next measurement."""
    path = tmp_path / "state" / "cost.json"
    assert stored(str(path)) is None
    for cost in (measurement(IDLE), measurement(WEB)):
        found = figures(cost)
        assert found
        store(found, str(path))
        assert stored(str(path)) == found
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["cost.json"]


def test_a_link_in_the_daemons_folder_leads_nowhere(tmp_path: Path) -> None:
    """Root writes there, and the daemon might not be what it was: its link goes, what it points to stays."""
    target, path = tmp_path / "target", tmp_path / "cost.json"
    target.write_text("precious")
    path.symlink_to(target)
    found = figures(measurement(WEB))
    assert found
    store(found, str(path))
    assert target.read_text() == "precious"
    assert not path.is_symlink()


def test_what_cannot_be_kept_is_one_line(tmp_path: Path) -> None:
    """With the reason."""
    (tmp_path / "file").touch()
    found = figures(measurement(WEB))
    assert found
    with pytest.raises(ShadowwatchError, match=r"^cannot write .*: Not a directory; check its folder$"):
        store(found, str(tmp_path / "file" / "state" / "cost.json"))


GOOD = Figures("6.1.0-test", 1.8e9, 10.0, 1730, 1912, 5e-5, 4e-5, 2e-5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 4000,
        json.dumps({**{name: getattr(GOOD, name) for name in GOOD.__slots__}, "faults": 0}).encode(),
        json.dumps({**{name: getattr(GOOD, name) for name in GOOD.__slots__}, "fault_seconds": "nan"}).encode(),
        json.dumps({**{name: getattr(GOOD, name) for name in GOOD.__slots__}, "tables": 1e400}).encode(),
        json.dumps({**{name: getattr(GOOD, name) for name in GOOD.__slots__}, "seconds": None}).encode(),
    ],
)
def test_what_was_not_written_by_it_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Cut, forged or of another version."""
    path = tmp_path / "cost.json"
    path.write_bytes(content)
    with pytest.raises(ShadowwatchError, match=r"is not what `shadowwatch cost` writes; run that again$"):
        stored(str(path))


def test_the_table_has_the_vm_that_loses_most_first() -> None:
    """Golden: each kind that there was, its share of a core and its lengths, and how to read it."""
    out = io.StringIO()
    as_text(measurement(IDLE, WEB), out)
    matches("cost.txt", "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines()))


@pytest.mark.parametrize("width", [20, 80])
def test_a_narrow_terminal_takes_nothing_from_the_figures(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines go on in the next one: what is cut would be what was asked for."""
    monkeypatch.setenv("COLUMNS", str(width))
    out, terminal = io.StringIO(), Terminal()
    as_text(measurement(IDLE, WEB), out)
    as_text(measurement(IDLE, WEB), terminal)
    shown = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
    assert set(shown.split()) == set(out.getvalue().split())


def test_a_long_name_takes_nothing_from_the_figures() -> None:
    """A pipe has no width."""
    out = io.StringIO()
    as_text(measurement(replace(WEB, name="web" * 30)), out)
    assert "…" not in out.getvalue()
    (line,) = (line for line in out.getvalue().splitlines() if "faults that build page tables" in line)
    assert line.startswith("web" * 30)


def test_the_table_says_what_is_not_in_it() -> None:
    """Faults that could not be timed, and reclaim that could not be told apart."""
    out = io.StringIO()
    as_text(measurement(IDLE, missed=1234, known=False), out)
    assert "1,234 more could not be timed" in out.getvalue()
    assert "Reclaim cannot be told apart" in out.getvalue()


def test_json_has_all_of_it() -> None:
    """In seconds; a bucket with where it ends."""
    out = io.StringIO()
    as_json(measurement(WEB), out)
    made = json.loads(out.getvalue())
    assert {name: made[name] for name in ("host", "kernel", "seconds", "missed")} == {
        "host": "kvm1",
        "kernel": "6.1.0-test",
        "seconds": 10.0,
        "missed": 0,
    }
    (vm,) = made["vms"]
    assert (vm["vm"], vm["pid"], vm["tables"]) == ("web1", 4711, 1912)
    assert vm["other"]["seconds_per_second"] == pytest.approx(120 * 9e-6 / 10)
    assert vm["other"]["buckets"] == [[edge(bucket_of(9_000) + 1), 120]]
    assert sum(count for _, count in vm["building"]["buckets"]) == vm["building"]["times"] == 1730


def test_lengths_have_the_unit_that_fits() -> None:
    """From nanoseconds to seconds."""
    assert [length(each) for each in (4e-9, 2.5e-6, 61.26e-6, 1.5e-3, 3.0)] == [
        "4 ns",
        "2.5 µs",
        "61.3 µs",
        "1.5 ms",
        "3 s",
    ]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("web1", "no daemon at /no/such that knows the VM web1; give its pid, or start one with `systemctl start"),
        ("99999999", "there is no process 99999999; give the pid of a VM that runs"),
    ],
)
def test_without_a_daemon_a_vm_is_its_pid(wanted: str, said: str) -> None:
    """A name is known to nobody then, and a pid has to be there."""
    assert known("/no/such") is None
    with pytest.raises(ShadowwatchError, match=re.escape(said)):
        pid_of(wanted, None, "/no/such")
    assert pid_of(str(os.getpid()), None, "/no/such") == os.getpid()


def hooks(plan: Plan) -> dict[str, str]:
    """Point -> kind and symbol."""
    return {each.point: f"{each.kind} {each.symbol}" for each in plan.attachments}


#: Kernels whose symbols were looked up: those of HANDLERS are plain in each.
LOOKED_UP = ("5.10", "6.1", "6.1 patched", "6.12", "6.12 patched", "7.3")


@pytest.mark.parametrize("name", LOOKED_UP)
def test_a_kernel_that_was_looked_up_lacks_nothing(name: str) -> None:
    """Entry and return of each handler and of reclaim, and where tables are built."""
    plan = make_cost_plan(HOSTS[name])
    assert plan.missing == ()
    found = hooks(plan)
    assert found["built"] == "raw_tracepoint kvm_mmu_get_page"
    for handler in HANDLERS:
        assert found[handler] == f"kprobe {handler}"
        assert found[f"{handler} return"] == f"kretprobe {handler}"
    clone = ".isra.0" if name == "7.3" else ""
    assert found["reclaim"] == f"kprobe kvm_mmu_zap_oldest_mmu_pages{clone}"
    assert found["reclaim return"] == "kretprobe kvm_mmu_commit_zap_page.part.0"


@pytest.mark.parametrize("name", LOOKED_UP)
def test_nothing_hides_who_called_reclaim(name: str) -> None:
    """A daemon's probe reads where reclaim returns to: a probe on its return would put another address there."""
    found = hooks(make_cost_plan(HOSTS[name]))
    assert not any(hook.startswith("kretprobe kvm_mmu_zap_oldest_mmu_pages") for hook in found.values())


def without(host: Host, *symbols: str) -> Host:
    """The host as it is but for these."""
    return with_symbols(host, {name: place for name, place in host.symbols.items() if name not in symbols})


def test_a_return_without_its_entry_is_not_probed_and_the_other_way_round() -> None:
    """Where reclaim's end is unknown, its beginning is of no use; one handler less leaves the others."""
    found = hooks(make_cost_plan(without(STOCK, "kvm_mmu_commit_zap_page.part.0")))
    assert "reclaim" not in found
    found = hooks(make_cost_plan(without(STOCK, "ept_page_fault")))
    assert {handler for handler in HANDLERS if handler in found} == set(HANDLERS) - {"ept_page_fault"}


@pytest.mark.parametrize("name", LOOKED_UP)
def test_an_offset_that_is_unknown_leaves_out_what_needs_it(name: str) -> None:
    """Nothing is read where nobody knows what is there."""
    host = HOSTS[name]
    for struct in ("task_struct", "sched_entity"):
        with pytest.raises(ShadowwatchError, match="no symbol that shows what page faults take"):
            make_cost_plan(replace(host, layouts={**host.layouts, struct: {}}))


@pytest.mark.parametrize("symbols", [HANDLERS, ("__tracepoint_kvm_mmu_get_page",)])
def test_a_kernel_on_which_faults_cannot_be_timed_is_refused(symbols: tuple[str, ...]) -> None:
    """In one line."""
    with pytest.raises(ShadowwatchError, match=r"^this kernel has no symbol that shows .*; boot one that has, .*$"):
        make_cost_plan(without(STOCK, *symbols))


def test_the_program_and_the_plan_have_the_same_names() -> None:
    """Every function has a hook, every definition a place, and the kinds are in Python's order."""
    source = "".join((source_folder() / name).read_text() for name in ("read.h", "cost.bpf.c"))
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    programs = {hook.program for point in COST_POINTS for hook in point.hooks}
    assert programs == set(re.findall(r"^int (\w+)\(", code, re.MULTILINE))
    assert set(re.findall(r"(?<![A-Z_])(?:SP|KVM|VCPU|TASK|MM)_[A-Z_]+\b", code)) == set(COST_DEFINES)
    (kinds,) = re.findall(r"enum \{ (.*), KINDS \}", code)
    assert kinds.lower().split(", ") == [kind for kind, _ in WEB.kinds()]


def test_without_root_one_line_says_so() -> None:
    """As of every command that attaches probes."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to become somebody else")
    code = "import os, sys; from shadowwatch.cli import main; import shadowwatch.commands.ending"
    code += "\nimport shadowwatch.probe.cost, shadowwatch.probe.checks, shadowwatch.view.cost"
    code += "\nos.setuid(65534); sys.exit(main(['cost']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "shadowwatch: shadowwatch is not root; run it with sudo\n"
    assert done.returncode == 1
