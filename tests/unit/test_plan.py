# SPDX-License-Identifier: Apache-2.0
"""The plan on recorded hosts: each probe point's hook, and what goes when one thing is taken away."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.probe.attach import source_folder
from shadowwatch.probe.checks import losses, require
from shadowwatch.probe.host import LAYOUTS, Host, function_of
from shadowwatch.probe.plan import DEFINES, OPTIONAL, POINTS, make_plan, unknown_clones
from shadowwatch.view.doctor import show
from tests.golden import matches
from tests.unit.hosts import HOSTS, PATCHED, STOCK, WHOLE, with_symbols

#: What needs a walk.
WALK = {"walk", "vms", "counts"}

#: Symbol -> the points that are lost with it on a stock KVM; all other symbols serve none.
SERVES = {
    "__tracepoint_kvm_mmu_get_page": {"alloc"},
    "__kvm_mmu_prepare_zap_page": {"zap", "causes"},
    "link_shadow_page": {"link"},
    "__link_shadow_page": {"link"},
    "__link_shadow_page.constprop.0": {"link"},
    "__link_shadow_page.isra.0": {"link"},
    "kvm_mmu_zap_oldest_mmu_pages": {"reclaim"},
    "kvm_mmu_zap_oldest_mmu_pages.isra.0": {"reclaim"},
    "__tracepoint_kvm_mmu_zap_all_fast": {"flush", "flusher"},
    "kvm_mmu_zap_all_fast": {"flusher"},
    "__kvm_mmu_zap_all_fast_front_half": {"flusher"},
    "kvm_mmu_pte_write": {"write"},
    "kvm_mmu_track_write": {"write"},
    "kvm_mmu_uninit_vm": {"destroy"},
    # The walk over vm_list is asked for in the same way, and the counts come with its steps.
    "__x64_sys_sched_rr_get_interval": WALK,
    "vm_list": {"vms"},
}
#: The same where it is otherwise on a patched KVM, and hooks that take the place of a lost one there.
SERVES_PATCHED: dict[str, set[str]] = {
    "__tracepoint_kvm_mmu_get_page": set(),
    "__kvm_mmu_prepare_zap_page": {"caller", "causes"},
    "mmu_parent_walk": {"move"},
    "kvm_mmu_alloc_page": set(),
    "kvm_mmu_zap_page": set(),
}
NEXT_BEST = {
    "kvm_mmu_alloc_page": ("alloc", "raw_tracepoint kvm_mmu_get_page probe_get_page"),
    "kvm_mmu_zap_page": ("zap", "kprobe __kvm_mmu_prepare_zap_page probe_prepare_zap_page"),
    "__tracepoint_kvm_mmu_set_spte": ("set", "kprobe mmu_set_spte probe_set_spte"),
}
#: Of these kernels is not known where a thread has its vCPU, so that mapped pages are told by the next best hook.
WITHOUT_NOTIFIERS = {"u5.15", "u6.8", "6.18"}

#: Struct member -> the points that are lost with it; None: nothing works without.
MEMBERS: dict[tuple[str, str], set[str] | None] = {
    ("kvm_mmu_page", "link"): None,
    ("kvm_mmu_page", "tdp_mmu_page"): None,
    ("kvm_mmu_page", "role"): None,
    ("kvm_mmu_page", "gfn"): None,
    ("kvm_mmu_page", "spt"): None,
    ("kvm_mmu_page", "unsync"): set(),
    ("kvm_mmu_page", "mmu_valid_gen"): set(),
    ("kvm_mmu_page", "parent_ptes"): WALK,
    ("pte_list_desc", "more"): WALK,
    ("pte_list_desc", "sptes"): WALK,
    # Without it slots are counted up to `more`, which comes first where there is a count.
    ("pte_list_desc", "spte_count"): WALK,
    ("kvm", "arch"): None,
    ("kvm", "mmu_lock"): WALK,
    ("kvm.mmu_lock", "raw_lock"): WALK,
    ("kvm.mmu_lock", "rlock"): WALK,
    ("kvm", "stat"): {"mapped", "counts"},
    ("kvm", "mm"): set(),
    ("kvm", "userspace_pid"): None,
    ("kvm", "vm_list"): WALK,
    ("kvm_arch", "n_used_mmu_pages"): None,
    ("kvm_arch", "n_max_mmu_pages"): None,
    ("kvm_arch", "mmu_valid_gen"): set(),
    ("kvm_arch", "active_mmu_pages"): None,
    ("kvm_arch", "tdp_mmu_enabled"): set(),
    ("kvm_vcpu", "kvm"): {"write", "set"},
    ("kvm_vcpu", "preempt_notifier"): set(),
    ("preempt_notifier", "link"): set(),
    ("mm_struct", "arg_start"): set(),
    ("mm_struct", "arg_end"): set(),
    ("mm_struct", "owner"): set(),
    ("task_struct", "mm"): set(),
    ("task_struct", "preempt_notifiers"): set(),
    ("task_struct", "tgid"): set(),
    ("kvm_vm_stat", "generic"): set(),
    ("kvm_vm_stat", "mmu_cache_miss"): {"counts"},
    ("kvm_vm_stat", "mmu_recycled"): {"counts"},
    ("kvm_vm_stat", "mmu_shadow_zapped"): {"counts"},
    ("kvm_vm_stat", "mmu_shadow_pages"): None,
    ("kvm_vm_stat", "pages"): {"mapped"},
    ("bpf_link_info.perf_event.kprobe", "missed"): set(),
    # These are for `shadowwatch cost`: test_cost.py.
    ("task_struct", "se"): set(),
    ("sched_entity", "exec_start"): set(),
    ("sched_entity", "sum_exec_runtime"): set(),
}
#: Where it is otherwise.
MEMBERS_HERE: dict[tuple[str, str, str], set[str] | None] = {
    ("5.10", "kvm_vcpu", "kvm"): {"write", "set", "link"},
    ("u5.15", "kvm_vcpu", "kvm"): {"write", "set", "link"},
    ("7.3", "kvm", "stat"): None,
}

#: Those without which mapped pages are told by the next best hook.
FOR_SET = {
    ("kvm", "mmu_lock"),
    ("kvm.mmu_lock", "raw_lock"),
    ("kvm.mmu_lock", "rlock"),
    ("kvm_vcpu", "preempt_notifier"),
    ("preempt_notifier", "link"),
    ("task_struct", "preempt_notifiers"),
}

#: What the probes know of the kernel's text.
PLACES = ("MMU_PAGE_ZAP_PTE", "MMU_PAGE_ZAP_PTE_END", "KVM_CALLERS", "KVM_CALLERS_END")

#: Point that a kernel lacks from the start.
LACKS = {"5.10": {"mapped"}}


def hooks(host: Host) -> dict[str, str]:
    """Point -> kind, symbol and program."""
    return {each.point: f"{each.kind} {each.symbol} {each.program}".strip() for each in make_plan(host).attachments}


def without_symbol(host: Host, symbol: str) -> Host:
    """The host as it is but for this symbol."""
    return with_symbols(host, {name: address for name, address in host.symbols.items() if name != symbol})


def without_member(host: Host, struct: str, member: str) -> Host:
    """The host as it is but for this member of a struct."""
    layouts = {name: dict(members) for name, members in host.layouts.items()}
    del layouts[struct][member]
    return replace(host, layouts=layouts)


def refusal(host: Host) -> str:
    """What is said to a host on which nothing works: one sentence."""
    with pytest.raises(ShadowwatchError) as caught:
        require(host)
    text = str(caught.value)
    assert "\n" not in text
    assert "; " in text
    return text


def table() -> Iterator[str]:
    """Every host's plan in words."""
    for name, host in HOSTS.items():
        plan = make_plan(host)
        yield f"{name} ({host.release})"
        for point, hook in hooks(host).items():
            yield f"  {point}: {hook}"
        for missing in plan.missing:
            yield f"  {missing.name}: none, so unknown: {missing.tells}"
        for clone in unknown_clones(host):
            yield f"  unchecked clone: {clone}"
        try:
            require(host)
        except ShadowwatchError as error:
            yield f"  refused: {error}"
        for define, value in sorted(plan.defines.items()):
            yield f"    {define} {value if value < 1 << 30 else hex(value)}"


def test_the_plan_for_each_recorded_host_is_what_it_was() -> None:
    """Golden: point by point, the hook, what stays unknown, the definitions, and the refusal if there is one."""
    matches("plans.txt", "".join(f"{line}\n" for line in table()))


@pytest.mark.parametrize("name", WHOLE)
def test_kernels_from_5_10_on_lack_no_probe(name: str) -> None:
    """Every point that a stock KVM can have is served on each, and the patched ones on a patched KVM."""
    plan = make_plan(WHOLE[name])
    lacks = LACKS.get(name, set())
    assert {point.name for point in plan.missing} == lacks
    assert plan.usable
    assert {each.point for each in plan.attachments} | lacks == {
        point.name for point in POINTS if WHOLE[name].patched or point.name not in ("caller", "move")
    }
    assert require(WHOLE[name]) == plan


@pytest.mark.parametrize("name", ["u4.4", "u4.15", "u5.4"])
def test_older_kernels_are_refused(name: str) -> None:
    """By what they lack, not by their number."""
    refusal(HOSTS[name])


@pytest.mark.parametrize(
    ("name", "symbol"), [(name, symbol) for name, host in WHOLE.items() for symbol in sorted(host.symbols)]
)
def test_a_symbol_taken_away_takes_its_points_away_and_no_other(name: str, symbol: str) -> None:
    """What a host lacks costs the points that it serves, or these get the next best hook, and all others stay."""
    host = WHOLE[name]
    lost = SERVES.get(symbol, set())
    if host.patched:
        lost = SERVES_PATCHED.get(symbol, lost)
    if symbol == "mmu_set_spte" and name in WITHOUT_NOTIFIERS:
        lost = {"set"}
    expected = {point: hook for point, hook in hooks(host).items() if point not in lost}
    if symbol in NEXT_BEST:
        point, hook = NEXT_BEST[symbol]
        expected[point] = hook
    bare = without_symbol(host, symbol)
    assert hooks(bare) == expected
    assert {point.name for point in make_plan(bare).missing} == lost | LACKS.get(name, set())
    if lost & {"alloc", "zap"}:
        assert f"(probe point {next(iter(lost & {'alloc', 'zap'}))})" in refusal(bare)
    else:
        assert require(bare) == make_plan(bare)


@pytest.mark.parametrize(
    ("name", "struct", "member"),
    [
        (name, struct, member)
        for name, host in WHOLE.items()
        for struct, members in host.layouts.items()
        for member in members
    ],
)
def test_a_member_taken_away_takes_its_points_away_and_no_other(name: str, struct: str, member: str) -> None:
    """An unknown offset costs the points that need it; those that all need make the host be refused."""
    host = WHOLE[name]
    lost = MEMBERS_HERE.get((name.removesuffix(" patched"), struct, member), MEMBERS[struct, member])
    bare = without_member(host, struct, member)
    if lost is None:
        assert refusal(bare).startswith("the layout of kvm's structs is unknown")
    else:
        expected = {point: hook for point, hook in hooks(host).items() if point not in lost}
        if (struct, member) in FOR_SET:
            expected["set"] = NEXT_BEST["__tracepoint_kvm_mmu_set_spte"][1]
        assert hooks(bare) == expected
        assert {point.name for point in make_plan(bare).missing} == lost | LACKS.get(name, set())
        assert require(bare) == make_plan(bare)


@pytest.mark.parametrize("field", ["level", "invalid"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_role_without_its_level_or_invalid_bit_is_refused(name: str, field: str) -> None:
    """The model reads both, so a host that does not tell them is told so before anything runs."""
    host = WHOLE[name]
    role = {each: place for each, place in host.role.items() if each != field}
    assert refusal(replace(host, role=role)).startswith("the layout of kvm's structs is unknown")


@pytest.mark.parametrize("name", WHOLE)
def test_hidden_addresses_cost_what_needs_an_address(name: str) -> None:
    """kptr_restrict shows 0 for each: probes go by name, only vm_list and callers do not."""
    host = WHOLE[name]
    hidden = with_symbols(host, dict.fromkeys(host.symbols, 0))
    assert hooks(hidden) == {point: hook for point, hook in hooks(host).items() if point not in ("vms", "causes")}
    assert "VM_LIST" not in make_plan(hidden).defines


@pytest.mark.parametrize("name", ["6.1", "6.12", "7.3"])
def test_the_patches_names_alone_do_not_make_a_patched_kvm(name: str) -> None:
    """5.4's kvm_mmu_alloc_page(vcpu, direct) had other arguments; without the parameter it is not ours."""
    patched, stock = HOSTS[f"{name} patched"], HOSTS[name]
    impostor = replace(patched, parameters=stock.parameters)
    expected = hooks(stock) | {"link": "kprobe __link_shadow_page probe_link"}
    assert hooks(impostor) == expected
    assert make_plan(impostor).missing == ()


def test_the_patched_kvm_is_watched_by_the_rfcs_names() -> None:
    """kvm_mmu_alloc_page, kvm_mmu_zap_page and mmu_parent_walk, as the RFC had them."""
    assert {point: hooks(PATCHED)[point] for point in ("alloc", "zap", "move")} == {
        "alloc": "kprobe kvm_mmu_alloc_page probe_alloc_page",
        "zap": "kprobe kvm_mmu_zap_page probe_zap_page",
        "move": "kprobe mmu_parent_walk probe_move",
    }


def test_links_are_told_by_the_tracepoint_where_there_is_one() -> None:
    """The one of patches/upstream, on a kernel that has the plain function, too."""
    stock = HOSTS["7.3"]
    host = with_symbols(stock, {**stock.symbols, "__tracepoint_kvm_mmu_link_page": 1 << 63})
    assert hooks(host) == hooks(stock) | {"link": "raw_tracepoint kvm_mmu_link_page probe_link_page"}


@pytest.mark.parametrize("name", WHOLE)
def test_a_clone_that_nobody_checked_is_not_probed(name: str) -> None:
    """Its registers may hold other arguments: where only such a clone is, the point is missing and it is named."""
    host = WHOLE[name]
    for attachment in make_plan(host).attachments:
        if attachment.kind != "kprobe":
            continue
        clone = f"{function_of(attachment.symbol)}.constprop.7"
        symbols = dict(host.symbols)
        symbols[clone] = symbols.pop(attachment.symbol)
        changed = with_symbols(host, symbols)
        assert clone not in {each.symbol for each in make_plan(changed).attachments}
        assert hooks(changed) == hooks(without_symbol(host, attachment.symbol))
        assert unknown_clones(changed) == (clone,)


@pytest.mark.parametrize(
    "suffix", [".llvm.14826472837465", ".lto_priv.0", ".__uniq.2648362", ".__uniq.26483.llvm.1482"]
)
def test_a_kernel_of_link_time_optimization_is_told_what_it_has(suffix: str) -> None:
    """Its functions have other names: the error and doctor tell those that would serve if they were checked.

    Not cold parts. And why pages are zapped is known all the same, by the place of the function.
    """
    names = {f"{name}{suffix}": place for name, place in STOCK.symbols.items() if name in SERVES and "." not in name}
    kept = {name: place for name, place in STOCK.symbols.items() if name not in SERVES or "." in name}
    cold = {f"{name}.cold": place for name, place in names.items()}
    tracepoint = {"__tracepoint_kvm_mmu_get_page": 1}
    host = with_symbols(STOCK, kept | names | cold | tracepoint)
    clones = unknown_clones(host)
    assert f"__kvm_mmu_prepare_zap_page{suffix}" in clones
    assert not any("cold" in clone for clone in clones)
    with pytest.raises(ShadowwatchError, match=re.escape(f"__kvm_mmu_prepare_zap_page{suffix}")):
        require(host)
    assert "__kvm_mmu_prepare_zap_page" in {name for name, _, _ in host.functions}
    said = io.StringIO()
    show(host, make_plan(host), False, said)
    assert f"__kvm_mmu_prepare_zap_page{suffix}: its arguments are not known" in " ".join(said.getvalue().split())


def test_hidden_addresses_are_a_loss_with_its_cure() -> None:
    """With kernel.kptr_restrict=2 each is 0, for root, too: said at the start and by doctor."""
    host = with_symbols(STOCK, dict.fromkeys(STOCK.symbols, 0))
    plan = make_plan(host)
    assert {point.name for point in plan.missing} == plan.hidden == {"vms", "causes"}
    cure = "; the kernel hides addresses, sysctl kernel.kptr_restrict=1 shows them"
    assert all(loss.endswith(cure) for loss in losses(plan))
    said = io.StringIO()
    show(host, plan, False, said)
    assert " ".join(said.getvalue().split()).count(cure) == 2
    assert make_plan(replace(host, symbols={})).hidden == frozenset()


@pytest.mark.parametrize("name", HOSTS)
def test_no_recorded_host_has_a_clone_that_nobody_checked(name: str) -> None:
    """Each clone of a wanted function on these kernels is known, and .cold parts are none."""
    assert unknown_clones(HOSTS[name]) == ()


@pytest.mark.parametrize("name", [name for name, host in WHOLE.items() if "mmu_page_zap_pte.cold" in host.symbols])
def test_mmu_page_zap_pte_is_found_where_it_has_a_cold_part(name: str) -> None:
    """Its calls return into the function itself: the .cold part calls nobody."""
    host = WHOLE[name]
    defines = make_plan(host).defines
    start = host.symbols["mmu_page_zap_pte"] & 0xFFFF_FFFF
    assert defines["MMU_PAGE_ZAP_PTE"] <= start + 0x10 < defines["MMU_PAGE_ZAP_PTE_END"]


@pytest.mark.parametrize("name", WHOLE)
def test_all_callers_are_where_a_caller_is_looked_for(name: str) -> None:
    """And a tracer's trampolines, which are in the kernel's own text or in nobody's, are not."""
    host = WHOLE[name]
    defines = make_plan(host).defines
    for function, start, end in host.functions:
        assert defines["KVM_CALLERS"] <= start < end <= defines["KVM_CALLERS_END"], function
    assert not defines["KVM_CALLERS"] <= 0x8100_0000 <= defines["KVM_CALLERS_END"]


def test_every_definition_that_the_probes_use_is_known() -> None:
    """The names in bpf/mmu.bpf.c, with what it includes, and those of the plan are the same."""
    source = "".join((source_folder() / name).read_text() for name in ("read.h", "mmu.bpf.c"))
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    used = set(re.findall(r"(?<![A-Z_])(?:SP|DESC|KVM|VCPU|VM|MMU|MM|TASK)_[A-Z_]+\b", code)) - {"DESC_SLOTS"}
    assert used == {*DEFINES, "VM_LIST", *PLACES}
    assert used == {*make_plan(STOCK).defines, "KVM_MMU_LOCK_READERS"}
    assert set(OPTIONAL) <= set(DEFINES)


def test_every_member_that_a_definition_adds_up_is_read() -> None:
    """What the plan looks up is read from the host's BTF: else the definition is never there on a real one."""
    wanted = {(struct, member) for ways in DEFINES.values() for way in ways for struct, member in way}
    assert wanted <= {(struct, member) for struct, members in LAYOUTS.items() for member in members}


def test_offsets_are_sums_over_the_structs() -> None:
    """Struct kvm holds kvm_arch, so a field of that is at the sum of both; 7.3 counts pages as a statistic."""
    assert make_plan(STOCK).defines["KVM_ACTIVE_MMU_PAGES"] == 4760 + 32800
    assert make_plan(HOSTS["7.3"]).defines["KVM_N_USED_MMU_PAGES"] == 4616 + 72


def test_on_preempt_rt_walks_look_at_the_readers_of_mmu_lock() -> None:
    """There the lock is a struct rwbase_rt, whose lowest byte is 0 whether somebody writes or not."""
    layouts = {**STOCK.layouts, "kvm.mmu_lock": {"rwbase": 8}, "rwbase_rt": {"readers": 4}}
    plan = make_plan(replace(STOCK, layouts=layouts))
    assert plan.attachments == make_plan(STOCK).attachments
    assert plan.defines["KVM_MMU_LOCK_READERS"] == 12
    assert plan.defines["KVM_MMU_LOCK"] == STOCK.layouts["kvm"]["mmu_lock"] + 12
    assert "KVM_MMU_LOCK_READERS" not in make_plan(STOCK).defines


@pytest.mark.parametrize("lock", [{}, {"lock": 0}])
def test_without_a_lock_that_is_known_no_list_is_walked(lock: dict[str, int]) -> None:
    """As with Linux 5.10 built for PREEMPT_RT: better no walk than one that takes a lock that is held for free."""
    plan = make_plan(replace(STOCK, layouts={**STOCK.layouts, "kvm.mmu_lock": lock}))
    assert "walk" in {point.name for point in plan.missing}
    assert "KVM_MMU_LOCK" not in plan.defines


def test_every_program_named_is_in_the_source() -> None:
    """A hook's program is a function of bpf/mmu.bpf.c, and every function has a hook."""
    source = (source_folder() / "mmu.bpf.c").read_text()
    functions = set(re.findall(r"^int (probe_\w+)\(", source, re.MULTILINE))
    programs = {hook.program for point in POINTS for hook in point.hooks if hook.program}
    assert programs == functions
