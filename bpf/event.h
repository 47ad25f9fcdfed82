/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The wire event: everything that crosses between the kernel and user space,
 * and the only place where it is defined. shadowwatch/event/abi.py names the
 * same fields; tests/unit/test_abi.py compiles this file and compares the two.
 *
 * Every record is one event of fixed size, zeroed before use, all padding
 * explicit. A field that a kind does not fill is 0.
 *
 * Kinds up to FLUSH are made one at a time for each VM, so they are numbered
 * and a gap tells that one was lost. The others are not: a WRITE comes before the
 * lock is taken (when one is lost, the next number is skipped), and a walk
 * speaks for itself: a step says how many records it has.
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
	SHADOWWATCH_FLUSH = 8,	 /* kvm_mmu_zap_all_fast() makes all pages obsolete, and is about to zap them */
	SHADOWWATCH_WRITE = 9,	 /* the guest wrote to gpa, where a page table may be */
	SHADOWWATCH_STEP = 10,	 /* `used` records of a walk over active_mmu_pages follow */
	SHADOWWATCH_PAGE = 11,	 /* walk: the next newer page on the list */
	SHADOWWATCH_PARENT = 12, /* walk: a further parent_pte of that page */
	SHADOWWATCH_VM = 13,	 /* walk over vm_list: a VM */
};

enum shadowwatch_flags {
	SHADOWWATCH_FIRST = 1, /* step: it begins at the oldest page */
	SHADOWWATCH_LAST = 2,  /* step: it ends at the newest page */
	SHADOWWATCH_VOID = 4,  /* step: the list changed meanwhile, or the ring was full; vm: `seq` may have changed */
	SHADOWWATCH_OBSOLETE = 8, /* page: it is of an older generation than its VM (mmu_valid_gen) */
	SHADOWWATCH_COUNTED = 16, /* step, destroy: it tells what KVM itself has counted so far */
	SHADOWWATCH_IN_SYNC = 32, /* zap: the page is as the guest's table that it shadows (not sp->unsync) */
};

#define SHADOWWATCH_UNCOUNTED (~0ULL)

/*
 * What KVM has counted since before the VM's event number 1, up to number `seq`:
 * an event that tells it (SHADOWWATCH_COUNTED) has pages allocated in `spt`
 * (kvm->stat.mmu_cache_miss), zapped in `parent_pte` (mmu_shadow_zapped) and
 * recycled in `gfn` (mmu_recycled).
 */

struct shadowwatch_event {
	__u64 kvm;	  /* all but a step over vm_list: struct kvm *, which VM */
	__u64 ns;	  /* all: bpf_ktime_get_ns(), CLOCK_MONOTONIC; link of the newest page: as its alloc */
	__u64 spt;	  /* alloc, link, move, zap, page, parent: sp->spt, the table of sptes: its identity */
	__u64 parent_pte; /* alloc (patched KVM), link, unlink, page, parent: an spte that points to the page */
	__u64 gfn;	  /* alloc, zap, page: sp->gfn; write: the guest physical address */
	__u64 mapped;	  /* alloc, reclaim: guest pages of 4 KiB that sptes map, SHADOWWATCH_UNCOUNTED if unknown */
	__u32 seq;	  /* up to flush: 1, 2, 3, … for each VM; step, vm: the last number so far */
	__u32 role;	  /* alloc, zap, page: sp->role.word, laid out as the kernel's BTF says */
	__u32 pid;	  /* all but page and parent: the process whose VM it is */
	__u32 limit;	  /* alloc, step, vm: n_max_mmu_pages */
	__u32 used;	  /* alloc, vm: n_used_mmu_pages, with this page in it; step: records that follow */
	__u32 caller;	  /* zap, reclaim, flush: where it returns to, the lower half of the address */
	__u32 walk;	  /* step, page, parent, vm: which walk, as asked for */
	__u8 kind;	  /* all: enum shadowwatch_kind */
	__u8 flags;	  /* step, page, vm, zap, destroy: enum shadowwatch_flags */
	__u8 pad[2];
};

/*
 * The bound on what one hit of a probe does for a walk: a step ends after so
 * many records, or at the end of the pte_list_desc in which that is, and never
 * looks at more than SHADOWWATCH_STEP_MOST places. The next goes on there, in
 * the middle of a page's parents, too.
 */
#define SHADOWWATCH_STEP_RECORDS 64
#define SHADOWWATCH_STEP_MOST 256

/*
 * The command line of a process as it was when its VM had its first shadow page, for
 * who comes when it has ended: at `pid` modulo SHADOWWATCH_COMMANDS in an array of
 * them, which user space has mapped.
 */
#define SHADOWWATCH_COMMANDS 1024
#define SHADOWWATCH_COMMAND_MOST 1023

struct shadowwatch_command {
	__u32 pid;    /* whose it is; 0 while it is written */
	__u32 length; /* of the words in bytes, those that did not fit left out */
	__u8 words[SHADOWWATCH_COMMAND_MOST + 1]; /* each with a 0 behind it */
};

/* The words of the counters map, which user space reads without a system call. */
enum shadowwatch_counter {
	SHADOWWATCH_LOST = 0,	   /* events that found the ring full */
	SHADOWWATCH_UNTRACKED = 1, /* events of a VM that found no room in the vms map */
	SHADOWWATCH_COUNTERS = 2,
};

enum shadowwatch_want {
	SHADOWWATCH_NOTHING = 0,
	SHADOWWATCH_OWN = 1,	    /* be the process whose calls are heard */
	SHADOWWATCH_VMS = 2,	    /* walk vm_list from `place` */
	SHADOWWATCH_WALK = 3,	    /* a step from `place`, while nobody has mmu_lock */
	SHADOWWATCH_WALK_LOCKED = 4, /* walk in steps under mmu_lock, as probes come by */
};

/* Where a walk goes on. */
struct shadowwatch_place {
	__u64 next;    /* the next page, or VM, by its link; 0: nowhere, or at the beginning */
	__u64 parents; /* the page, by its link, of which further parents were told last */
	__u64 desc;    /* the pte_list_desc at which these go on, 0 when all were told */
};

/* What user space writes before it calls probe_ask(), and reads the answer from: shared memory. */
struct shadowwatch_request {
	__u64 kvm;
	struct shadowwatch_place place; /* answer: where to go on; next is 0 for the first step, and after the last */
	__u32 seq;    /* walk: the VM's number at the first step; answer: likewise */
	__u32 walk;   /* a number for this walk, never 0 */
	__u32 want;   /* enum shadowwatch_want */
	__u32 owner;  /* answer to OWN */
	__u32 flags;  /* answer: those of the step */
	__u32 listening; /* not 0: somebody reads the ring; no event is made before */
};

#endif
