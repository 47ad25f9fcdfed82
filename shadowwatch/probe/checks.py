# SPDX-License-Identifier: Apache-2.0
"""What a host must have, how it stands here, and the cure for each thing missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shadowwatch.errors import ShadowwatchError
from shadowwatch.probe.host import Host
from shadowwatch.probe.plan import Plan, Point, make_plan, unknown_clones


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement: `holds` on a host, else `missing` is what to say and `cure` what to do."""

    name: str
    holds: Callable[[Host], bool]
    found: str
    missing: str
    cure: str

    def words(self, host: Host) -> str:
        """What to say of a host."""
        words = self.found if self.holds(host) else f"{self.missing}; {self.cure}"
        btf = f"this kernel's BTF is damaged ({host.damaged})"
        if not host.damaged:
            btf = "this kernel has no BTF (/sys/kernel/btf/vmlinux)"
        misses = "" if misses_are_counted(host) or not host.btf else ", but counts no probes that it passes over"
        return words.format(release=host.release, btf=btf, misses=misses)


#: In the order in which a person would fix them.
CHECKS = (
    Check("root", lambda host: host.root, "yes", "shadowwatch is not root", "run it with sudo"),
    Check(
        "BPF",
        lambda host: host.bpf,
        "in the kernel{misses}",
        "this kernel has no BPF",
        "boot a kernel with CONFIG_BPF_SYSCALL=y, as distributions' kernels have",
    ),
    Check(
        "lockdown",
        lambda host: not host.lockdown,
        "allows BPF to read kernel memory",
        "kernel lockdown (confidentiality) forbids BPF to read kernel memory",
        "boot with lockdown=integrity or none",
    ),
    Check(
        "BTF",
        lambda host: host.btf and not host.damaged,
        "/sys/kernel/btf/vmlinux",
        "{btf}",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, such as Debian 11's or later",
    ),
    Check(
        "kprobes",
        lambda host: host.kprobes,
        "in the kernel",
        "this kernel has no kprobes for perf (/sys/bus/event_source/devices/kprobe)",
        "boot a kernel with CONFIG_KPROBE_EVENTS=y",
    ),
    Check("bcc", lambda host: host.bcc, "importable", "bcc for Python is not installed", "apt install python3-bpfcc"),
    Check(
        "headers",
        lambda host: host.headers,
        "/lib/modules/{release}/build",
        "the headers of kernel {release} are not installed",
        "apt install linux-headers-{release}",
    ),
    Check(
        "kvm",
        lambda host: host.kvm,
        "loaded",
        "the kvm module is not loaded",
        "modprobe kvm_intel or kvm_amd, and if that fails, switch virtualization on in the firmware",
    ),
    Check(
        "layouts",
        lambda host: make_plan(host).usable and {"level", "invalid"} <= host.role.keys(),
        "known",
        "the layout of kvm's structs is unknown: the kvm module has no usable BTF (/sys/kernel/btf/kvm)",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF_MODULES=y, such as Debian 12's or later",
    ),
)


_KVM = next(place for place, check in enumerate(CHECKS) if check.name == "kvm")


def require_all_but_kvm(host: Host) -> None:
    """Raise ShadowwatchError for the first thing that this host lacks and that the kvm module would not bring."""
    for check in CHECKS[:_KVM]:
        _require(check, host)


def _require(check: Check, host: Host) -> None:
    if not check.holds(host):
        raise ShadowwatchError(check.words(host))


def require(host: Host) -> Plan:
    """Make the plan for this host, or raise ShadowwatchError for the first thing that it lacks."""
    for check in CHECKS:
        _require(check, host)
    plan = make_plan(host)
    if plan.lacks:
        point = plan.lacks[0]
        clones = ", ".join(unknown_clones(host))
        raise ShadowwatchError(
            f"this kernel has no symbol that shows {point.tells} (probe point {point.name}"
            + (f"; unchecked clones: {clones}" if clones else "")
            + f") on Linux {host.release}; boot a kernel that `shadowwatch doctor` finds complete, such as Debian's 6.1"
        )
    return plan


def to_do(host: Host, plan: Plan) -> tuple[str, ...]:
    """What makes this host ready, in the order in which to do it; nothing when it is.

    Without the kvm module its layouts and symbols are not known to be missing.
    """
    checks = CHECKS if host.kvm else CHECKS[: _KVM + 1]
    cures = [check.cure.format(release=host.release) for check in checks if not check.holds(host)]
    if plan.lacks and host.kvm:
        hidden = any(point.name in plan.hidden for point in plan.lacks)
        other = "boot a kernel with a hook for each probe point marked “no”, such as Debian's 6.1"
        cures.append("sysctl kernel.kptr_restrict=1" if hidden else other)
    return tuple(cures)


def losses(plan: Plan) -> tuple[str, ...]:
    """What stays unknown on this host although it can be watched, a line for each probe point without a hook."""
    return tuple(
        f"no hook for probe point {point.name}, so unknown: {point.tells}{cure_of(point, plan)}"
        for point in plan.missing
    )


def cure_of(point: Point, plan: Plan) -> str:
    """What to add to the loss of this point, where something can be done about it."""
    return "; the kernel hides addresses, sysctl kernel.kptr_restrict=1 shows them" if point.name in plan.hidden else ""


def misses_are_counted(host: Host) -> bool:
    """Whether the kernel counts the kprobes that it passes over while other BPF is at work on their processor.

    The same series brought this and a member of what links tell (3acf8ace6823, dd8657894c11, v6.7).
    """
    return "missed" in host.layouts.get("bpf_link_info.perf_event.kprobe", {})


def paging(host: Host) -> str:
    """Which MMU this host's guests use, by the parameters of the kvm modules: a key of PAGING."""
    off = ("N", "0")
    parameters = host.parameters
    if parameters.get("kvm_amd.npt") in off or parameters.get("kvm_intel.ept") in off:
        return "shadow"
    if "kvm_amd.npt" not in parameters and "kvm_intel.ept" not in parameters:
        return "unknown"
    if parameters.get("kvm.tdp_mmu", "N") in off:
        return "nested"
    nested = {parameters.get("kvm_amd.nested", "N"), parameters.get("kvm_intel.nested", "N")}
    return "tdp_mmu" if nested <= set(off) else "tdp_mmu_nested"
