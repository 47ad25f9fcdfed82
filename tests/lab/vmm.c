// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that does nothing but touch a list of addresses, and the VMM that runs it.
 *
 * The guest's addresses lie in D page directories (1 GiB apart) of T page tables (2 MiB apart) each. Under shadow
 * paging each of these costs KVM a shadow page, of which it may keep --pages. The same arguments give the same list
 * on every machine, and so the same counts. With --spread 1 the guest-physical addresses lie as far apart, so that
 * with nested paging it is the tables of that which number D x T. With --nested 1 the guest is a hypervisor that runs
 * the code in a guest of its own, and the D x T tables are those of its nested paging, which KVM shadows. With --inner N
 * it has so many guests, each with tables of its own, which take turns.
 *
 * With --vcpus N further vCPUs touch the list all the time, each from a place of its own, through the same page tables.
 * With --rewrites 1 each vCPU that has touched it writes to the directories what is there.
 *
 * After its rounds, and after every command on its standard input, it prints KVM's own counters as a line of JSON. The
 * commands besides "run", "stats" and "quit" are for what makes KVM drop shadow pages: see commands[]. The end of the
 * input ends it.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof(*(array)))

#define PAGE_SIZE	4096ull
#define PTRS		512ull			/* entries of a page table */
#define TABLE_SPAN	(PTRS * PAGE_SIZE)
#define DIRECTORY_SPAN	(PTRS * TABLE_SPAN)
#define HOME		(PTRS - 1)		/* the directory of the guest's own code and list */
#define REUSED		(HOME - 1)		/* a directory which is a table of another one */
/* Present, writable, and no walk has to set accessed or dirty; to nested paging each access is a user's. */
#define PAGING_FLAGS	(1 | 2 | (nested ? 4 : 0) | 0x20 | 0x40)
/* To read, to write and to execute: Intel's nested paging has entries of its own kind. */
#define EPT_FLAGS	(1 | 2 | 4)
#define PTE_FLAGS	(nested && intel ? EPT_FLAGS : PAGING_FLAGS)
#define PTE_HUGE	0x80

/* Guest-virtual, at the end of the home directory: the first directory and its first table, and a huge page. */
#define WINDOW		(HOME * DIRECTORY_SPAN + (PTRS - 1) * TABLE_SPAN)
#define HUGE		(HOME * DIRECTORY_SPAN + (PTRS - 2) * TABLE_SPAN)

#define CR0_FLAGS	(1ull << 0 | 1ull << 5 | 1ull << 16 | 1ull << 31)	/* PE, NE, WP, PG */
#define CR4_PAE		(1ull << 5)
#define EFER_FLAGS	(1ull << 8 | 1ull << 10 | (nested && !intel ? 1ull << 12 : 0))	/* LME, LMA, SVME */

#define MSR_VM_HSAVE_PA	0xc0010117

/* Places in AMD's virtual machine control block. */
#define VMCB_EXIT_CODE	0x070
#define VMCB_NESTED_CR3	0x0b0
#define VMCB_RIP	0x578
#define VMCB_RAX	0x5f8
#define EXIT_CODE_HLT	0x78

#define PREFETCHED	8	/* pages that KVM may map along with one, in a block of so many (PTE_PREFETCH_NUM) */
#define VCPUS		16
#define UNREST_US	100000	/* between two changes of the VM while its guest runs */
#define HOT_STAY	1000	/* accesses before the hot directory moves on */
#define HOT_SHARE	8	/* one access in so many goes anywhere */
#define INNER		64	/* guests of the guest, at most */
#define TURN		500	/* accesses of an inner guest before it is the next one's turn */

/*
 * The guest: rsi is the list, rcx its length. The other parts are for commands: read (rbx), then write rax to (rdi)
 * rcx times, or once with an instruction that KVM does not take for one that writes page tables; reload cr3. The
 * last part runs any of these in a guest's guest.
 */
asm(".pushsection .rodata\n"
    "guest_code:\n"
    "	mov	(%rsi), %rax\n"
    "	mov	(%rax), %al\n"
    "	add	$8, %rsi\n"
    "	dec	%rcx\n"
    "	jnz	guest_code\n"
    "	hlt\n"
    "guest_write:\n"
    "	mov	(%rbx), %dl\n"
    "	jrcxz	2f\n"
    "1:	mov	%rax, (%rdi)\n"
    "	loop	1b\n"
    "2:	hlt\n"
    "guest_stos:\n"
    "	mov	(%rbx), %dl\n"
    "	stosq\n"
    "	hlt\n"
    "guest_reload:\n"
    "	mov	%cr3, %rax\n"
    "	mov	%rax, %cr3\n"
    "	hlt\n"
    "guest_vmrun:\n"
    "	vmrun	%rax\n"
    "	hlt\n"
    "guest_code_end:\n"
    ".popsection\n");
extern const char guest_code[], guest_write[], guest_stos[], guest_reload[], guest_vmrun[], guest_code_end[];

static const char *name, *pattern = "zipf";
static uint64_t directories = 16, tables = 8, accesses = 30000, seed = 1, mmu_pages = 64, rounds = 1, pause_ms;
static uint64_t spread, nested, inner = 1, touched = 1, unrest, thread, vcpus = 1, rewrites;

static unsigned char *memory;			/* guest-physical, from 0 to home_size; the directories' data follow it */
static uint64_t memory_size, home_size, home_used;
static uint64_t list, cr3, first_directory, first_table;	/* guest-physical addresses */
static uint64_t roots[INNER];			/* likewise, of each inner guest; cr3 is that of the first */
/* Likewise, for the guest that has a guest: on Intel a VMCS and the VMXON region are where the other two are on AMD. */
static uint64_t flat, vmcb, host_save, vmx_page;
static int intel;
static int kvm, vm;
static pid_t maker;				/* the thread that made the VM */
static __thread int vcpu;
static __thread struct kvm_run *run;
static uint64_t rounds_done;
static pthread_t others[VCPUS + 1];		/* that run until they are to rest */
static unsigned int others_begun;
static volatile bool resting;
static uint64_t number;				/* that came with a command */

static void *checked(void *pointer, const char *what)
{
	if (!pointer || pointer == MAP_FAILED)
		err(1, "%s", what);
	return pointer;
}

static int control(int fd, unsigned long request, void *argument, const char *what)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		err(1, "%s", what);
	return result;
}

/* splitmix64 */
static uint64_t below(uint64_t limit)
{
	uint64_t z = (seed += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (z ^ (z >> 31)) % limit;
}

/* A pattern says which of all tables the i-th access goes to. */
static uint64_t uniform(uint64_t i, uint64_t total)
{
	(void)i;
	return below(total);
}

static uint64_t sequential(uint64_t i, uint64_t total)
{
	return i % total;
}

/* Most accesses go to one directory, which moves. */
static uint64_t hotset(uint64_t i, uint64_t total)
{
	uint64_t hot = i / HOT_STAY % directories;

	return below(HOT_SHARE) ? hot * tables + below(tables) : below(total);
}

/* The k-th most wanted table is wanted 1/k as often as the first; the seed says which table that is. */
static uint64_t zipf(uint64_t i, uint64_t total)
{
	static uint64_t cumulative[HOME * PTRS], ranked[HOME * PTRS];
	uint64_t wanted, rank = 0;

	for (uint64_t k = 0; !i && k < total; k++) {
		uint64_t other = below(k + 1);

		cumulative[k] = (k ? cumulative[k - 1] : 0) + (1ull << 32) / (k + 1);
		ranked[k] = ranked[other];
		ranked[other] = k;
	}
	wanted = below(cumulative[total - 1]);
	while (cumulative[rank] <= wanted)
		rank++;
	return ranked[rank];
}

static const struct {
	const char *name;
	uint64_t (*table)(uint64_t i, uint64_t total);
} patterns[] = {
	{ "uniform", uniform }, { "sequential", sequential }, { "hotset", hotset }, { "zipf", zipf },
};

static void fill_list(uint64_t *address)
{
	uint64_t (*table)(uint64_t, uint64_t) = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(patterns); i++)
		if (!strcmp(patterns[i].name, pattern))
			table = patterns[i].table;
	if (!table)
		errx(2, "no pattern %s: there are uniform, sequential, hotset and zipf", pattern);
	for (uint64_t i = 0; i < accesses; i++) {
		uint64_t which = table(i, directories * tables);

		/* By default always the same page of a table, so that what faults is a table that was zapped. */
		uint64_t page = which + (touched > 1 ? below(touched) * PREFETCHED : 0);

		address[i] = which / tables * DIRECTORY_SPAN + which % tables * TABLE_SPAN + page % PTRS * PAGE_SIZE;
	}
}

static uint64_t take_pages(uint64_t count)
{
	uint64_t address = home_used;

	home_used += count * PAGE_SIZE;
	if (home_used > home_size)
		errx(1, "the guest's layout needs more memory than was counted");
	return address;
}

/* The table below an entry, made if it is not there. */
static uint64_t descend(uint64_t table, uint64_t index)
{
	uint64_t *entry = (uint64_t *)(memory + table) + index;

	if (!*entry)
		*entry = take_pages(1) | PTE_FLAGS;
	return *entry & ~(PAGE_SIZE - 1);
}

static void map(uint64_t virtual, uint64_t physical)
{
	uint64_t table = descend(cr3, 0);

	table = descend(table, virtual / DIRECTORY_SPAN);
	table = descend(table, virtual / TABLE_SPAN % PTRS);
	((uint64_t *)(memory + table))[virtual / PAGE_SIZE % PTRS] = physical | PTE_FLAGS;
}

/* Guest-virtual: where the guest sees a directory itself. */
static uint64_t directory_window(uint64_t directory)
{
	return WINDOW + (2 + directory) * PAGE_SIZE;
}

static void set_vmcb(uint64_t offset, uint64_t value)
{
	memcpy(memory + vmcb + offset, &value, sizeof(value));
}

/*
 * The inner guest's virtual addresses are its physical ones, which nested paging takes through the tables that are the
 * guest's own otherwise. The hypervisor has its own first table, since KVM shadows that of nested paging.
 */
static void lay_out_nested(void)
{
	static const struct {
		uint64_t offset, value;
	} fields[] = {
		{ 0x008, 1ull << 56 },				/* HLT ends it, */
		{ 0x010, 1 },					/* as VMRUN has to */
		{ 0x058, 1 },					/* address space identifier */
		{ 0x090, 1 },					/* nested paging */
		{ 0x400, 0xffffffff0c930010 },			/* ES */
		{ 0x410, 0xffffffff0a9b0008 },			/* CS */
		{ 0x420, 0xffffffff0c930010 },			/* SS */
		{ 0x430, 0xffffffff0c930010 },			/* DS */
		{ 0x548, CR4_PAE },
		{ 0x558, CR0_FLAGS },
		{ 0x560, 0x400 },				/* DR7 */
		{ 0x568, 0xffff0ff0 },				/* DR6 */
		{ 0x570, 2 },					/* RFLAGS */
		{ 0x668, 0x0007040600070406 },			/* PAT */
	};
	uint64_t *entry = (uint64_t *)(memory + flat), inner_flat = HOME * DIRECTORY_SPAN + flat;

	entry[0] = (flat + 2 * PAGE_SIZE) | PAGING_FLAGS;
	entry[PTRS] = (inner_flat + 2 * PAGE_SIZE) | PAGING_FLAGS;
	for (uint64_t i = 0; i < PTRS; i++)
		entry[2 * PTRS + i] = i * DIRECTORY_SPAN | PAGING_FLAGS | PTE_HUGE;
	for (uint64_t i = inner; i--;) {
		cr3 = roots[i];
		map(inner_flat + PAGE_SIZE, flat + PAGE_SIZE);
		map(inner_flat + 2 * PAGE_SIZE, flat + 2 * PAGE_SIZE);
	}
	if (intel)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		set_vmcb(fields[i].offset, fields[i].value);
	set_vmcb(VMCB_NESTED_CR3, cr3);
	set_vmcb(0x4d0, EFER_FLAGS);
	set_vmcb(0x550, inner_flat + PAGE_SIZE);
}

/* Spread out, a directory's data are as far from the next one's in guest-physical space as in the guest's own. */
static uint64_t spread_out(uint64_t directory)
{
	return (home_size / DIRECTORY_SPAN + 1 + directory) * DIRECTORY_SPAN;
}

/* The tables that lead to the list and to the data. */
static void lay_out_tables(uint64_t list_pages, uint64_t data)
{
	cr3 = take_pages(1);
	for (uint64_t page = 0; page < 1 + list_pages; page++)
		map(HOME * DIRECTORY_SPAN + page * PAGE_SIZE, page * PAGE_SIZE);
	for (uint64_t table = 0; table < directories * tables; table++) {
		uint64_t directory = table / tables, offset = table % tables * TABLE_SPAN;
		uint64_t first = spread ? spread_out(directory) + offset : data;

		for (uint64_t page = 0; page < PTRS; page++)
			map(directory * DIRECTORY_SPAN + offset + page * PAGE_SIZE, first + page * PAGE_SIZE);
	}
}

static void lay_out_memory(void)
{
	uint64_t list_pages = (accesses * sizeof(uint64_t) + PAGE_SIZE - 1) / PAGE_SIZE;
	uint64_t home_tables = list_pages / PTRS + 1;
	uint64_t data = 0;

	/* Code, list, data that all tables share; two upper levels, the home directory, the others, and the window. */
	home_size = 1 + list_pages + (spread ? 0 : PTRS) + inner * (2 + 1 + home_tables + directories * (1 + tables)) + 1;
	/* For an inner guest three tables, perhaps one more to map them with, and two pages for the processor, or three. */
	home_size += nested ? 5 + inner + intel : 0;
	home_size *= PAGE_SIZE;
	memory_size = home_size + (spread ? directories * tables * TABLE_SPAN : 0);
	/* Of what is spread out, the host need give only the pages that the guest touches. */
	memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	checked(memory, "guest memory");
	/* Whether the host has huge pages to give must not show in the counts; PREEMPT_RT has none, and says EINVAL. */
	if (madvise(memory, memory_size, MADV_NOHUGEPAGE) && errno != EINVAL)
		err(1, "madvise");

	memcpy(memory + take_pages(1), guest_code, guest_code_end - guest_code);
	list = take_pages(list_pages);
	fill_list((uint64_t *)(memory + list));
	if (nested) {
		flat = take_pages(3);
		vmcb = take_pages(1);
		host_save = take_pages(1);
		vmx_page = intel ? take_pages(1) : 0;
	}
	if (!spread)
		data = take_pages(PTRS);
	for (uint64_t i = inner; i--; roots[i] = cr3)
		lay_out_tables(list_pages, data);
	first_directory = descend(descend(cr3, 0), 0);
	first_table = descend(first_directory, 0);
	map(WINDOW, first_directory);
	map(WINDOW + PAGE_SIZE, first_table);
	for (uint64_t i = 0; rewrites && i < directories; i++)
		map(directory_window(i), descend(descend(cr3, 0), i));
	((uint64_t *)(memory + descend(cr3, 0)))[REUSED] = first_table | PTE_FLAGS;
	if (nested)
		lay_out_nested();
}

/* How many shadow pages KVM may keep. */
static void limit(uint64_t pages)
{
	control(vm, KVM_SET_NR_MMU_PAGES, (void *)pages, "KVM_SET_NR_MMU_PAGES");
}

/* Let the guest have this much memory at a guest-physical address; with no size, take it away. */
static void set_slot(uint32_t slot, uint64_t physical, void *host, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = physical, .userspace_addr = (uintptr_t)host, .memory_size = size,
	};

	control(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

static void create_vm(void)
{
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = control(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	maker = gettid();
	set_slot(0, 0, memory, home_size);
	/* Slots with nothing between the directories: KVM keeps some bytes for every page of a slot. */
	for (uint64_t i = 0; spread && i < directories; i++)
		set_slot(1 + i, spread_out(i), memory + home_size + i * tables * TABLE_SPAN, tables * TABLE_SPAN);
	limit(mmu_pages);
}

#include "vmx.h"

/* Give the VM a vCPU, which the thread that calls this runs. */
static void create_vcpu(uint64_t id)
{
	struct kvm_segment code = { .type = 11, .present = 1, .s = 1, .l = 1, .g = 1, .limit = ~0u, .selector = 8 };
	struct kvm_segment data = { .type = 3, .present = 1, .s = 1, .db = 1, .g = 1, .limit = ~0u, .selector = 16 };
	union {
		struct kvm_cpuid2 head;
		char room[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid = { .head.nent = 256 };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry = { .index = MSR_VM_HSAVE_PA, .data = host_save } };
	struct kvm_sregs sregs;
	int run_size = control(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");

	vcpu = control(vm, KVM_CREATE_VCPU, (void *)id, "KVM_CREATE_VCPU");
	run = checked(mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0), "kvm_run");
	/* KVM of 7.x refuses long mode to a vCPU whose CPUID does not have it. */
	control(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid, "KVM_GET_SUPPORTED_CPUID");
	control(vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");

	control(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 = CR0_FLAGS;
	sregs.cr3 = nested ? flat : cr3;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_FLAGS;
	if (nested && intel) {
		enable_vmx();
		sregs.cr4 |= CR4_VMXE;
	}
	control(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	if (nested && !intel && control(vcpu, KVM_SET_MSRS, &msrs, "KVM_SET_MSRS") != 1)
		errx(1, "KVM refused MSR_VM_HSAVE_PA");
}

static uint64_t address_of(const char *code)
{
	return HOME * DIRECTORY_SPAN + (code - guest_code);
}

static void run_guest(struct kvm_regs regs)
{
	regs.rflags = 2;
	if (nested && intel) {
		enter_vmx(&regs);
	} else if (nested) {
		set_vmcb(VMCB_RIP, regs.rip);
		set_vmcb(VMCB_RAX, regs.rax);
		regs.rip = guest_vmrun - guest_code;
		regs.rax = vmcb;
	}
	control(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	while (ioctl(vcpu, KVM_RUN, 0))
		if (errno != EINTR)
			err(1, "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(1, "the guest stopped with exit reason %u before its end", run->exit_reason);
	if (nested && intel)
		check_vmx();
	else if (nested && memory[vmcb + VMCB_EXIT_CODE] != EXIT_CODE_HLT)
		errx(1, "the inner guest did not come to its end: is this kvm_amd with npt=1 nested=1?");
}

static void touch(uint64_t first, uint64_t count)
{
	run_guest((struct kvm_regs){
		.rip = address_of(guest_code), .rsi = HOME * DIRECTORY_SPAN + list + first * sizeof(uint64_t),
		.rcx = count,
	});
}

/* Touch the list; several inner guests take turns. */
static void touch_from(uint64_t first)
{
	uint64_t turn = inner > 1 ? TURN : accesses;

	for (uint64_t i = 0; first < accesses; i++, first += turn) {
		if (inner > 1)
			set_vmcb(VMCB_NESTED_CR3, roots[i % inner]);
		touch(first, accesses - first < turn ? accesses - first : turn);
	}
}

static void rewrite_directories(void)
{
	for (uint64_t i = 0; rewrites && i < directories; i++)
		run_guest((struct kvm_regs){
			.rip = address_of(guest_write), .rdi = directory_window(i), .rcx = 1,
			.rax = descend(descend(descend(cr3, 0), i), 0) | PTE_FLAGS,
		});
}

/* A further vCPU. */
static void *accompany(void *id)
{
	uint64_t first = (uintptr_t)id * accesses / vcpus;

	for (create_vcpu((uintptr_t)id); !resting; first = 0) {
		touch_from(first);
		rewrite_directories();
	}
	return NULL;
}

static void run_round(void)
{
	touch_from(0);
	rewrite_directories();
	rounds_done++;
}

/* Memory that the guest does not use comes and goes, and the limit goes up and down. */
static void *disturb(void *nothing)
{
	static unsigned char spare[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
	uint32_t slot = 2 + directories;

	for (; !resting; usleep(UNREST_US)) {
		set_slot(slot, spread_out(slot), spare, PAGE_SIZE);
		limit(2 * mmu_pages);
		usleep(UNREST_US);
		set_slot(slot, spread_out(slot), NULL, 0);
		usleep(UNREST_US);
		limit(mmu_pages);
	}
	return nothing;
}

static void *make(void *nothing)
{
	create_vm();
	return nothing;
}

static pthread_t begin(void *(*routine)(void *), uintptr_t argument)
{
	pthread_t started;

	if ((errno = pthread_create(&started, NULL, routine, (void *)argument)))
		err(1, "a thread");
	return started;
}

/* The other vCPUs, and what changes the VM, come to their end. */
static void rest(void)
{
	resting = true;
	while (others_begun)
		pthread_join(others[--others_begun], NULL);
}

static void quit(void)
{
	exit(0);
}

static void resize(void)
{
	limit(number);
}

/* Take the guest's memory away, and give it back. */
static void memslot(void)
{
	set_slot(0, 0, memory, 0);
	set_slot(0, 0, memory, home_size);
}

/* The guest writes to its first directory, once that is shadowed, what is there: three times is a flood to KVM. */
static void write_directory(void)
{
	run_guest((struct kvm_regs){
		.rip = address_of(guest_write), .rdi = WINDOW, .rax = first_table | PTE_FLAGS, .rcx = number,
	});
}

/* As above, but KVM thinks that what is written so is no page table. */
static void stos(void)
{
	run_guest((struct kvm_regs){
		.rip = address_of(guest_stos), .rdi = WINDOW, .rax = first_table | PTE_FLAGS,
	});
}

/* The guest writes to its first table, which KVM lets it do from then on. The last entry maps a huge page in REUSED. */
static void unsync(void)
{
	run_guest((struct kvm_regs){
		.rip = address_of(guest_write), .rdi = WINDOW + 2 * PAGE_SIZE - sizeof(uint64_t),
		.rax = PTE_FLAGS | PTE_HUGE, .rcx = 1,
	});
}

/* The guest uses its first table as a directory. */
static void reuse(void)
{
	run_guest((struct kvm_regs){
		.rip = address_of(guest_write), .rbx = REUSED * DIRECTORY_SPAN + (PTRS - 1) * TABLE_SPAN,
	});
}

/* The guest reloads cr3 while its first table cannot be read, as if the host had swapped that out. */
static void reload(void)
{
	if (mprotect(memory + first_table, PAGE_SIZE, PROT_NONE))
		err(1, "mprotect");
	run_guest((struct kvm_regs){ .rip = address_of(guest_reload) });
	if (mprotect(memory + first_table, PAGE_SIZE, PROT_READ | PROT_WRITE))
		err(1, "mprotect");
}

/* The guest reads a page of its first table. */
static void read_page(uint64_t page)
{
	run_guest((struct kvm_regs){ .rip = address_of(guest_write), .rbx = page * PAGE_SIZE });
}

static void read_first(void)
{
	read_page(number);
}

/* The guest reads a page through so many further entries of its root, which all lead to one table below it. */
static void share(void)
{
	uint64_t *root = (uint64_t *)(memory + cr3);

	for (uint64_t i = 1; i <= number && i < PTRS; i++) {
		root[i] = root[0];
		/* An entry spans 1 << 39 bytes; addresses are sign-extended from bit 47. */
		run_guest((struct kvm_regs){ .rip = address_of(guest_write), .rbx = (int64_t)(i << 55) >> 16 });
	}
}

/* Likewise through so many further entries of its directories, which all lead to its first table. */
static void alias(void)
{
	for (uint64_t i = 0; i < number && i < directories * (PTRS - tables); i++) {
		uint64_t directory = i / (PTRS - tables), index = tables + i % (PTRS - tables);

		((uint64_t *)(memory + descend(descend(cr3, 0), directory)))[index] = first_table | PTE_FLAGS;
		read_page((directory * DIRECTORY_SPAN + index * TABLE_SPAN) / PAGE_SIZE);
	}
}

static void swap_tables(uint64_t page)
{
	uint64_t *entry = (uint64_t *)(memory + first_directory), first = entry[0];

	entry[0] = entry[1];
	entry[1] = first;
	read_page(page);
}

/*
 * Put the second table where the first is, unseen by KVM, as a device's access to memory might be; then have the guest
 * touch a page there that is not shadowed yet, which shows KVM. Undo that likewise.
 */
static void relink(void)
{
	swap_tables(PTRS / 2);
	swap_tables(PTRS / 4);
}

/* The guest runs code in a huge page that is one to the host as well. */
static void exec(void)
{
	static unsigned char *page;
	uint64_t physical = spread_out(directories);

	if (!page) {
		unsigned char *room = mmap(NULL, 2 * TABLE_SPAN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		checked(room, "a huge page");
		page = room + TABLE_SPAN - (uintptr_t)room % TABLE_SPAN;
		if (madvise(page, TABLE_SPAN, MADV_HUGEPAGE))
			err(1, "madvise");
		memset(page, 0xf4 /* hlt */, TABLE_SPAN);
		set_slot(1 + directories, physical, page, TABLE_SPAN);
		((uint64_t *)(memory + descend(descend(cr3, 0), HOME)))[PTRS - 2] = physical | PTE_FLAGS | PTE_HUGE;
	}
	run_guest((struct kvm_regs){ .rip = HUGE });
}

/* KVM keeps a VM's counters as one file each in debugfs, named after the thread and the VM's descriptor. */
static void print_counters(void)
{
	char folder[64], path[PATH_MAX];
	const char *comma = "";
	struct dirent *entry;
	DIR *counters;

	snprintf(folder, sizeof(folder), "/sys/kernel/debug/kvm/%d-%d", maker, vm);
	counters = checked(opendir(folder), folder);
	while ((entry = readdir(counters))) {
		long long value;
		char rest;
		FILE *file;

		if (entry->d_type != DT_REG)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		file = checked(fopen(path, "r"), path);
		/* Some files hold a table: only a single number is a counter. */
		if (fscanf(file, "%lld %c", &value, &rest) == 1) {
			printf("%s\"%s\": %lld", comma, entry->d_name, value);
			comma = ", ";
		}
		fclose(file);
	}
	closedir(counters);
}

static void print_state(void)
{
	struct timespec cpu;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu))
		err(1, "clock_gettime");
	printf("{\"name\": \"%s\", \"pid\": %d, \"rounds\": %lu, \"cpu_us\": %ld, \"counters\": {",
	       name, getpid(), rounds_done, cpu.tv_sec * 1000000 + cpu.tv_nsec / 1000);
	print_counters();
	printf("}}\n");
	if (fflush(stdout))
		err(1, "standard output");
}

static const struct {
	const char *name;
	void (*run)(void);
} commands[] = {
	{ "run", run_round },
	{ "stats", NULL },
	{ "quit", quit },
	{ "resize", resize },		/* takes a number: of shadow pages that KVM may keep */
	{ "memslot", memslot },
	{ "write", write_directory },	/* takes a number: of writes */
	{ "stos", stos },
	{ "unsync", unsync },
	{ "reuse", reuse },
	{ "reload", reload },
	{ "relink", relink },
	{ "read", read_first },		/* takes a number: of the page in its table */
	{ "share", share },		/* takes a number: of entries */
	{ "alias", alias },		/* likewise */
	{ "exec", exec },
	{ "rest", rest },
};

/* Do what the lines on standard input ask for, until none has come for so long; -1 waits for ever. */
static void obey(int timeout_ms)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	char line[64], word[64];

	while (poll(&input, 1, timeout_ms)) {
		size_t i = 0;

		if (!fgets(line, sizeof(line), stdin))
			exit(0);
		number = 1;
		*word = '\0';
		sscanf(line, "%63s %lu", word, &number);
		while (i < ARRAY_SIZE(commands) && strcmp(commands[i].name, word))
			i++;
		if (i == ARRAY_SIZE(commands))
			errx(2, "%s is no command", word);
		if (commands[i].run)
			commands[i].run();
		print_state();
	}
}

static void parse(char **argument)
{
	static const struct {
		const char *name;
		const char **text;
		uint64_t *number, least, most;
	} options[] = {
		{ "--name", &name, NULL, 0, 0 },	/* for whoever lists processes */
		{ "--pattern", &pattern, NULL, 0, 0 },
		{ "--directories", NULL, &directories, 1, REUSED },
		{ "--tables", NULL, &tables, 1, PTRS },
		{ "--accesses", NULL, &accesses, 1, 1 << 24 },
		{ "--seed", NULL, &seed, 0, UINT64_MAX },
		{ "--pages", NULL, &mmu_pages, 64, UINT32_MAX },	/* KVM takes no less */
		{ "--rounds", NULL, &rounds, 0, UINT32_MAX },		/* 0: until told to end */
		{ "--pause-ms", NULL, &pause_ms, 0, INT_MAX },		/* after each round */
		{ "--spread", NULL, &spread, 0, 1 },
		{ "--nested", NULL, &nested, 0, 1 },
		{ "--inner", NULL, &inner, 1, INNER },			/* guests that the guest has */
		{ "--touched", NULL, &touched, 1, PTRS / PREFETCHED },	/* pages of each table */
		{ "--vcpus", NULL, &vcpus, 1, VCPUS },
		{ "--rewrites", NULL, &rewrites, 0, 1 },
		{ "--unrest", NULL, &unrest, 0, 1 },	/* slots and the limit change, all the time */
		{ "--thread", NULL, &thread, 0, 1 },	/* the VM is made by a thread, which ends */
	};

	for (; *argument; argument += 2) {
		size_t i = 0;
		char *end;

		while (i < ARRAY_SIZE(options) && strcmp(options[i].name, *argument))
			i++;
		if (i == ARRAY_SIZE(options) || !argument[1])
			errx(2, "%s is no option, or lacks its value", *argument);
		if (options[i].text) {
			*options[i].text = argument[1];
			continue;
		}
		*options[i].number = strtoull(argument[1], &end, 0);
		if (*end || *options[i].number < options[i].least || *options[i].number > options[i].most)
			errx(2, "%s takes a number from %lu to %lu", *argument, options[i].least, options[i].most);
	}
	if (!name)
		name = pattern;
	if (nested && vcpus > 1)
		errx(2, "a guest with a guest has one vCPU");
	if (inner > 1 && !nested)
		errx(2, "--inner takes --nested 1");
}

int main(int argc, char **argv)
{
	unsigned int ignored, vendor = 0;

	parse(argc ? argv + 1 : argv);
	__get_cpuid(0, &ignored, &vendor, &ignored, &ignored);
	intel = vendor == signature_INTEL_ebx;
	if (intel && inner > 1)
		errx(2, "on Intel the guest has one guest");
	setvbuf(stdin, NULL, _IONBF, 0);	/* poll() does not see what is in a buffer */
	lay_out_memory();
	if (thread && (errno = pthread_join(begin(make, 0), NULL)))
		err(1, "a thread");
	if (!thread)
		create_vm();
	create_vcpu(0);
	for (uint64_t id = 1; id < vcpus; id++)
		others[others_begun++] = begin(accompany, id);
	if (unrest)
		others[others_begun++] = begin(disturb, 0);
	for (run_round(); !rounds || rounds_done < rounds; run_round())
		obey(pause_ms);
	print_state();
	obey(-1);
}
