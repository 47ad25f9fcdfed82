/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading the kernel's memory, and whose a VM is: for each program in this folder.
 *
 * KVM_*, TASK_* and MM_* are offsets in bytes, given with -D as plan.py and cost.py in shadowwatch/probe/ find them.
 */
#ifndef SHADOWWATCH_READ_H
#define SHADOWWATCH_READ_H

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

static __always_inline u8 read8(u64 address)
{
	u8 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

/* Whether the current process is the VM's, and its memory can be looked at. */
static __always_inline bool is_current(u64 kvm)
{
#if defined(KVM_MM) && defined(TASK_MM)
	return read64(bpf_get_current_task() + TASK_MM) == read64(kvm + KVM_MM);
#else
	return false;
#endif
}

/*
 * The process whose VM this is. kvm->userspace_pid is only the thread that made
 * it, which may have ended; the owner of its memory is a thread of the process as
 * long as there is one.
 */
static __always_inline u32 process_of(u64 kvm)
{
	u32 process = 0;

	if (is_current(kvm))
		return bpf_get_current_pid_tgid() >> 32;
#if defined(KVM_MM) && defined(MM_OWNER) && defined(TASK_TGID)
	u64 owner = read64(read64(kvm + KVM_MM) + MM_OWNER);

	if (owner)
		process = read32(owner + TASK_TGID);
#endif
	return process ?: read32(kvm + KVM_USERSPACE_PID);
}

#endif
