# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab, on its own Python: how long each process holds mmu_lock for writing.

Of the kernel's rwlocks, kvm.ko takes hardly another: a call of _raw_write_lock() from its text is one of mmu_lock.
Answers with [times, ns, longest ns].
"""

from bcc import BPF

from tests.experiment.answering import answer

PROGRAM = """
#include <uapi/linux/ptrace.h>

struct hold { u64 lock, since; };
struct total { u64 times, ns, longest; };
BPF_HASH(holds, u32, struct hold);
BPF_HASH(totals, u32, struct total);

int taken(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct hold hold = { .lock = PT_REGS_PARM1(ctx) };
	u64 caller = 0;

	bpf_probe_read_kernel(&caller, sizeof(caller), (void *)PT_REGS_SP(ctx));
	if (caller < KVM_TEXT || caller >= KVM_TEXT_END)
		return 0;
	hold.since = bpf_ktime_get_ns();
	holds.update(&thread, &hold);
	return 0;
}

int given(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), both = bpf_get_current_pid_tgid();
	u32 thread = both, process = both >> 32;
	struct hold *hold = holds.lookup(&thread);
	struct total none = {}, *total;

	if (!hold || hold->lock != PT_REGS_PARM1(ctx))
		return 0;
	now -= hold->since;
	holds.delete(&thread);
	total = totals.lookup_or_try_init(&process, &none);
	if (!total)
		return 0;
	total->times++;
	total->ns += now;
	if (now > total->longest)
		total->longest = now;
	return 0;
}
"""


def main() -> None:
    """Attach, and answer until the input ends."""
    with open("/proc/modules", encoding="ascii") as modules:
        words = next(line.split() for line in modules if line.startswith("kvm "))
    start, size = int(words[5], 16), int(words[1])
    bpf = BPF(text=PROGRAM, cflags=[f"-DKVM_TEXT={start}ULL", f"-DKVM_TEXT_END={start + size}ULL"])
    bpf.attach_kprobe(event="_raw_write_lock", fn_name="taken")
    bpf.attach_kprobe(event="_raw_write_unlock", fn_name="given")
    answer(bpf)


if __name__ == "__main__":
    main()
