# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab, on its own Python: what it costs a guest to be watched, by shadowwatch and by others.

Prints as JSON, for each watcher, the processor time of the guest's VMM in nanoseconds, which are instructions where the
lab counts these: user and system, so what probes and tracepoints do on its account is in it, and who reads is not.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path

from shadowwatch.event.request import Requests
from shadowwatch.probe.attach import load
from shadowwatch.probe.checks import require
from shadowwatch.probe.host import gather

#: Events of one run have room in the ring, so that nobody need read it.
RING_PAGES = 4096
ROUNDS = 3
TRACING = Path("/sys/kernel/tracing")
#: What bpftrace 0.17, Debian 12's, makes of `tracepoint:kvmmmu:NAME { @[probe] = count() }`: a hash of counts for each
#: processor, which is looked into and written to each time.
COUNTED = ("kvm_mmu_get_page", "kvm_mmu_prepare_zap_page")
COUNTING = """
BPF_PERCPU_HASH(counts, u64, u64, 8);
static int counted(u64 key)
{
	u64 *old = counts.lookup(&key), new = old ? *old + 1 : 1;

	counts.update(&key, &new);
	return 0;
}
int kvm_mmu_get_page(void *ctx) { return counted(0); }
int kvm_mmu_prepare_zap_page(void *ctx) { return counted(1); }
"""


@contextmanager
def shadowwatch() -> Iterator[None]:
    """All probes of a daemon, making all events."""
    bpf = load(require(gather()), RING_PAGES)
    Requests(bpf["requests"].map_fd)
    yield
    assert not bpf["counters"][0].value, "events were lost"
    bpf.cleanup()


@contextmanager
def counting() -> Iterator[None]:
    """Two tracepoints that are counted."""
    from bcc import BPF

    bpf = BPF(text=COUNTING)
    for name in COUNTED:
        bpf.attach_tracepoint(tp=f"kvmmmu:{name}", fn_name=name)
    yield
    assert len(bpf["counts"]) == len(COUNTED)
    bpf.cleanup()


@contextmanager
def trace_buffer() -> Iterator[None]:
    """The kernel's own buffer, with all of the kvmmmu events."""
    switch = TRACING / "events/kvmmmu/enable"
    switch.write_text("1")
    yield
    switch.write_text("0")
    with (TRACING / "trace").open() as trace:
        assert any("kvm_mmu_get_page" in line for line in islice(trace, 100))


#: Watcher -> what it is, none first and last.
WATCHERS: tuple[tuple[str, Callable[[], AbstractContextManager[None]]], ...] = (
    ("nobody", nullcontext),
    ("shadowwatch", shadowwatch),
    ("two tracepoints counted", counting),
    ("the trace buffer with all kvmmmu events", trace_buffer),
    ("nobody", nullcontext),
)


def guest() -> int:
    """Run the guest once; its VMM's processor time in nanoseconds."""
    words = ["/srv/lab/vmm", "--pattern", "zipf", "--directories", "16", "--tables", "8", "--accesses", "10000"]
    said = subprocess.run(
        [*words, "--pages", "64"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return int(json.loads(said.splitlines()[0])["cpu_us"]) * 1000


def main() -> None:
    """Have the same guest watched by each."""
    times: dict[str, list[int]] = {}
    for name, watcher in WATCHERS:
        with watcher():
            times.setdefault(name, []).extend(guest() for _ in range(ROUNDS))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
