// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long KVM's page fault handlers and its reclaim take, for as long as `shadowwatch cost` runs.
 *
 * A thread is followed from entry to return. What counts is its processor time: the time on the clock without that in
 * which another thread had the processor, or this one slept. Times are summed up by VM and kind, in a histogram with
 * four buckets for each power of two.
 *
 * TASK_*, MM_*, SP_*, KVM_*, BUCKETS, MAX_VMS, MAX_THREADS and ONLY (the one pid to measure, 0: all) are given with
 * -D by shadowwatch/probe/cost.py.
 */
#include <uapi/linux/ptrace.h>
#include "read.h"

/* shadowwatch/cost.py has the kinds in this order, too. */
enum { BUILDING, OTHER, RECLAIM, KINDS };

struct times {
	u64 times;
	u64 ns;
	u32 buckets[BUCKETS];
};

struct vm {
	struct times of[KINDS];
	u64 tables; /* that faults have built */
};

struct moment {
	u64 ns;	      /* 0: none */
	u64 switched; /* the thread's exec_start, which goes on with each return to a processor */
	u64 ran;      /* its sum_exec_runtime, which does not go on while it waits for one */
};

struct thread {
	struct moment fault;
	struct moment reclaim;
	u64 reclaimed; /* ns of reclaim within the fault */
	u64 tables;    /* built in it */
	u32 pid;       /* the VM's */
	u32 reclaimed_pid;
};

/* Neither is by processor: a VM's faults take turns at its mmu_lock anyway, and a copy for each processor is large. */
BPF_HASH(vms, u32, struct vm, MAX_VMS);
BPF_HASH(threads, u32, struct thread, MAX_THREADS);
BPF_ARRAY(none, struct vm, 1); /* too large for the stack */
BPF_ARRAY(measuring, u32, 1);
BPF_ARRAY(unmeasured, u64, 1);

static __always_inline void missed(void)
{
	int zero = 0;
	u64 *count = unmeasured.lookup(&zero);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Whether this VM is to be measured now. */
static __always_inline bool wanted(u32 pid)
{
	int zero = 0;
	u32 *now = measuring.lookup(&zero);

	return now && *now && (!ONLY || pid == ONLY);
}

static __always_inline struct thread *this_thread(void)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = threads.lookup(&tid), new = {};

	if (thread)
		return thread;
	threads.insert(&tid, &new);
	return threads.lookup(&tid);
}

static __always_inline void begin(struct moment *moment)
{
	u64 task = bpf_get_current_task();

	moment->switched = read64(task + TASK_EXEC_START);
	moment->ran = read64(task + TASK_RAN);
	moment->ns = bpf_ktime_get_ns();
}

/* Both go on by the same amount while the thread runs, so what `switched` gained on `ran` is what it waited. */
static __always_inline u64 end(struct moment *moment, u64 now)
{
	u64 task = bpf_get_current_task(), ns = now - moment->ns;
	s64 waited = (read64(task + TASK_EXEC_START) - moment->switched) - (read64(task + TASK_RAN) - moment->ran);

	moment->ns = 0;
	return waited > 0 && waited < ns ? ns - waited : ns;
}

static __always_inline u64 bucket_of(u64 ns)
{
	u64 log, bucket;

	if (ns < 4)
		return 0;
	if (ns >> 32)
		return BUCKETS - 1;
	log = bpf_log2(ns);
	bucket = log * 4 + ((ns >> (log - 2)) & 3);
	/* It is less than BUCKETS, a power of two: the compiler knows, and would leave out what tells the verifier. */
	asm volatile("" : "+r"(bucket));
	return bucket & (BUCKETS - 1);
}

static __always_inline void count(u32 pid, u32 kind, u64 ns, u64 tables)
{
	struct vm *vm = vms.lookup(&pid), *new;
	struct times *times;
	int zero = 0;
	u64 bucket = bucket_of(ns);

	if (!vm) {
		new = none.lookup(&zero);
		if (new)
			vms.insert(&pid, new);
		vm = vms.lookup(&pid);
	}
	if (!vm) {
		missed();
		return;
	}
	times = kind == BUILDING ? &vm->of[BUILDING] : kind == OTHER ? &vm->of[OTHER] : &vm->of[RECLAIM];
	__sync_fetch_and_add(&times->times, 1);
	__sync_fetch_and_add(&times->ns, ns);
	__sync_fetch_and_add(&times->buckets[bucket], 1);
	if (tables)
		__sync_fetch_and_add(&vm->tables, tables);
}

/* A page fault handler of KVM's: the process that runs a vCPU is the VM's. */
int fault_begins(struct pt_regs *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct thread *thread;

	if (!wanted(pid))
		return 0;
	thread = this_thread();
	/* When a fault has not ended, its return was not seen: the kernel follows only so many at once. */
	if (!thread || thread->fault.ns)
		missed();
	if (!thread)
		return 0;
	thread->pid = pid;
	thread->tables = thread->reclaimed = thread->reclaim.ns = 0;
	begin(&thread->fault);
	return 0;
}

int fault_ends(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), ns;
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = threads.lookup(&tid);

	if (!thread || !thread->fault.ns)
		return 0;
	ns = end(&thread->fault, now);
	ns -= thread->reclaimed < ns ? thread->reclaimed : ns;
	count(thread->pid, thread->tables ? BUILDING : OTHER, ns, thread->tables);
	return 0;
}

/* Raw tracepoint kvm_mmu_get_page(sp, created), which the TDP MMU fires, too. */
int table_built(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread;

	if (!(u8)ctx->args[1] || read8(ctx->args[0] + SP_TDP_MMU_PAGE))
		return 0;
	thread = threads.lookup(&tid);
	if (thread && thread->fault.ns)
		thread->tables++;
	return 0;
}

/* kvm_mmu_zap_oldest_mmu_pages(kvm, …). */
int reclaim_begins(struct pt_regs *ctx)
{
	u32 pid = process_of(PT_REGS_PARM1(ctx));
	struct thread *thread;

	if (!wanted(pid))
		return 0;
	thread = this_thread();
	if (!thread) {
		missed();
		return 0;
	}
	thread->reclaimed_pid = pid;
	begin(&thread->reclaim);
	return 0;
}

/*
 * The return of kvm_mmu_commit_zap_page(), the last that kvm_mmu_zap_oldest_mmu_pages() calls. A probe on the return
 * of that itself would put an address of its own in place of the caller's, which probe_reclaim() of a daemon reads.
 */
int reclaim_ends(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), ns;
	u32 tid = bpf_get_current_pid_tgid();
	struct thread *thread = threads.lookup(&tid);

	if (!thread || !thread->reclaim.ns)
		return 0;
	ns = end(&thread->reclaim, now);
	if (thread->fault.ns)
		thread->reclaimed += ns;
	count(thread->reclaimed_pid, RECLAIM, ns, 0);
	return 0;
}
