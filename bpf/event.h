/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The wire event: everything that crosses between the kernel and user space,
 * and the only place where it is defined. shadowwatch/event/abi.py names the
 * same fields; tests/unit/test_abi.py compiles this file and compares the two.
 *
 * Every record is one event of fixed size, zeroed before use, all padding
 * explicit. A field that a kind does not fill is 0.
 *
 * Kinds up to DESTROY are made one at a time for each VM, so they are numbered
 * and a gap tells that one was lost. The others are not: FLUSH and WRITE come
 * before the lock is taken (when one is lost, the next number is skipped), and
 * a walk speaks for itself: a step says how many records it has.
 */
#ifndef SHADOWWATCH_EVENT_H
#define SHADOWWATCH_EVENT_H

#include <linux/types.h>

enum shadowwatch_kind {
	SHADOWWATCH_ALLOC = 1,	 /* a shadow page was allocated, newest on the list */
	SHADOWWATCH_LINK = 2,	 /* parent_pte is made to point to the page */
	SHADOWWATCH_MOVE = 3,	 /* mmu_parent_walk() moves the page to the head */
	SHADOWWATCH_ZAP = 4,	 /* the page is being zapped */
	SHADOWWATCH_RECLAIM = 5, /* the oldest pages are about to be zapped */
	SHADOWWATCH_UNLINK = 6,	 /* parent_pte is made to map memory, maybe in place of a page */
	SHADOWWATCH_DESTROY = 7, /* the VM's shadow MMU is gone */
	SHADOWWATCH_FLUSH = 8,	 /* kvm_mmu_zap_all_fast() is about to zap */
	SHADOWWATCH_WRITE = 9,	 /* the guest wrote to gpa, where a page table may be */
	SHADOWWATCH_STEP = 10,	 /* `used` records of a walk over active_mmu_pages follow */
	SHADOWWATCH_PAGE = 11,	 /* walk: the next newer page on the list */
	SHADOWWATCH_PARENT = 12, /* walk: a further parent_pte of that page */
	SHADOWWATCH_VM = 13,	 /* walk over vm_list: a VM */
};

enum shadowwatch_flags {
	SHADOWWATCH_FIRST = 1, /* step: it begins at the oldest page */
	SHADOWWATCH_LAST = 2,  /* step: it ends at the newest page */
	SHADOWWATCH_VOID = 4,  /* step: the list changed meanwhile, or the ring was full */
	SHADOWWATCH_MANY = 8,  /* step: a page has more parents than were read */
};

#define SHADOWWATCH_UNCOUNTED (~0ULL)

struct shadowwatch_event {
	__u64 kvm;	  /* all but a step over vm_list: struct kvm *, which VM */
	__u64 ns;	  /* all: bpf_ktime_get_ns(), CLOCK_MONOTONIC */
	__u64 spt;	  /* alloc, link, move, zap, page, parent: sp->spt, the table of sptes: its identity */
	__u64 parent_pte; /* alloc (patched KVM), link, unlink, page, parent: an spte that points to the page */
	__u64 gfn;	  /* alloc, zap, page: sp->gfn; write: the guest physical address */
	__u64 mapped;	  /* alloc, reclaim: guest pages of 4 KiB that sptes map, SHADOWWATCH_UNCOUNTED if unknown */
	__u32 seq;	  /* up to destroy: 1, 2, 3, … for each VM; step: the last number so far */
	__u32 role;	  /* alloc, zap, page: sp->role.word, laid out as the kernel's BTF says */
	__u32 pid;	  /* all but page and parent: kvm->userspace_pid */
	__u32 limit;	  /* alloc, step, vm: n_max_mmu_pages */
	__u32 used;	  /* alloc, vm: n_used_mmu_pages, with this page in it; step: records that follow */
	__u32 caller;	  /* zap, reclaim, flush: where it returns to, the lower half of the address */
	__u32 walk;	  /* step, page, parent, vm: which walk, as asked for */
	__u8 kind;	  /* all: enum shadowwatch_kind */
	__u8 flags;	  /* step: enum shadowwatch_flags */
	__u8 pad[2];
};

/*
 * The bound on what one hit of a probe does for a walk: a step ends after so
 * many records, but for the parents of its last page, which come in one piece
 * since they may be others at the next step. It never makes more than
 * SHADOWWATCH_STEP_MOST.
 */
#define SHADOWWATCH_STEP_RECORDS 64
#define SHADOWWATCH_STEP_MOST 256

/* The words of the counters map, which user space reads without a system call. */
enum shadowwatch_counter {
	SHADOWWATCH_LOST = 0,	   /* events that found the ring full */
	SHADOWWATCH_UNTRACKED = 1, /* events of a VM that found no room in the vms map */
	SHADOWWATCH_COUNTERS = 2,
};

enum shadowwatch_want {
	SHADOWWATCH_NOTHING = 0,
	SHADOWWATCH_OWN = 1,	    /* be the process whose calls are heard */
	SHADOWWATCH_VMS = 2,	    /* walk vm_list from `cursor`, 0: its beginning */
	SHADOWWATCH_WALK = 3,	    /* a step from `cursor`, 0: the oldest page, while nobody has mmu_lock */
	SHADOWWATCH_WALK_LOCKED = 4, /* walk in steps under mmu_lock, as probes come by */
};

/* What user space writes before it calls probe_ask(), and reads the answer from: shared memory. */
struct shadowwatch_request {
	__u64 kvm;
	__u64 cursor; /* answer: where to go on, 0 after the last */
	__u32 seq;    /* walk: the VM's number at the first step; answer: likewise */
	__u32 walk;   /* a number for this walk, never 0 */
	__u32 want;   /* enum shadowwatch_want */
	__u32 owner;  /* answer to OWN */
	__u32 flags;  /* answer: those of the step */
	__u32 listening; /* not 0: somebody reads the ring; no event is made before */
};

#endif
