// SPDX-License-Identifier: GPL-2.0-only
/*
 * One function for each probe: find the VM, reserve, fill, submit.
 *
 * All of them run under the VM's mmu_lock, held for writing (a spinlock
 * before 5.15), but for destroy, which runs when no one else can have the VM.
 * So the events of one VM are made one at a time, and its state needs no atomics.
 *
 * SP_*, KVM_* and TDP_MMU_PAGE are offsets in bytes, read from the running
 * kernel's BTF and given with -D by shadowwatch/probe/plan.py.
 */
#include <uapi/linux/ptrace.h>
#include "event.h"

struct vm_state {
	u32 seq;
	u32 pid;
	u32 reclaiming; /* inside kvm_mmu_zap_oldest_mmu_pages() */
	u32 pad;
};

BPF_HASH(vms, u64, struct vm_state, MAX_VMS);
BPF_HASH(reclaimers, u32, u64, MAX_VMS); /* thread -> the VM that it reclaims from */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_F_TABLE("array", u32, u64, counters, SHADOWWATCH_COUNTERS, BPF_F_MMAPABLE);

static __always_inline void count(u32 counter)
{
	u64 *value = counters.lookup(&counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline u64 read64(u64 address)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline u32 read32(u64 address)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

static __always_inline struct vm_state *vm_of(u64 kvm)
{
	struct vm_state *vm = vms.lookup(&kvm);
	struct vm_state new = {};

	if (vm)
		return vm;
	new.pid = read32(kvm + KVM_USERSPACE_PID);
	vms.update(&kvm, &new);
	return vms.lookup(&kvm);
}

/* Reserve one event of this VM with the fields that every kind has, or count why there is none. */
static __always_inline struct shadowwatch_event *reserve(struct vm_state *vm, u64 kvm, u8 kind)
{
	struct shadowwatch_event *event;

	if (!vm) {
		count(SHADOWWATCH_UNTRACKED);
		return 0;
	}
	vm->seq++;
	event = events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		count(SHADOWWATCH_LOST);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kvm = kvm;
	event->ns = bpf_ktime_get_ns();
	event->seq = vm->seq;
	event->pid = vm->pid;
	event->kind = kind;
	return event;
}

static __always_inline void submit(struct shadowwatch_event *event)
{
	/* The reader polls by a timer: a wake-up for each event costs more than the event. */
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline void alloc(u64 kvm, u64 sp, u64 parent_pte, u32 uncounted)
{
	struct vm_state *vm = vm_of(kvm);
	struct shadowwatch_event *event;

	/* Reclaim never allocates: this ends one whose return was missed. */
	if (vm)
		vm->reclaiming = 0;
	event = reserve(vm, kvm, SHADOWWATCH_ALLOC);
	if (!event)
		return;
	event->spt = read64(sp + SP_SPT);
	event->parent_pte = parent_pte;
	event->gfn = read64(sp + SP_GFN);
	event->role = read32(sp + SP_ROLE);
	event->limit = read32(kvm + KVM_N_MAX_MMU_PAGES);
	event->used = read32(kvm + KVM_N_USED_MMU_PAGES) + uncounted;
	submit(event);
}

/* kvm_mmu_alloc_page(kvm, sp, parent_pte) of the patched KVM, entered before the page is counted. */
int probe_alloc_page(struct pt_regs *ctx)
{
	alloc(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 1);
	return 0;
}

/*
 * Raw tracepoint kvm_mmu_get_page(sp, created). It does not name the VM, but a
 * page just created is the head of active_mmu_pages, so its link.prev is the
 * list head inside struct kvm. The TDP MMU fires it too, off that list.
 */
int probe_get_page(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sp = ctx->args[0];
	u8 tdp_mmu_page = 0;

	if (!(u8)ctx->args[1])
		return 0;
	bpf_probe_read_kernel(&tdp_mmu_page, 1, (void *)(sp + SP_TDP_MMU_PAGE));
	if (tdp_mmu_page)
		return 0;
	alloc(read64(sp + SP_LINK + sizeof(u64)) - KVM_ACTIVE_MMU_PAGES, sp, 0, 0);
	return 0;
}

/* __link_shadow_page(kvm, cache, sptep, sp, …), 6.1 and later. */
int probe_link(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx), sp = PT_REGS_PARM4(ctx);
	struct shadowwatch_event *event = reserve(vm_of(kvm), kvm, SHADOWWATCH_LINK);

	if (!event)
		return 0;
	event->spt = read64(sp + SP_SPT);
	event->parent_pte = PT_REGS_PARM3(ctx);
	submit(event);
	return 0;
}

/* mmu_parent_walk(kvm, sp, …) of the patched KVM: each entry moves sp to the head of the list. */
int probe_move(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx), sp = PT_REGS_PARM2(ctx);
	struct shadowwatch_event *event = reserve(vm_of(kvm), kvm, SHADOWWATCH_MOVE);

	if (!event)
		return 0;
	event->spt = read64(sp + SP_SPT);
	submit(event);
	return 0;
}

/* kvm_mmu_zap_page(kvm, sp, …) of the patched KVM, __kvm_mmu_prepare_zap_page(kvm, sp, …) of others. */
int probe_zap(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx), sp = PT_REGS_PARM2(ctx);
	struct vm_state *vm = vm_of(kvm);
	u8 cause = vm && vm->reclaiming ? SHADOWWATCH_RECLAIM : SHADOWWATCH_OTHER;
	struct shadowwatch_event *event = reserve(vm, kvm, SHADOWWATCH_ZAP);

	if (!event)
		return 0;
	event->spt = read64(sp + SP_SPT);
	event->gfn = read64(sp + SP_GFN);
	event->role = read32(sp + SP_ROLE);
	event->cause = cause;
	submit(event);
	return 0;
}

/* kvm_mmu_zap_oldest_mmu_pages(kvm, nr), entry and return: what is zapped between is reclaimed. */
int probe_reclaim(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	u32 thread = bpf_get_current_pid_tgid();
	struct vm_state *vm = vm_of(kvm);

	if (!vm)
		return 0;
	vm->reclaiming = 1;
	reclaimers.update(&thread, &kvm);
	return 0;
}

int probe_reclaim_return(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	u64 *kvm = reclaimers.lookup(&thread);
	struct vm_state *vm;

	if (!kvm)
		return 0;
	vm = vms.lookup(kvm);
	if (vm)
		vm->reclaiming = 0;
	reclaimers.delete(&thread);
	return 0;
}

/* kvm_mmu_uninit_vm(kvm): after the last zap; a VM that never had a shadow page has no state. */
int probe_destroy(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	struct vm_state *vm = vms.lookup(&kvm);
	struct shadowwatch_event *event;

	if (!vm)
		return 0;
	event = reserve(vm, kvm, SHADOWWATCH_DESTROY);
	if (event)
		submit(event);
	vms.delete(&kvm);
	return 0;
}
