// SPDX-License-Identifier: Apache-2.0
/*
 * A guest that has a guest, on Intel: what AMD's processor finds in a VMCB, the guest writes into its VMCS field by field.
 * Of vmm.c, which includes this, it is the part that knows these fields and IA32_VMX_* registers.
 */
#include <stddef.h>

#define MSR_FEATURE_CONTROL	0x03a
#define MSR_VMX_BASIC		0x480		/* the revision, and then the capabilities, of which we need */
#define MSR_VMX_TRUE_PIN	0x48d
#define MSR_VMX_TRUE_PROCESSOR	0x48e
#define MSR_VMX_TRUE_EXIT	0x48f
#define MSR_VMX_TRUE_ENTRY	0x490

#define LOCKED_WITH_VMX		(1 << 0 | 1 << 2)
#define CR4_VMXE		(1ull << 13)
#define HLT_EXITING		(1ull << 7)
#define SECONDARY_CONTROLS	(1ull << 31)
#define EPT			(1ull << 1)	/* of the secondary controls */
#define LONG_MODE		(1ull << 9)	/* of the exit and of the entry controls */
#define EPT_WRITE_BACK_4_LEVELS	(6 | 3 << 3)

#define CODE_RIGHTS		0xa09b
#define DATA_RIGHTS		0xc093
#define TSS_RIGHTS		0x008b
#define NO_SEGMENT		0x10000
#define CODE_SELECTOR		8
#define DATA_SELECTOR		16
#define TSS_SELECTOR		24

#define VMCS_EXIT_REASON	0x4402		/* as guest_vmexit has it */
#define EXIT_REASON_HLT		12

/*
 * r10 and r11 point at the addresses of the VMXON region and of the VMCS, r8 at r9 fields. The inner guest finds the other
 * registers as they are. r13 is why it ended, or what VMLAUNCH did not like, as a negative number.
 */
asm(".pushsection .rodata\n"
    "guest_vmxon:\n"
    "	vmxon	(%r10)\n"
    "guest_vmlaunch:\n"
    "	xor	%r13d, %r13d\n"
    "	vmclear	(%r11)\n"
    "	vmptrld	(%r11)\n"
    "1:	mov	(%r8), %r12\n"
    "	vmwrite	8(%r8), %r12\n"
    "	add	$16, %r8\n"
    "	dec	%r9\n"
    "	jnz	1b\n"
    "	vmlaunch\n"
    "	mov	$0x4400, %r12d\n"
    "	vmread	%r12, %r13\n"
    "	neg	%r13\n"
    "	hlt\n"
    "guest_vmexit:\n"
    "	mov	$0x4402, %r12d\n"
    "	vmread	%r12, %r13\n"
    "	hlt\n"
    "guest_vmx_end:\n"
    ".popsection\n");
extern const char guest_vmxon[], guest_vmlaunch[], guest_vmexit[], guest_vmx_end[];

struct vmcs_field {
	uint64_t encoding, value;
};

/* In the page that lay_out_memory() took for it: the two addresses, the code, and the fields. */
struct vmx_page {
	uint64_t vmxon_region, vmcs;
	char code[128];
	struct vmcs_field fields[64];
};

static uint64_t model_register(uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry.index = index };

	if (control(vcpu, KVM_GET_MSRS, &msrs, "KVM_GET_MSRS") != 1)
		errx(1, "KVM has no model-specific register %#x: is this kvm_intel with ept=1 nested=1?", index);
	return msrs.entry.data;
}

/* Some controls, with those that this processor wants as well. */
static uint64_t controls(uint32_t capabilities, uint64_t wanted)
{
	return wanted | (uint32_t)model_register(capabilities);
}

static uint64_t address_in_vmx_page(const char *code)
{
	return vmx_page + offsetof(struct vmx_page, code) + (code - guest_vmxon);
}

/* Let the vCPU have VMX. */
static void enable_vmx(void)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry = { .index = MSR_FEATURE_CONTROL, .data = LOCKED_WITH_VMX } };

	if (control(vcpu, KVM_SET_MSRS, &msrs, "KVM_SET_MSRS") != 1)
		errx(1, "KVM refused IA32_FEATURE_CONTROL: is this kvm_intel with ept=1 nested=1?");
}

/* What the guest is to write: of all other fields a VMCS of KVM's in an empty page has 0. */
static uint64_t fill_fields(uint64_t rip)
{
	struct vmx_page *page = (struct vmx_page *)(memory + vmx_page);
	uint64_t cr4 = CR4_PAE | CR4_VMXE, inner_cr3 = HOME * DIRECTORY_SPAN + flat + PAGE_SIZE;
	const struct vmcs_field fields[] = {
		{ 0x4000, controls(MSR_VMX_TRUE_PIN, 0) },
		{ 0x4002, controls(MSR_VMX_TRUE_PROCESSOR, HLT_EXITING | SECONDARY_CONTROLS) },
		{ 0x401e, EPT },
		{ 0x400c, controls(MSR_VMX_TRUE_EXIT, LONG_MODE) },
		{ 0x4012, controls(MSR_VMX_TRUE_ENTRY, LONG_MODE) },
		{ 0x201a, cr3 | EPT_WRITE_BACK_4_LEVELS },
		{ 0x2800, UINT64_MAX },						/* no other VMCS */
		/* The inner guest: selectors, limits and rights of ES, CS, SS, DS, FS, GS, LDTR, TR; registers. */
		{ 0x800, DATA_SELECTOR }, { 0x802, CODE_SELECTOR }, { 0x804, DATA_SELECTOR }, { 0x806, DATA_SELECTOR },
		{ 0x808, DATA_SELECTOR }, { 0x80a, DATA_SELECTOR }, { 0x80e, TSS_SELECTOR },
		{ 0x4800, UINT32_MAX }, { 0x4802, UINT32_MAX }, { 0x4804, UINT32_MAX }, { 0x4806, UINT32_MAX },
		{ 0x4808, UINT32_MAX }, { 0x480a, UINT32_MAX }, { 0x480e, 0x67 },
		{ 0x4814, DATA_RIGHTS }, { 0x4816, CODE_RIGHTS }, { 0x4818, DATA_RIGHTS }, { 0x481a, DATA_RIGHTS },
		{ 0x481c, DATA_RIGHTS }, { 0x481e, DATA_RIGHTS }, { 0x4820, NO_SEGMENT }, { 0x4822, TSS_RIGHTS },
		{ 0x6800, CR0_FLAGS }, { 0x6802, inner_cr3 }, { 0x6804, cr4 }, { 0x681a, 0x400 /* DR7 */ },
		{ 0x681e, rip }, { 0x6820, 2 /* RFLAGS */ },
		/* The guest itself, when that has ended. */
		{ 0xc00, DATA_SELECTOR }, { 0xc02, CODE_SELECTOR }, { 0xc04, DATA_SELECTOR }, { 0xc06, DATA_SELECTOR },
		{ 0xc0c, TSS_SELECTOR },
		{ 0x6c00, CR0_FLAGS }, { 0x6c02, flat }, { 0x6c04, cr4 },
		{ 0x6c16, address_in_vmx_page(guest_vmexit) },
	};

	_Static_assert(sizeof(fields) <= sizeof(page->fields), "the page's fields are too few");
	memcpy(page->fields, fields, sizeof(fields));
	return ARRAY_SIZE(fields);
}

/* Have the guest run its own guest from regs->rip on. */
static void enter_vmx(struct kvm_regs *regs)
{
	static __thread int on;
	struct vmx_page *page = (struct vmx_page *)(memory + vmx_page);

	regs->r8 = vmx_page + offsetof(struct vmx_page, fields);
	regs->r9 = fill_fields(regs->rip);
	regs->r10 = vmx_page + offsetof(struct vmx_page, vmxon_region);
	regs->r11 = vmx_page + offsetof(struct vmx_page, vmcs);
	regs->rip = address_in_vmx_page(guest_vmlaunch);
	if (!on) {
		memcpy(page->code, guest_vmxon, guest_vmx_end - guest_vmxon);
		page->vmxon_region = host_save;
		page->vmcs = vmcb;
		*(uint32_t *)(memory + host_save) = *(uint32_t *)(memory + vmcb) = model_register(MSR_VMX_BASIC);
		regs->rip = address_in_vmx_page(guest_vmxon);
		on = 1;
	}
}

static void check_vmx(void)
{
	struct kvm_regs regs;

	control(vcpu, KVM_GET_REGS, &regs, "KVM_GET_REGS");
	if (regs.r13 != EXIT_REASON_HLT)
		errx(1, "the inner guest did not come to its end, but to %lld: is this kvm_intel with ept=1 nested=1?",
		     (long long)regs.r13);
}
