# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab, on its own Python: how long __link_shadow_page() takes in each process, and what KVM maps.

Whatever a policy does when a page gets a child, it does in that function. A hit of the two probes takes as long under
every policy, so it is no part of the difference between two of them. Answers with [links, ns, mappings].
"""

from bcc import BPF

from tests.experiment.answering import answer

PROGRAM = """
#include <uapi/linux/ptrace.h>

struct total { u64 links, ns, mappings; };
BPF_HASH(since, u32, u64);
BPF_HASH(totals, u32, struct total);

int linking(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	u64 now = bpf_ktime_get_ns();

	since.update(&thread, &now);
	return 0;
}

int linked(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), both = bpf_get_current_pid_tgid();
	u32 thread = both, process = both >> 32;
	struct total none = {}, *total = totals.lookup_or_try_init(&process, &none);
	u64 *begun = since.lookup(&thread);

	if (!begun || !total)
		return 0;
	total->links++;
	total->ns += now - *begun;
	return 0;
}

/* In mmu_set_spte(), which maps a page of the guest's. */
RAW_TRACEPOINT_PROBE(kvm_mmu_set_spte)
{
	u32 process = bpf_get_current_pid_tgid() >> 32;
	struct total none = {}, *total = totals.lookup_or_try_init(&process, &none);

	if (total)
		total->mappings++;
	return 0;
}
"""


def main() -> None:
    """Attach, and answer until the input ends."""
    bpf = BPF(text=PROGRAM)
    bpf.attach_kprobe(event="__link_shadow_page", fn_name="linking")
    bpf.attach_kretprobe(event="__link_shadow_page", fn_name="linked")
    answer(bpf)


if __name__ == "__main__":
    main()
