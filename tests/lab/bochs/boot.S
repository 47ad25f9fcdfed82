/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A boot sector for one kernel: brings BLOCKS times 32 KiB, which follow it on the disk, to ADDRESS, and enters the
 * kernel among them as the PVH boot protocol has it: at ENTRY, in 32-bit mode, with ebx at the hvm_start_info, INFO.
 * What these are is known when it is assembled.
 */
#define SECTORS		64
#define BLOCK		(SECTORS * 512)
#define BUFFER		0x10000
#define MEMORY_MAP	0x7000			/* as hvm_start_info says */
#define MEMORY_MAP_ENTRY 24
#define MEMORY_MAP_ENTRIES 48			/* where hvm_start_info has their number */

	.code16
	.globl	_start
_start:
	ljmp	$0, $1f
1:	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$_start, %sp
	cld
	mov	%dl, disk

load:
	mov	$packet, %si
	mov	disk, %dl
	mov	$0x42, %ah			/* extended read */
	int	$0x13
	jc	fail
	mov	address, %eax
	mov	%ax, target + 2
	shr	$16, %eax
	mov	%al, target + 4
	mov	%ah, target + 7
	mov	$descriptors, %si
	mov	$(BLOCK / 2), %cx
	mov	$0x87, %ah			/* move to extended memory */
	int	$0x15
	jc	fail
	addl	$BLOCK, address
	addl	$SECTORS, sector
	decl	blocks
	jnz	load

	xor	%ebx, %ebx
	xor	%ebp, %ebp
	mov	$MEMORY_MAP, %di
memory:
	mov	$0xe820, %eax
	mov	$0x534d4150, %edx		/* SMAP */
	mov	$20, %ecx
	int	$0x15
	jc	fail
	movl	$0, 20(%di)
	add	$MEMORY_MAP_ENTRY, %di
	inc	%ebp
	test	%ebx, %ebx
	jnz	memory

	cli
	in	$0x92, %al			/* the A20 gate */
	or	$2, %al
	out	%al, $0x92
	lgdt	flat
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	ljmp	$8, $1f
	.code32
1:	mov	$16, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$INFO, %ebx
	mov	%ebp, MEMORY_MAP_ENTRIES(%ebx)
	mov	$ENTRY, %eax
	jmp	*%eax

	.code16
fail:	mov	$message, %si
1:	lodsb
	mov	$0x3f8, %dx			/* the serial line */
	out	%al, %dx
	test	%al, %al
	jnz	1b
	cli
	hlt

message:
	.asciz	"boot.S: the firmware refused a request\n"
disk:	.byte	0
	.balign	4
address: .long	ADDRESS
blocks:	.long	BLOCKS
packet:	.byte	16, 0
	.word	SECTORS, 0, BUFFER >> 4
sector:	.quad	1
	.balign	8
descriptors:					/* null, the firmware's, from, to, the firmware's */
	.quad	0, 0
	.word	0xffff, BUFFER & 0xffff
	.byte	BUFFER >> 16, 0x93, 0, 0
target:	.word	0xffff, 0
	.byte	0, 0x93, 0, 0
	.quad	0, 0
segments:					/* null, code and data, both flat */
	.quad	0, 0x00cf9a000000ffff, 0x00cf92000000ffff
flat:	.word	. - segments - 1
	.long	segments

	.org	510
	.word	0xaa55
