// SPDX-License-Identifier: GPL-2.0-only
/*
 * One function for each probe: find the VM, reserve, fill, submit.
 *
 * Those that number their events run under the VM's mmu_lock, held for writing
 * (a spinlock before 531810caa9f4, v5.12), but for destroy, which runs when no one else can
 * have the VM. So the numbered events of one VM are made one at a time, and its
 * state needs no atomics but for its share of the ring. The others say so.
 *
 * SP_*, DESC_*, KVM_*, VCPU_* and VM_* are offsets in bytes, and the names in
 * capitals without these prefixes are kernel addresses. All are read from the
 * running kernel and given with -D by shadowwatch/probe/plan.py.
 */
#include <uapi/linux/ptrace.h>
#include "event.h"
#include "read.h"
#include "share.h"

/* So far up a function is looked for that tells why a page was zapped. */
#define CALLER_DEPTH 8

#ifdef DESC_COUNT
#define DESC_SLOTS(desc) read32((desc) + DESC_COUNT)
#else
#define DESC_SLOTS(desc) ((DESC_MORE - DESC_SPTES) / sizeof(u64)) /* those that are free are 0 */
#endif

/* A member of a union that has what was read from one place on: this one is so many bytes behind that. */
#define AT(offset, name, member)                                                                                       \
	struct {                                                                                                       \
		u8 before_##name[offset];                                                                              \
		member;                                                                                                \
	} __attribute__((packed))

#define LEAST(a, b) ((a) < (b) ? (a) : (b))

/* Of struct kvm_mmu_page. One read of many bytes costs half of two that are of one word each. */
union shadow_page {
	AT(SP_LINK, link, u64 link[2]);
	AT(SP_TDP_MMU_PAGE, tdp_mmu_page, u8 tdp_mmu_page);
	AT(SP_ROLE, role, u32 role);
	AT(SP_GFN, gfn, u64 gfn);
	AT(SP_SPT, spt, u64 spt);
#ifdef SP_UNSYNC
	AT(SP_UNSYNC, unsync, u8 unsync);
#endif
} __attribute__((aligned(8)));

/* The first member that both an allocation and a zap tell. */
#ifdef SP_UNSYNC
#define TOLD_OF_PAGE LEAST(LEAST(SP_GFN, SP_SPT), LEAST(SP_ROLE, SP_UNSYNC))
#else
#define TOLD_OF_PAGE LEAST(LEAST(SP_GFN, SP_SPT), SP_ROLE)
#endif

/* Of struct kvm, where these lie close together: within 128 bytes in 5.10 to 7.3. */
#ifdef KVM_PAGES
#define SIZES LEAST(KVM_PAGES, LEAST(KVM_N_USED_MMU_PAGES, KVM_N_MAX_MMU_PAGES))
#else
#define SIZES LEAST(KVM_N_USED_MMU_PAGES, KVM_N_MAX_MMU_PAGES)
#endif

union sizes {
	AT(KVM_N_USED_MMU_PAGES - SIZES, used, u32 used);
	AT(KVM_N_MAX_MMU_PAGES - SIZES, limit, u32 limit);
#ifdef KVM_PAGES
	AT(KVM_PAGES - SIZES, pages, u64 pages[3]);
#endif
} __attribute__((aligned(8)));

/* What KVM has counted of a VM in kvm->stat: pages allocated, zapped, and recycled. */
struct counts {
	u64 allocated;
	u64 zapped;
	u64 recycled;
};

struct vm_state {
	u64 kvm; /* whose it is, 0: nobody's */
	u32 seq;
	u32 pid;
	u32 caller;  /* patched KVM: who called __kvm_mmu_prepare_zap_page() */
	u32 flusher; /* who called kvm_mmu_zap_all_fast(), under slots_lock */
	u32 skip;    /* an event without a number was lost */
	u32 wanted;  /* the walk that was asked for; all else here is written under mmu_lock */
	u32 walking; /* the walk that is under way or was the last */
	struct shadowwatch_place place; /* where that goes on */
	u32 counted; /* whether `before` is known */
	struct counts before; /* the first number */
	struct shadowwatch_share share; /* what it has in the ring; a WRITE changes it, too */
	struct {
		u64 sp; /* the page that was allocated last, until it is linked: nearly all are, at once */
		u64 spt;
		u64 ns;
	} newest;
};

/*
 * A VM's state is where its address hashes to, unless another one's was there when it came: then it is at one of the
 * next places, and `places` says at which. To look into that costs ten times as much. `taken` are those that have one.
 */
#define PLACES (2 * MAX_VMS)
#define PLACES_TRIED 64

BPF_ARRAY(vms, struct vm_state, PLACES);
BPF_HASH(places, u64, u32, MAX_VMS);
BPF_HASH(taken, u32, u64, MAX_VMS);
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_F_TABLE("array", u32, u64, counters, SHADOWWATCH_COUNTERS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct shadowwatch_request, requests, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct shadowwatch_command, commands, SHADOWWATCH_COMMANDS, BPF_F_MMAPABLE);

static __always_inline void count(u32 counter)
{
	u64 *value = counters.lookup(&counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

/* Before somebody reads the ring it would only fill up, and events would be lost that nobody misses. */
static __always_inline bool listening(void)
{
	u32 zero = 0;
	struct shadowwatch_request *request = requests.lookup(&zero);

	return request && request->listening;
}

/* So many bytes from there in the current process, if all are resident; no more than fit. */
static __always_inline u32 read_words(struct shadowwatch_command *command, u64 start, u64 length)
{
	if (length > SHADOWWATCH_COMMAND_MOST)
		length = SHADOWWATCH_COMMAND_MOST;
	/* What the compiler knows, the verifier has to be told. */
	asm volatile("" : "+r"(length));
	length &= SHADOWWATCH_COMMAND_MOST;
	return bpf_probe_read_user(command->words, length, (void *)start) ? 0 : length;
}

/*
 * After a VM's first shadow page, keep the command line of its process: its name
 * must outlive one that has ended before anyone could look into /proc. What is
 * not resident cannot be read here; then it is tried up to the end of the page.
 */
static __always_inline void keep_command(struct vm_state *vm, u64 kvm)
{
#if defined(KVM_MM) && defined(MM_ARG_START) && defined(MM_ARG_END)
	struct shadowwatch_command *command;
	u32 slot, length;
	u64 mm, start;

	if (!vm || vm->seq != 1 || !is_current(kvm))
		return;
	mm = read64(kvm + KVM_MM);
	start = read64(mm + MM_ARG_START);
	slot = vm->pid % SHADOWWATCH_COMMANDS;
	command = commands.lookup(&slot);
	if (!command)
		return;
	command->pid = 0;
	barrier();
	length = read_words(command, start, read64(mm + MM_ARG_END) - start);
	command->length = length ?: read_words(command, start, 4096 - start % 4096);
	barrier();
	command->pid = vm->pid;
#endif
}

/* The multiplier is 2^64 divided by the golden ratio: addresses that are near each other get places that are not. */
static __always_inline u32 place_of(u64 kvm)
{
	return (kvm * 0x9e3779b97f4a7c15ULL >> 32) % PLACES;
}

/* The state of a VM, if it has one. */
static __always_inline struct vm_state *vm_known(u64 kvm)
{
	u32 place = place_of(kvm), *elsewhere;
	struct vm_state *vm = vms.lookup(&place);

	if (vm && vm->kvm == kvm)
		return vm;
	elsewhere = places.lookup(&kvm);
	return elsewhere ? vms.lookup(elsewhere) : 0;
}

/* The state of a VM, made if it has none; nothing when there is no room. */
static __always_inline struct vm_state *vm_of(u64 kvm)
{
	struct vm_state *vm = vm_known(kvm), new;
	u32 place = place_of(kvm), i;

	if (vm)
		return vm;
	__builtin_memset(&new, 0, sizeof(new));
	for (i = 0; i < PLACES_TRIED && taken.insert(&place, &kvm); i++)
		place = (place + 1) % PLACES;
	if (i == PLACES_TRIED)
		return 0;
	new.pid = process_of(kvm);
	vms.update(&place, &new);
	/* When there is no room, or another processor has been faster. */
	if (places.insert(&kvm, &place)) {
		taken.delete(&place);
		return vm_known(kvm);
	}
	vm = vms.lookup(&place);
	if (vm)
		vm->kvm = kvm;
	return vm;
}

static __always_inline void forget(struct vm_state *vm, u64 kvm)
{
	u32 *known = places.lookup(&kvm), place;

	if (!known)
		return;
	place = *known;
	vm->kvm = 0;
	places.delete(&kvm);
	taken.delete(&place);
}

/*
 * Of a VM that somebody asks for by its address, who may not have heard yet that it died: it must not get a state
 * then, which nobody would take away. kvm_destroy_vm() takes it off vm_list before probe_destroy() takes its state,
 * so one that is made too late is seen here.
 */
static __always_inline struct vm_state *vm_alive(u64 kvm)
{
	u64 link = kvm + KVM_VM_LIST;
	struct vm_state *vm = vm_known(kvm);

	if (vm)
		return vm;
	vm = vm_of(kvm);
	if (!vm || read64(read64(link) + sizeof(u64)) == link)
		return vm;
	forget(vm, kvm);
	return 0;
}

/* What `flag` asks of the ring. bcc before 0.28 has only other helpers for it, so one of these is called by this name. */
static __always_inline u64 ring_state(u64 flag)
{
	u64 (*bpf_ringbuf_reserve)(void *, u64, u64) = (void *)BPF_FUNC_ringbuf_query;

	return (u64)events.ringbuf_reserve(flag);
}

#define RING_SIZE (RING_PAGES * 4096)

/* Walks leave half of the ring to events: they can be made again. */
static __always_inline bool room_for_a_step(void)
{
	return ring_state(BPF_RB_AVAIL_DATA) <= RING_SIZE / 2;
}

/* An event of this moment, or of `ns`. */
static __always_inline struct shadowwatch_event *reserve_at(u64 ns, u64 kvm, u32 pid, u8 kind)
{
	struct shadowwatch_event *event = events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		count(SHADOWWATCH_LOST);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kvm = kvm;
	event->ns = ns ?: bpf_ktime_get_ns();
	event->pid = pid;
	event->kind = kind;
	return event;
}

static __always_inline struct shadowwatch_event *reserve(u64 kvm, u32 pid, u8 kind)
{
	return reserve_at(0, kvm, pid, kind);
}

/* `coming` allocations were counted, but have no number yet: KVM counts a page before it makes it. */
static __always_inline u8 read_counts(u64 kvm, u32 coming, struct counts *counts)
{
#if defined(KVM_MMU_CACHE_MISS) && defined(KVM_MMU_SHADOW_ZAPPED) && defined(KVM_MMU_RECYCLED)
	counts->allocated = read64(kvm + KVM_MMU_CACHE_MISS) - coming;
	counts->zapped = read64(kvm + KVM_MMU_SHADOW_ZAPPED);
	counts->recycled = read64(kvm + KVM_MMU_RECYCLED);
	return SHADOWWATCH_COUNTED;
#else
	return 0;
#endif
}

/*
 * Where no page is half made or half zapped, and no reclaim under way: KVM counts
 * a zap after the probe on it, and what was recycled when a reclaim is over.
 */
static __always_inline void tell_counts(struct vm_state *vm, u64 kvm, u32 coming, struct shadowwatch_event *event)
{
	struct counts now = {};

	event->flags |= read_counts(kvm, coming, &now);
	if (!vm->counted)
		return;
	event->spt = now.allocated - vm->before.allocated;
	event->parent_pte = now.zapped - vm->before.zapped;
	event->gfn = now.recycled - vm->before.recycled;
}

/* Whether this VM may put another event into the ring; if not, that is counted. */
static __always_inline bool admit(struct vm_state *vm)
{
	u64 consumed;

	if (!shadowwatch_share_due(&vm->share))
		return true;
	consumed = ring_state(BPF_RB_CONS_POS);
	if (shadowwatch_may_put(&vm->share, consumed, ring_state(BPF_RB_PROD_POS), RING_SIZE))
		return true;
	count(SHADOWWATCH_LOST);
	return false;
}

/* Reserve an event of this VM, within its share of the ring; its last one needs no share. */
static __always_inline struct shadowwatch_event *reserve_of(u64 ns, struct vm_state *vm, u64 kvm, u8 kind)
{
	struct shadowwatch_event *event = 0;

	if (kind == SHADOWWATCH_DESTROY || admit(vm))
		event = reserve_at(ns, kvm, vm->pid, kind);
	if (event)
		__sync_fetch_and_add(&vm->share.made, 1);
	return event;
}

/* Reserve the next event of this VM, or count why there is none. */
static __always_inline struct shadowwatch_event *reserve_next_at(u64 ns, struct vm_state *vm, u64 kvm, u8 kind)
{
	struct shadowwatch_event *event;

	/* Who listens goes on to do so, so it is asked only for a VM's first event. */
	if (!(vm && vm->counted) && !listening())
		return 0;
	if (!vm) {
		count(SHADOWWATCH_UNTRACKED);
		return 0;
	}
	if (!vm->counted) {
		read_counts(kvm, kind == SHADOWWATCH_ALLOC, &vm->before);
		vm->counted = 1;
	}
	vm->seq++;
	if (vm->skip) {
		vm->skip = 0;
		vm->seq++;
	}
	event = reserve_of(ns, vm, kvm, kind);
	if (event)
		event->seq = vm->seq;
	return event;
}

static __always_inline struct shadowwatch_event *reserve_next(struct vm_state *vm, u64 kvm, u8 kind)
{
	return reserve_next_at(0, vm, kvm, kind);
}

static __always_inline void submit(struct shadowwatch_event *event)
{
	/* The reader polls by a timer: a wake-up for each event costs more than the event. */
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
}

static __always_inline bool tell(struct shadowwatch_event *step, u8 kind, u64 spt, u64 parent_pte, u64 gfn, u32 role,
				 u8 flags)
{
	struct shadowwatch_event *event = reserve(step->kvm, 0, kind);

	if (!event)
		return false;
	event->spt = spt;
	event->parent_pte = parent_pte;
	event->gfn = gfn;
	event->role = role;
	event->walk = step->walk;
	event->flags = flags;
	submit(event);
	step->used++;
	return true;
}

/* Whether a page is of an older generation than its VM, as is_obsolete_sp() has it: a guest's writes pass it over. */
static __always_inline u8 obsolete(u64 kvm, u64 sp)
{
#if defined(SP_MMU_VALID_GEN) && defined(KVM_MMU_VALID_GEN)
	return read8(sp + SP_MMU_VALID_GEN) == read8(kvm + KVM_MMU_VALID_GEN) ? 0 : SHADOWWATCH_OBSOLETE;
#else
	return 0;
#endif
}

/* Of an spte, the physical address of the table that it points to. */
#define PFN_MASK 0x000ffffffffff000ULL

/*
 * Where a walk goes on with the parents of a page, which it has told up to `desc`:
 * there, or at the first of them again. Between two steps they never move from
 * one pte_list_desc to another but from the first, which was told first, so all
 * that can have gone wrong is that `desc` was given back, and is perhaps another
 * page's now. Then its first spte does not point to the page: how far virtual and
 * physical addresses are apart is told by the first of all parents.
 */
static __always_inline u64 desc_to_go_on(u64 sp, u64 desc)
{
	u64 spt = read64(sp + SP_SPT), val = read64(sp + SP_PARENT_PTES), first = val & ~3ULL, sptep, apart;

	if (!(val & 1))
		return 0;
	sptep = read64(first + DESC_SPTES);
	apart = spt - (read64(sptep) & PFN_MASK);
	sptep = read64(desc + DESC_SPTES);
	if (DESC_SLOTS(desc) && sptep && (read64(sptep) & PFN_MASK) + apart == spt)
		return desc;
	return first;
}

/*
 * Walk on, the oldest page first. Pages are told with one parent, the others of a
 * page that has more follow it (struct pte_list_desc; bit 0 of parent_ptes.val
 * tells, bit 1 is a lock of its own since 4834eaded91e, v6.15). A page that was
 * moved to the head while its parents were told comes again, but not they.
 *
 * What varies is kept in `step` and in words that helpers wrote: the verifier
 * does not know their values, so it need not follow each of them. `zero` is one.
 */
static __always_inline void walk(struct shadowwatch_event *step, struct shadowwatch_place *place)
{
	u64 head = step->kvm + KVM_ACTIVE_MMU_PAGES, zero = read64(0);
	u64 spt = zero, desc = zero, slot = zero, end = zero;
	int i;

	if (place->desc) {
		desc = desc_to_go_on(place->parents - SP_LINK, place->desc);
		spt = read64(place->parents - SP_LINK + SP_SPT);
	}
	for (i = 0; i < SHADOWWATCH_STEP_MOST; i++) {
		u64 sp, val, parent_pte;

		if (slot != end) {
			parent_pte = read64(slot);
			slot += sizeof(u64);
			if (parent_pte && !tell(step, SHADOWWATCH_PARENT, spt, parent_pte, 0, 0, 0))
				goto void_step;
			if (slot == end)
				desc = read64(desc + DESC_MORE);
			continue;
		}
		if (step->used >= SHADOWWATCH_STEP_RECORDS)
			break;
		if (desc) {
			slot = desc + DESC_SPTES;
			end = slot + sizeof(u64) * DESC_SLOTS(desc);
			continue;
		}
		if (place->next == head) {
			step->flags |= SHADOWWATCH_LAST;
			place->next = 0;
			break;
		}
		sp = place->next - SP_LINK;
		spt = read64(sp + SP_SPT);
		val = read64(sp + SP_PARENT_PTES);
		parent_pte = val & 1 ? 0 : val & ~3ULL;
		if (!spt || !tell(step, SHADOWWATCH_PAGE, spt, parent_pte, read64(sp + SP_GFN), read32(sp + SP_ROLE),
				  obsolete(step->kvm, sp)))
			goto void_step;
		if (val & 1 && place->parents != place->next) {
			place->parents = place->next;
			desc = val & ~3ULL;
		}
		place->next = read64(place->next + sizeof(u64));
	}
	/* Within a pte_list_desc all of it is told again. */
	place->desc = desc;
	return;

void_step:
	step->flags |= SHADOWWATCH_VOID;
	place->next = 0;
	place->desc = 0;
}

static __always_inline void begin(u64 kvm, struct shadowwatch_event *step, struct shadowwatch_place *place)
{
	place->next = read64(kvm + KVM_ACTIVE_MMU_PAGES + sizeof(u64));
	place->parents = 0;
	place->desc = 0;
	step->flags = SHADOWWATCH_FIRST;
}

/* One step of the walk that was asked for, where mmu_lock is held and no page is half zapped. */
static __always_inline void step_locked(struct vm_state *vm, u64 kvm, u32 coming)
{
	struct shadowwatch_event *step;
	u32 wanted;

	if (!vm)
		return;
	wanted = vm->wanted;
	if (!wanted || (vm->walking == wanted && !vm->place.next) || !room_for_a_step())
		return;
	step = reserve(kvm, vm->pid, SHADOWWATCH_STEP);
	if (!step)
		return;
	step->seq = vm->seq;
	step->walk = wanted;
	step->limit = read32(kvm + KVM_N_MAX_MMU_PAGES);
	if (vm->walking != wanted) {
		vm->walking = wanted;
		begin(kvm, step, &vm->place);
	}
	walk(step, &vm->place);
	tell_counts(vm, kvm, coming, step);
	submit(step);
	vm->newest.sp = 0; /* no link that is told after this was before */
}

/* A page is about to leave its place: a walk that would go on there goes on behind it. */
static __always_inline void step_over(struct vm_state *vm, u64 sp)
{
	if (vm && vm->place.next == sp + SP_LINK)
		vm->place.next = read64(sp + SP_LINK + sizeof(u64));
}

/* Whether somebody has mmu_lock for writing. */
static __always_inline bool held_for_writing(u64 kvm)
{
#ifdef KVM_MMU_LOCK_READERS
	return read32(kvm + KVM_MMU_LOCK) & 1U << 30; /* WRITER_BIAS, kernel/locking/rwbase_rt.c */
#else
	/* The lowest byte is that of a writer, in struct qrwlock and in struct qspinlock. */
	return read8(kvm + KVM_MMU_LOCK);
#endif
}

/* Whether somebody has it for writing, or on PREEMPT_RT waits for it. */
static __always_inline bool write_locked(u64 kvm)
{
#ifdef KVM_MMU_LOCK_READERS
	/* READER_BIAS is taken off by a writer, and comes back when that unlocks. */
	return !(read32(kvm + KVM_MMU_LOCK) & 1U << 31);
#else
	return held_for_writing(kvm);
#endif
}

static __always_inline void read_sizes(union sizes *sizes, u64 kvm)
{
	bpf_probe_read_kernel(sizes, sizeof(*sizes), (void *)(kvm + SIZES));
}

/* What the VM's sptes map: kvm->stat.pages[], 4 KiB, 2 MiB and 1 GiB, since 71f51d2c3253 (v5.15). */
static __always_inline u64 mapped_pages(const union sizes *sizes)
{
#ifdef KVM_PAGES
	return sizes->pages[0] + (sizes->pages[1] << 9) + (sizes->pages[2] << 18);
#else
	return SHADOWWATCH_UNCOUNTED;
#endif
}

/* What comes from the word on that this member is in. */
static __always_inline void read_page(union shadow_page *page, u64 sp, u64 member)
{
	u64 from = member & ~7ULL;

	bpf_probe_read_kernel((void *)page + from, sizeof(*page) - from, (void *)(sp + from));
}

static __always_inline void tell_page(struct shadowwatch_event *event, const union shadow_page *page)
{
	event->spt = page->spt;
	event->gfn = page->gfn;
	event->role = page->role;
}

static __always_inline void alloc(struct vm_state *vm, u64 kvm, u64 sp, const union shadow_page *page, u64 parent_pte,
				  u32 uncounted)
{
	struct shadowwatch_event *event = reserve_next(vm, kvm, SHADOWWATCH_ALLOC);
	union sizes sizes;

	if (vm)
		vm->newest.sp = 0;
	if (!event)
		return;
	read_sizes(&sizes, kvm);
	tell_page(event, page);
	event->parent_pte = parent_pte;
	event->limit = sizes.limit;
	event->used = sizes.used + uncounted;
	event->mapped = mapped_pages(&sizes);
	vm->newest.sp = sp;
	vm->newest.spt = event->spt;
	vm->newest.ns = event->ns;
	submit(event);
}

/* kvm_mmu_alloc_page(kvm, sp, parent_pte) of the patched KVM, entered before the page is listed and counted. */
int probe_alloc_page(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	struct vm_state *vm = vm_of(kvm);
	union shadow_page page;

	step_locked(vm, kvm, 1);
	read_page(&page, PT_REGS_PARM2(ctx), TOLD_OF_PAGE);
	alloc(vm, kvm, PT_REGS_PARM2(ctx), &page, PT_REGS_PARM3(ctx), 1);
	keep_command(vm, kvm);
	return 0;
}

/*
 * Raw tracepoint kvm_mmu_get_page(sp, created). It does not name the VM, but a
 * page just created is the head of active_mmu_pages, so its link.prev is the
 * list head inside struct kvm. The TDP MMU fires it too, off that list.
 */
int probe_get_page(struct bpf_raw_tracepoint_args *ctx)
{
	union shadow_page page;
	struct vm_state *vm;
	u64 kvm;

	if (!(u8)ctx->args[1])
		return 0;
	read_page(&page, ctx->args[0], LEAST(SP_LINK + sizeof(u64), LEAST(TOLD_OF_PAGE, SP_TDP_MMU_PAGE)));
	if (page.tdp_mmu_page)
		return 0;
	kvm = page.link[1] - KVM_ACTIVE_MMU_PAGES;
	vm = vm_of(kvm);
	alloc(vm, kvm, ctx->args[0], &page, 0, 0);
	step_locked(vm, kvm, 0);
	keep_command(vm, kvm);
	return 0;
}

static __always_inline int tell_link(struct vm_state *vm, u64 kvm, u64 parent_pte, u64 sp)
{
	struct shadowwatch_event *event;
	bool newest;

	newest = vm && vm->newest.sp == sp;
	event = reserve_next_at(newest ? vm->newest.ns : 0, vm, kvm, SHADOWWATCH_LINK);
	if (!event)
		return 0;
	event->spt = newest ? vm->newest.spt : read64(sp + SP_SPT);
	vm->newest.sp = 0;
	event->parent_pte = parent_pte;
	submit(event);
	return 0;
}

static __always_inline int link(u64 kvm, u64 parent_pte, u64 sp)
{
	struct vm_state *vm = vm_of(kvm);

	step_locked(vm, kvm, 0);
	return tell_link(vm, kvm, parent_pte, sp);
}

/* Raw tracepoint kvm_mmu_link_page(sp, sptep, kvm) of patches/upstream, when the page has its parent. */
int probe_link_page(struct bpf_raw_tracepoint_args *ctx)
{
	struct vm_state *vm = vm_of(ctx->args[2]);

	tell_link(vm, ctx->args[2], ctx->args[1], ctx->args[0]);
	step_locked(vm, ctx->args[2], 0);
	return 0;
}

/* __link_shadow_page(kvm, cache, sptep, sp, …), 6.0 and later. */
int probe_link(struct pt_regs *ctx)
{
	return link(PT_REGS_PARM1(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx));
}

/* link_shadow_page(vcpu, sptep, sp), before. */
int probe_link_vcpu(struct pt_regs *ctx)
{
	return link(read64(PT_REGS_PARM1(ctx) + VCPU_KVM), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
}

/*
 * mmu_set_spte(vcpu, slot, sptep, pte_access, …), mmu_set_spte(vcpu, sptep, pte_access, …) until 5.15. When a
 * huge page takes the place of a table, that has one parent less. Whether there is a table or another page
 * of memory in the spte depends on its level, which the model knows.
 */
int probe_set_spte(struct pt_regs *ctx)
{
	u64 spte, kvm, sptep = PT_REGS_PARM3(ctx);
	struct shadowwatch_event *event;

	if (sptep < 4096)
		sptep = PT_REGS_PARM2(ctx);
	spte = read64(sptep);
	if (!(spte & 1) || spte & 1 << 7)
		return 0;
	kvm = read64(PT_REGS_PARM1(ctx) + VCPU_KVM);
	event = reserve_next(vm_of(kvm), kvm, SHADOWWATCH_UNLINK);
	if (!event)
		return 0;
	event->parent_pte = sptep;
	submit(event);
	return 0;
}

/*
 * Raw tracepoint kvm_mmu_set_spte(level, gfn, sptep), for the same: only huge pages take the place of tables. The VM
 * is that of the vCPU which this thread runs: KVM has a preempt notifier for it. The TDP MMU fires it, too, but has
 * mmu_lock only for reading (it is a spinlock before 531810caa9f4, v5.12: then it tells of sptes that nobody knows).
 */
int probe_set(struct bpf_raw_tracepoint_args *ctx)
{
	struct shadowwatch_event *event;
	struct vm_state *vm;
	u64 notifier, kvm;

	if ((u32)ctx->args[0] < 2)
		return 0;
	notifier = read64(bpf_get_current_task() + TASK_PREEMPT_NOTIFIERS);
	kvm = read64(notifier - VCPU_PREEMPT_NOTIFIER + VCPU_KVM);
	vm = vm_known(kvm);
	if (!vm || !held_for_writing(kvm))
		return 0;
	event = reserve_next(vm, kvm, SHADOWWATCH_UNLINK);
	if (!event)
		return 0;
	event->parent_pte = ctx->args[2];
	submit(event);
	return 0;
}

/* mmu_parent_walk(kvm, sp, …) of the patched KVM: each entry moves sp to the head of the list. */
int probe_move(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx), sp = PT_REGS_PARM2(ctx);
	struct vm_state *vm = vm_of(kvm);
	struct shadowwatch_event *event;

	/* The newest page stays where it is. */
	if (read64(sp + SP_LINK + sizeof(u64)) != kvm + KVM_ACTIVE_MMU_PAGES)
		step_over(vm, sp);
	event = reserve_next(vm, kvm, SHADOWWATCH_MOVE);
	if (!event)
		return 0;
	event->spt = read64(sp + SP_SPT);
	submit(event);
	return 0;
}

/* Whether one of KVM's own functions is there that tells why by itself: mmu_page_zap_pte() zaps for several reasons. */
static __always_inline bool tells(u32 place)
{
#ifdef KVM_CALLERS
	if (place < KVM_CALLERS || place > KVM_CALLERS_END)
		return false;
#endif
	return place < MMU_PAGE_ZAP_PTE || place >= MMU_PAGE_ZAP_PTE_END;
}

/*
 * Where the function that was just entered returns to, or else who is above that. A
 * tracer of returns (kretprobe, function_graph) puts a place of its own there, which
 * the kernel's unwinder sees through; what is not KVM's is passed over.
 */
static __always_inline u32 caller_of(struct pt_regs *ctx)
{
	u64 stack[CALLER_DEPTH];
	u32 caller = read64(PT_REGS_SP(ctx));
	int i;

	if (tells(caller) || bpf_get_stack(ctx, stack, sizeof(stack), 0) < 0)
		return caller;
	for (i = 1; i < CALLER_DEPTH; i++)
		if (stack[i] && tells(stack[i]))
			return stack[i];
	return caller;
}

static __always_inline int zap(struct vm_state *vm, u64 kvm, u64 sp, u32 caller)
{
	struct shadowwatch_event *event;
	union shadow_page page;

	step_over(vm, sp);
	if (vm && vm->place.parents == sp + SP_LINK)
		vm->place.parents = vm->place.desc = 0;
	event = reserve_next(vm, kvm, SHADOWWATCH_ZAP);
	if (!event)
		return 0;
	read_page(&page, sp, TOLD_OF_PAGE);
	tell_page(event, &page);
	event->caller = caller;
#ifdef SP_UNSYNC
	if (!page.unsync)
		event->flags = SHADOWWATCH_IN_SYNC;
#endif
	submit(event);
	return 0;
}

/* __kvm_mmu_prepare_zap_page(kvm, sp, …). */
int probe_prepare_zap_page(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);

	return zap(vm_of(kvm), kvm, PT_REGS_PARM2(ctx), caller_of(ctx));
}

/* kvm_mmu_zap_page(kvm, sp, …) of the patched KVM, which only __kvm_mmu_prepare_zap_page(kvm, …) calls. */
int probe_zap_page(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	struct vm_state *vm = vm_of(kvm);

	return zap(vm, kvm, PT_REGS_PARM2(ctx), vm ? vm->caller : 0);
}

int probe_caller(struct pt_regs *ctx)
{
	struct vm_state *vm = vm_of(PT_REGS_PARM1(ctx));

	if (vm)
		vm->caller = caller_of(ctx);
	return 0;
}

/* kvm_mmu_zap_oldest_mmu_pages(kvm, nr). */
int probe_reclaim(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	struct vm_state *vm = vm_of(kvm);
	struct shadowwatch_event *event;
	union sizes sizes;

	step_locked(vm, kvm, 0);
	event = reserve_next(vm, kvm, SHADOWWATCH_RECLAIM);
	if (!event)
		return 0;
	read_sizes(&sizes, kvm);
	event->mapped = mapped_pages(&sizes);
	event->caller = caller_of(ctx);
	submit(event);
	return 0;
}

/* kvm_mmu_zap_all_fast(kvm), under slots_lock, before it takes mmu_lock. */
int probe_flusher(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	struct vm_state *vm = vm_known(kvm);

	if (vm)
		vm->flusher = caller_of(ctx);
	return 0;
}

/* Raw tracepoint kvm_mmu_zap_all_fast(kvm): under mmu_lock, just before all pages become obsolete. */
int probe_flush(struct bpf_raw_tracepoint_args *ctx)
{
	u64 kvm = ctx->args[0];
	struct vm_state *vm = vm_known(kvm);
	struct shadowwatch_event *event;

	if (!vm)
		return 0;
	step_locked(vm, kvm, 0);
	event = reserve_next(vm, kvm, SHADOWWATCH_FLUSH);
	if (!event)
		return 0;
	event->caller = vm->flusher;
	submit(event);
	return 0;
}

/* kvm_mmu_pte_write(vcpu, gpa, …), kvm_mmu_track_write(vcpu, gpa, …): the sptes made from what was there are cleared. */
int probe_write(struct pt_regs *ctx)
{
	u64 kvm = read64(PT_REGS_PARM1(ctx) + VCPU_KVM);
	struct vm_state *vm = vm_known(kvm);
	struct shadowwatch_event *event;

	if (!vm || !listening())
		return 0;
	event = reserve_of(0, vm, kvm, SHADOWWATCH_WRITE);
	if (!event) {
		vm->skip = 1;
		return 0;
	}
	event->gfn = PT_REGS_PARM2(ctx);
	submit(event);
	return 0;
}

/* kvm_mmu_uninit_vm(kvm): after the last zap; a VM that never had a shadow page has no state. */
int probe_destroy(struct pt_regs *ctx)
{
	u64 kvm = PT_REGS_PARM1(ctx);
	struct vm_state *vm = vm_known(kvm);
	struct shadowwatch_event *event;

	if (!vm)
		return 0;
	event = reserve_next(vm, kvm, SHADOWWATCH_DESTROY);
	if (event) {
		tell_counts(vm, kvm, 0, event);
		submit(event);
	}
	forget(vm, kvm);
	return 0;
}

#ifdef VM_LIST
/*
 * Tell the VMs on vm_list, each with its last number, so that one that was lost
 * shows although no other follows. Nothing holds kvm_lock: a walk that finds no
 * way back to the head is void.
 */
static __always_inline void list_vms(struct shadowwatch_request *request)
{
	struct shadowwatch_event *step = room_for_a_step() ? reserve(0, 0, SHADOWWATCH_STEP) : 0, *event;
	u64 link;
	int i;

	if (!step) {
		request->flags = SHADOWWATCH_VOID;
		return;
	}
	link = request->place.next ?: read64(VM_LIST);
	step->walk = request->walk;
	if (!request->place.next)
		step->flags |= SHADOWWATCH_FIRST;
	for (i = 0; i < SHADOWWATCH_STEP_MOST; i++) {
		u64 kvm = link - KVM_VM_LIST;
		struct vm_state *vm = vm_known(kvm);
		u32 seq = vm ? vm->seq : 0;
		bool busy = vm && write_locked(kvm); /* before, the event of this number may still be coming */

		if (link == VM_LIST) {
			step->flags |= SHADOWWATCH_LAST;
			break;
		}
		event = link ? reserve(kvm, vm ? vm->pid : process_of(kvm), SHADOWWATCH_VM) : 0;
		if (!event) {
			step->flags |= SHADOWWATCH_VOID;
			break;
		}
		event->walk = step->walk;
		event->limit = read32(kvm + KVM_N_MAX_MMU_PAGES);
		event->used = read32(kvm + KVM_N_USED_MMU_PAGES);
		event->seq = seq;
		if (busy || (vm && vm->seq != seq))
			event->flags = SHADOWWATCH_VOID;
		submit(event);
		step->used++;
		link = read64(link);
	}
	request->place.next = link;
	request->flags = step->flags;
	submit(step);
}
#endif

/*
 * A step without mmu_lock that is as good as one under it: nobody has the lock
 * before and after, and whoever took it in between and changed the list would
 * have made a numbered event. That holds also where a holder can be preempted, and
 * a walk come in between on the same processor: the lock is in memory, and held.
 */
static __always_inline void step_unlocked(struct shadowwatch_request *request)
{
	u64 kvm = request->kvm;
	struct vm_state *vm = vm_alive(kvm);
	struct shadowwatch_event *step;
	u32 seq;

	request->flags = SHADOWWATCH_VOID;
	if (!vm || !room_for_a_step())
		return;
	/* First the number, then the lock: who takes it after that makes another number. */
	seq = vm->seq;
	if (write_locked(kvm))
		return;
	if (request->place.next && seq != request->seq)
		return;
	step = reserve(kvm, vm->pid, SHADOWWATCH_STEP);
	if (!step)
		return;
	step->seq = seq;
	step->walk = request->walk;
	step->limit = read32(kvm + KVM_N_MAX_MMU_PAGES);
	if (!request->place.next) {
		begin(kvm, step, &request->place);
		request->seq = seq;
	}
	walk(step, &request->place);
	vm = vm_known(kvm);
	if (vm)
		tell_counts(vm, kvm, 0, step);
	if (!vm || vm->seq != seq || vm->skip || write_locked(kvm))
		step->flags |= SHADOWWATCH_VOID;
	request->flags = step->flags;
	submit(step);
}

/* A system call that the owner makes for this alone: see shadowwatch/event/request.py. */
int probe_ask(struct pt_regs *ctx)
{
	u32 zero = 0, process = bpf_get_current_pid_tgid() >> 32;
	struct shadowwatch_request *request = requests.lookup(&zero);
	struct vm_state *vm;
	u64 kvm;

	if (!request)
		return 0;
	if (request->want == SHADOWWATCH_OWN && !request->owner)
		request->owner = process;
	if (request->owner != process)
		return 0;
#ifdef VM_LIST
	if (request->want == SHADOWWATCH_VMS)
		list_vms(request);
#endif
	if (request->want == SHADOWWATCH_WALK)
		step_unlocked(request);
	if (request->want == SHADOWWATCH_WALK_LOCKED) {
		kvm = request->kvm;
		vm = vm_alive(kvm);
		if (vm)
			vm->wanted = request->walk;
	}
	return 0;
}
