# SPDX-License-Identifier: Apache-2.0
"""Compile and attach. The only user of bcc."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import MOST_VMS
from shadowwatch.event.ring import ring_pages
from shadowwatch.probe.plan import DEFINES, OPTIONAL, Plan


@dataclass(frozen=True, slots=True)
class Attached:
    """Descriptors: the maps that user space shares, the programs, and the links that keep the probes in place.

    Of the programs it has those that make events: when another one is passed over, nothing is missing.
    """

    ring: int
    counters: int
    requests: int
    programs: tuple[int, ...]
    commands: int
    links: tuple[int, ...]
    ring_size: int


def source_folder() -> Path:
    """Where the BPF sources are: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


def load(plan: Plan, ring_pages: int) -> Any:
    """Compile bpf/mmu.bpf.c for this host, attach what the plan says, and return the bcc.BPF.

    Takes some seconds and 100 MB (LLVM), which go with the exec of the other half.
    Raises ShadowwatchError when bcc is not the one it should be, or refuses.
    """
    # A probe whose definitions are not known is not attached, but its text is compiled with the others.
    unknown = {name: 0 for name in (*DEFINES, "MMU_PAGE_ZAP_PTE", "MMU_PAGE_ZAP_PTE_END") if name not in OPTIONAL}
    return load_program("mmu.bpf.c", plan, {**unknown, **plan.defines, "RING_PAGES": ring_pages, "MAX_VMS": MOST_VMS})


def load_program(source: str, plan: Plan, defines: Mapping[str, int]) -> Any:
    """Do so with this file of bpf/ and these definitions."""
    try:
        from bcc import BPF
    except ImportError as error:
        raise ShadowwatchError(
            f"bcc for Python cannot be used ({error}); apt install python3-bpfcc (bcc on PyPI is another project)"
        ) from None
    folder = source_folder()
    flags = [f"-D{name}={value:#x}ULL" for name, value in defines.items()]
    symbol = "the BPF program"
    try:
        bpf = BPF(text=(folder / source).read_text(), cflags=[f"-I{folder}", *flags])
        for attachment in plan.attachments:
            symbol = attachment.symbol
            if attachment.kind == "raw_tracepoint":
                bpf.attach_raw_tracepoint(tp=symbol, fn_name=attachment.program)
            elif attachment.kind == "kprobe":
                bpf.attach_kprobe(event=symbol, fn_name=attachment.program)
            elif attachment.kind == "kretprobe":
                bpf.attach_kretprobe(event=symbol, fn_name=attachment.program)
    except Exception as error:  # bcc raises bare Exception
        raise ShadowwatchError(
            f"bcc could not load or attach {symbol}: {error}; `shadowwatch doctor` shows what this host lacks"
        ) from None
    return bpf


def attach(plan: Plan, ring_bytes: int) -> Attached:
    """Load the plan with a ring of at least so many bytes, and return the descriptors to keep."""
    pages = ring_pages(ring_bytes)
    bpf = load(plan, pages)
    links = [*(fd for probes in bpf.kprobe_fds.values() for fd in probes.values())]
    links += bpf.raw_tracepoint_fds.values()
    makers = {each.program for each in plan.attachments if each.program and each.point != "walk"}
    return Attached(
        ring=bpf["events"].map_fd,
        counters=bpf["counters"].map_fd,
        requests=bpf["requests"].map_fd,
        programs=tuple(function.fd for function in bpf.funcs.values() if function.name.decode() in makers),
        commands=bpf["commands"].map_fd,
        links=tuple(links),
        ring_size=pages * mmap.PAGESIZE,
    )
