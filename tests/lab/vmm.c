// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that does nothing but touch a list of addresses, and the VMM that runs it.
 *
 * The guest's addresses lie in D page directories (1 GiB apart) of T page tables (2 MiB apart) each. Under shadow
 * paging each of these costs KVM a shadow page, of which it may keep --pages. The same arguments give the same list
 * on every machine, and so the same counts.
 *
 * After its rounds, and for every "run" or "stats" on its standard input, it prints KVM's own counters as a line of
 * JSON; "quit" or the end of the input ends it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <poll.h>
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
#define PTE_FLAGS	(1 | 2 | 0x20 | 0x40)	/* present, writable, and no walk has to set accessed or dirty */

#define CR0_FLAGS	(1ull << 0 | 1ull << 5 | 1ull << 16 | 1ull << 31)	/* PE, NE, WP, PG */
#define CR4_PAE		(1ull << 5)
#define EFER_FLAGS	(1ull << 8 | 1ull << 10)				/* LME, LMA */

#define PAGES_TOUCHED	16	/* of each table, so that most faults are for tables that KVM reclaimed */
#define HOT_STAY	1000	/* accesses before the hot directory moves on */
#define HOT_SHARE	8	/* one access in so many goes anywhere */

/* The guest: rsi is the list, rcx its length. */
asm(".pushsection .rodata\n"
    "guest_code:\n"
    "	mov	(%rsi), %rax\n"
    "	mov	(%rax), %al\n"
    "	add	$8, %rsi\n"
    "	dec	%rcx\n"
    "	jnz	guest_code\n"
    "	hlt\n"
    "guest_code_end:\n"
    ".popsection\n");
extern const char guest_code[], guest_code_end[];

static const char *name, *pattern = "zipf";
static uint64_t directories = 16, tables = 8, accesses = 30000, seed = 1, mmu_pages = 64, rounds = 1, pause_ms;

static unsigned char *memory;			/* guest-physical, from 0 */
static uint64_t memory_size, memory_used;
static uint64_t list, cr3;			/* guest-physical addresses */
static int vm, vcpu;
static struct kvm_run *run;
static uint64_t rounds_done;

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

		/* Always the same page of a table, so that what faults is a table that was zapped. */
		address[i] = which / tables * DIRECTORY_SPAN + which % tables * TABLE_SPAN + which % PTRS * PAGE_SIZE;
	}
}

static uint64_t take_pages(uint64_t count)
{
	uint64_t address = memory_used;

	memory_used += count * PAGE_SIZE;
	if (memory_used > memory_size)
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

static void lay_out_memory(void)
{
	uint64_t list_pages = (accesses * sizeof(uint64_t) + PAGE_SIZE - 1) / PAGE_SIZE;
	uint64_t home_tables = list_pages / PTRS + 1;
	uint64_t data;

	/* Code, list, data; two upper levels, the home directory and the others. */
	memory_size = 1 + list_pages + PTRS + 2 + 1 + home_tables + directories * (1 + tables);
	memory_size *= PAGE_SIZE;
	memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	checked(memory, "guest memory");
	/* Whether the host has huge pages to give must not show in the counts. */
	if (madvise(memory, memory_size, MADV_NOHUGEPAGE))
		err(1, "madvise");

	memcpy(memory + take_pages(1), guest_code, guest_code_end - guest_code);
	list = take_pages(list_pages);
	fill_list((uint64_t *)(memory + list));
	data = take_pages(PTRS);
	cr3 = take_pages(1);
	for (uint64_t page = 0; page < 1 + list_pages; page++)
		map(HOME * DIRECTORY_SPAN + page * PAGE_SIZE, page * PAGE_SIZE);
	for (uint64_t table = 0; table < directories * tables; table++)
		for (uint64_t page = 0; page < PTRS; page++)
			map(table / tables * DIRECTORY_SPAN + table % tables * TABLE_SPAN + page * PAGE_SIZE,
			    data + page * PAGE_SIZE);
}

static void create_guest(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = memory_size, .userspace_addr = (uintptr_t)memory };
	struct kvm_segment code = { .type = 11, .present = 1, .s = 1, .l = 1, .g = 1, .limit = ~0u, .selector = 8 };
	struct kvm_segment data = { .type = 3, .present = 1, .s = 1, .db = 1, .g = 1, .limit = ~0u, .selector = 16 };
	union {
		struct kvm_cpuid2 head;
		char room[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid = { .head.nent = 256 };
	struct kvm_sregs sregs;
	int run_size, kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = control(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	control(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
	control(vm, KVM_SET_NR_MMU_PAGES, (void *)mmu_pages, "KVM_SET_NR_MMU_PAGES");

	vcpu = control(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	run_size = control(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
	run = checked(mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0), "kvm_run");
	/* KVM of 7.x refuses long mode to a vCPU whose CPUID does not have it. */
	control(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid, "KVM_GET_SUPPORTED_CPUID");
	control(vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
	close(kvm);

	control(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 = CR0_FLAGS;
	sregs.cr3 = cr3;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_FLAGS;
	control(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
}

static void run_round(void)
{
	struct kvm_regs regs = {
		.rip = HOME * DIRECTORY_SPAN, .rsi = HOME * DIRECTORY_SPAN + list, .rcx = accesses, .rflags = 2,
	};

	control(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
	while (ioctl(vcpu, KVM_RUN, 0))
		if (errno != EINTR)
			err(1, "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(1, "the guest stopped with exit reason %u before its end", run->exit_reason);
	rounds_done++;
}

/* KVM keeps a VM's counters as one file each in debugfs, named after the process and the VM's descriptor. */
static void print_counters(void)
{
	char folder[64], path[PATH_MAX];
	const char *comma = "";
	struct dirent *entry;
	DIR *counters;

	snprintf(folder, sizeof(folder), "/sys/kernel/debug/kvm/%d-%d", getpid(), vm);
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

/* Do what the lines on standard input ask for, until none has come for so long; -1 waits for ever. */
static void obey(int timeout_ms)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	char line[64];

	while (poll(&input, 1, timeout_ms)) {
		if (!fgets(line, sizeof(line), stdin) || !strcmp(line, "quit\n"))
			exit(0);
		if (!strcmp(line, "run\n"))
			run_round();
		else if (strcmp(line, "stats\n"))
			errx(2, "there are run, stats and quit, but no %s", line);
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
		{ "--directories", NULL, &directories, 1, HOME },
		{ "--tables", NULL, &tables, 1, PTRS },
		{ "--accesses", NULL, &accesses, 1, 1 << 24 },
		{ "--seed", NULL, &seed, 0, UINT64_MAX },
		{ "--pages", NULL, &mmu_pages, 64, UINT32_MAX },	/* KVM takes no less */
		{ "--rounds", NULL, &rounds, 0, UINT32_MAX },		/* 0: until told to end */
		{ "--pause-ms", NULL, &pause_ms, 0, INT_MAX },		/* after each round */
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
}

int main(int argc, char **argv)
{
	parse(argc ? argv + 1 : argv);
	setvbuf(stdin, NULL, _IONBF, 0);	/* poll() does not see what is in a buffer */
	lay_out_memory();
	create_guest();
	for (run_round(); !rounds || rounds_done < rounds; run_round())
		obey(pause_ms);
	print_state();
	obey(-1);
}
