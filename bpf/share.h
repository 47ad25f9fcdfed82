/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whoever fills the ring loses first: a VM may put events while what it has
 * waiting is not more than SHADOWWATCH_SHARE times the room that is free (the
 * dynamic threshold of Choudhury and Hahne). While nobody reads, n VMs that storm
 * come to SHARE / (1 + n * SHARE) of the ring each: one to 4/5, two to 4/9. As much
 * as 1 / (1 + n * SHARE) is left to VMs that have less waiting.
 *
 * What a VM has waiting is counted from a mark that the reader has passed, and a
 * new mark is set when it passes the last one. So that is never less than what
 * waits, but for what other processors put at this moment, and up to twice as much
 * when the reader is behind for long: then a share can be half as large.
 *
 * To look costs, so while no more than half of the ring is full a VM does so for
 * one event in SHADOWWATCH_SHARE_EVERY.
 *
 * tests/unit/test_share.py compiles this file and tries it.
 */
#ifndef SHADOWWATCH_SHARE_H
#define SHADOWWATCH_SHARE_H

#include "event.h"

#define SHADOWWATCH_SHARE 4
#define SHADOWWATCH_SHARE_EVERY 16

/* A record in the ring: an event, and the kernel's header (BPF_RINGBUF_HDR_SZ). */
#define SHADOWWATCH_RECORD (sizeof(struct shadowwatch_event) + 8)

/* What a VM has put into the ring; counts go round. */
struct shadowwatch_share {
	__u64 mark;   /* a position in the ring */
	__u32 made;   /* events so far */
	__u32 marked; /* those before the mark */
	__u32 read;   /* those before the last mark that the reader has passed */
	__u32 next;   /* at so many the share is looked at again */
};

/* Whether it is time to look at the share. */
static inline __attribute__((always_inline)) int shadowwatch_share_due(const struct shadowwatch_share *share)
{
	return (__s32)(share->made - share->next) >= 0;
}

/*
 * Whether the VM may put another event into a ring of `size` bytes, read up to
 * the position `consumed`, written up to `produced`.
 *
 * A WRITE has no lock, so two processors may be in here for one VM. The mark is
 * written first and read last: whoever finds it passed has the count that belongs
 * to it, and not a later one.
 */
static inline __attribute__((always_inline)) int shadowwatch_may_put(struct shadowwatch_share *share, __u64 consumed,
								     __u64 produced, __u64 size)
{
	volatile struct shadowwatch_share *shared = share;
	__u32 made = shared->made, marked = shared->marked;
	__u64 full = produced - consumed, room = (size - full) * SHADOWWATCH_SHARE;

	if (consumed >= shared->mark) {
		shared->mark = produced;
		shared->marked = made;
		shared->read = marked;
	}
	shared->next = full > size / 2 ? made : made + SHADOWWATCH_SHARE_EVERY;
	return full <= room || (__u32)(made - shared->read) * SHADOWWATCH_RECORD <= room;
}

#endif
