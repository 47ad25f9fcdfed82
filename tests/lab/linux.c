// SPDX-License-Identifier: Apache-2.0
/*
 * A VMM that boots a Linux and has nothing else: memory, one vCPU, KVM's own interrupt controllers and timer, and a
 * serial line that goes to standard output. It starts in a moment where QEMU, in an emulated guest, takes minutes.
 *
 *	linux MIB VMLINUX INITRAMFS ARGUMENTS
 *
 * The kernel is an ELF file, entered as the PVH boot protocol has it. The VMM ends when the guest does: reboot=t makes
 * a shutdown of its end.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_SIZE	4096ull
#define PHYS32_ENTRY	18		/* XEN_ELFNOTE_PHYS32_ENTRY */
#define START_MAGIC	0x336ec578
#define START		0x6000		/* where the guest finds hvm_start_info, and what that leads to */
#define LOW_END		0x9fc00
#define HIGH		0x100000
#define RAM		1

/* Of CPUID's leaf 1, in ecx. */
#define HYPERVISOR	(1u << 31)
#define TSC_DEADLINE	(1u << 24)

#define SERIAL		0x3f8
#define SERIAL_IRQ	4
#define SENT		1		/* of the register that enables interrupts: when a byte was sent, bit 1 */
#define CMOS		0x71

struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, arguments, rsdp, memory_map;
	uint32_t memory_entries, reserved;
	struct { uint64_t address, size, arguments, reserved; } initramfs;
	struct { uint64_t address, size; uint32_t type, reserved; } map[2];
	char text[2048];
};

static unsigned char *memory;
static uint64_t size;
static int vm, vcpu;
static struct kvm_run *run;

static long control(int fd, unsigned long request, const void *argument, const char *what)
{
	int result = ioctl(fd, request, argument);

	if (result < 0)
		err(1, "%s", what);
	return result;
}

static const unsigned char *file(const char *path, uint64_t *length)
{
	struct stat stat;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const void *content;

	if (fd < 0 || fstat(fd, &stat))
		err(1, "%s", path);
	*length = stat.st_size;
	content = mmap(NULL, *length, PROT_READ, MAP_PRIVATE, fd, 0);
	if (content == MAP_FAILED)
		err(1, "%s", path);
	close(fd);
	return content;
}

static void put(uint64_t address, const void *from, uint64_t length)
{
	if (address > size || length > size - address)
		errx(1, "%lu MiB are too few for the guest", size >> 20);
	memcpy(memory + address, from, length);
}

/* The address that a note says, or 0. */
static uint32_t entry_in(const unsigned char *notes, uint64_t length)
{
	for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) < length;) {
		const Elf64_Nhdr *note = (const void *)(notes + at);
		const unsigned char *owner = (const void *)(note + 1), *content = owner + ((note->n_namesz + 3) & ~3u);

		if (note->n_type == PHYS32_ENTRY && !strcmp((const char *)owner, "Xen"))
			return *(const uint32_t *)content;
		at = content + ((note->n_descsz + 3) & ~3u) - notes;
	}
	return 0;
}

/* Put the kernel where it wants to be, and return where it is entered. */
static uint32_t load_kernel(const char *path)
{
	uint64_t length;
	const unsigned char *elf = file(path, &length);
	const Elf64_Ehdr *head = (const void *)elf;
	const Elf64_Phdr *part = (const void *)(elf + head->e_phoff);
	uint32_t entry = 0;

	for (int i = 0; i < head->e_phnum; i++) {
		if (part[i].p_type == PT_LOAD)
			put(part[i].p_paddr, elf + part[i].p_offset, part[i].p_filesz);
		else if (part[i].p_type == PT_NOTE && !entry)
			entry = entry_in(elf + part[i].p_offset, part[i].p_filesz);
	}
	if (!entry)
		errx(1, "%s has no PVH entry: it was built without CONFIG_PVH", path);
	return entry;
}

static void load_rest(const char *initramfs, const char *arguments)
{
	struct start_info *start = (void *)(memory + START);
	uint64_t length;
	const unsigned char *content = file(initramfs, &length);
	uint64_t at = (size - length) & ~(PAGE_SIZE - 1);

	put(at, content, length);
	*start = (struct start_info){
		.magic = START_MAGIC, .version = 1, .modules = 1, .memory_entries = 2,
		.module_list = START + offsetof(struct start_info, initramfs),
		.arguments = START + offsetof(struct start_info, text),
		.memory_map = START + offsetof(struct start_info, map),
		.initramfs = { at, length, 0, 0 },
		.map = { { 0, LOW_END, RAM, 0 }, { HIGH, size - HIGH, RAM, 0 } },
	};
	if (strlen(arguments) >= sizeof(start->text))
		errx(1, "the kernel's arguments do not fit: use fewer");
	strcpy(start->text, arguments);
}

static void create(uint32_t entry)
{
	struct kvm_segment code = { .type = 11, .present = 1, .s = 1, .db = 1, .g = 1, .limit = ~0u, .selector = 8 };
	struct kvm_segment data = { .type = 3, .present = 1, .s = 1, .db = 1, .g = 1, .limit = ~0u, .selector = 16 };
	struct kvm_userspace_memory_region region = { .memory_size = size, .userspace_addr = (uintptr_t)memory };
	struct kvm_regs regs = { .rip = entry, .rbx = START, .rflags = 2 };
	struct kvm_pit_config timer = { 0 };
	union {
		struct kvm_cpuid2 head;
		char room[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid = { .head.nent = 256 };
	struct kvm_sregs sregs;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = control(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	control(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
	control(vm, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP");
	control(vm, KVM_CREATE_PIT2, &timer, "KVM_CREATE_PIT2");
	vcpu = control(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	run = mmap(NULL, control(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE"),
		   PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(1, "kvm_run");
	control(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid, "KVM_GET_SUPPORTED_CPUID");
	/* What KVM leaves to the VMM to say: there are a hypervisor, whose clock the guest takes, and a deadline timer. */
	for (uint32_t i = 0; i < cpuid.head.nent; i++)
		if (cpuid.head.entries[i].function == 1)
			cpuid.head.entries[i].ecx |= HYPERVISOR | TSC_DEADLINE;
	control(vcpu, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2");
	control(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 = 1;
	control(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
	control(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

static void pulse(void)
{
	struct kvm_irq_level line = { .irq = SERIAL_IRQ, .level = 1 };

	control(vm, KVM_IRQ_LINE, &line, "KVM_IRQ_LINE");
	line.level = 0;
	control(vm, KVM_IRQ_LINE, &line, "KVM_IRQ_LINE");
}

/* A 8250 that sends each byte at once and never gets any. */
static unsigned char serial(unsigned int at, unsigned char value, bool out)
{
	static unsigned char registers[8], sent;
	bool divisor = registers[3] & 0x80 && at < 2;

	if (out && !at && !divisor) {
		putchar(value);
		if (value == '\n')
			fflush(stdout);
		sent = true;
	} else if (out && !divisor) {
		registers[at] = value;
		if (at == 1)
			sent = true;
	}
	if (out && at < 2 && !divisor && registers[1] >> SENT & 1)
		pulse();
	if (out || divisor)
		return 0;
	switch (at) {
	case 2:
		if (!(sent && registers[1] >> SENT & 1))
			return 1;
		sent = false;
		return 2;
	case 5:
		return 0x60;
	case 6:
		return 0xb0;
	default:
		return at ? registers[at] : 0;
	}
}

static void port(void)
{
	unsigned char *data = (unsigned char *)run + run->io.data_offset;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;

	for (uint32_t i = 0; i < run->io.count * run->io.size; i++) {
		unsigned char got = run->io.port == CMOS ? 0 : 0xff;

		if (run->io.port >> 3 == SERIAL >> 3)
			got = serial(run->io.port & 7, data[i], out);
		if (!out)
			data[i] = got;
	}
}

int main(int argc, char **argv)
{
	if (argc != 5)
		errx(2, "usage: linux MIB VMLINUX INITRAMFS ARGUMENTS");
	size = strtoull(argv[1], NULL, 0) << 20;
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "%s MiB of memory", argv[1]);
	load_rest(argv[3], argv[4]);
	create(load_kernel(argv[2]));
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) && errno != EINTR)
			err(1, "KVM_RUN");
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			port();
			break;
		case KVM_EXIT_MMIO:
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			break;
		case KVM_EXIT_SHUTDOWN:
			fflush(stdout);
			return 0;
		case KVM_EXIT_INTR:
			break;
		default:
			errx(1, "the guest stopped with exit reason %u", run->exit_reason);
		}
	}
}
