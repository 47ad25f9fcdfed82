/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The wire event: everything that crosses from the kernel to user space, and
 * the only place where it is defined. shadowwatch/event/abi.py names the same
 * fields; tests/unit/test_abi.py compiles this file and compares the two.
 *
 * Every record is one event of fixed size, zeroed before use, all padding
 * explicit. A field that a kind does not fill is 0.
 */
#ifndef SHADOWWATCH_EVENT_H
#define SHADOWWATCH_EVENT_H

#include <linux/types.h>

enum shadowwatch_kind {
	SHADOWWATCH_ALLOC = 1,	 /* a shadow page was allocated, newest on the list */
	SHADOWWATCH_LINK = 2,	 /* parent_pte was made to point to the page */
	SHADOWWATCH_MOVE = 3,	 /* mmu_parent_walk() moved the page to the head */
	SHADOWWATCH_ZAP = 4,	 /* the page is being zapped */
	SHADOWWATCH_DESTROY = 5, /* the VM's shadow MMU is gone */
};

enum shadowwatch_cause {
	SHADOWWATCH_OTHER = 0,
	SHADOWWATCH_RECLAIM = 1, /* zapped by kvm_mmu_zap_oldest_mmu_pages() */
};

struct shadowwatch_event {
	__u64 kvm;	  /* all: struct kvm *, which VM */
	__u64 ns;	  /* all: bpf_ktime_get_ns(), CLOCK_MONOTONIC */
	__u64 spt;	  /* all but destroy: sp->spt, the page's table of sptes: its identity */
	__u64 parent_pte; /* alloc (patched KVM), link: the spte that points to the page */
	__u64 gfn;	  /* alloc, zap: sp->gfn */
	__u32 seq;	  /* all: 1, 2, 3, … for each VM; a gap is a lost event */
	__u32 role;	  /* alloc, zap: sp->role.word, laid out as the kernel's BTF says */
	__u32 pid;	  /* all: kvm->userspace_pid */
	__u32 limit;	  /* alloc: n_max_mmu_pages */
	__u32 used;	  /* alloc: n_used_mmu_pages, with this page in it */
	__u8 kind;	  /* all: enum shadowwatch_kind */
	__u8 cause;	  /* zap: enum shadowwatch_cause */
	__u8 pad[2];
};

/* The words of the counters map, which user space reads without a system call. */
enum shadowwatch_counter {
	SHADOWWATCH_LOST = 0,	   /* events that found the ring full */
	SHADOWWATCH_UNTRACKED = 1, /* events of a VM that found no room in the vms map */
	SHADOWWATCH_COUNTERS = 2,
};

#endif
