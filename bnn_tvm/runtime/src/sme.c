/* Support routines that AAPCS64 asks of a platform with SME, for kernels that use the array ZA.
 * Toolchains older than the extension lack them, and model.so needs none but libc. Hidden, so that
 * those of an app are left alone. Kernels without SME do not call them: they are not linked then. */
#if defined(__aarch64__) && defined(__ELF__)

/* Save ZA to the buffer that the block at TPIDR2_EL0 names: a pointer, then the number of vectors
 * as 16 bits. Nothing to do without a block or a buffer. May change x0 and x12 to x17 only.
 * bytes 10 to 15 of the block are reserved and 0; a caller that sets them knows a newer ABI. */
__asm__(
    ".arch_extension sme\n"
    ".section .text.__arm_tpidr2_save,\"ax\",%progbits\n"
    ".hidden __arm_tpidr2_save\n.weak __arm_tpidr2_save\n"
    ".type __arm_tpidr2_save,%function\n.balign 4\n"
    "__arm_tpidr2_save:\n"
    "  mrs x14, TPIDR2_EL0\n"
    "  cbz x14, 1f\n"
    "  ldrh w15, [x14, #10]\n"
    "  ldr w16, [x14, #12]\n"
    "  orr w15, w15, w16\n"
    "  cbnz w15, 2f\n"
    "  ldr x16, [x14]\n"
    "  ldrh w17, [x14, #8]\n"
    "  cbz x16, 1f\n"
    "  mov w12, wzr\n"
    "0: cmp w12, w17\n"
    "  b.hs 1f\n"
    "  str za[w12, 0], [x16]\n"
    "  addsvl x16, x16, #1\n"
    "  add w12, w12, #1\n"
    "  b 0b\n"
    "1: ret\n"
    "2: brk #1\n"
    ".size __arm_tpidr2_save, .-__arm_tpidr2_save\n");

/* The vector length for an unwinder, in 64-bit units, which LLVM notes beside a frame that enters
 * streaming mode. Outside that mode 0, as if there were no SVE: nothing unwinds through a kernel.
 * May change x0 only. S3_3_C4_C2_2 is SVCR; its bit 0 is streaming mode. */
__asm__(
    ".arch_extension sme\n"
    ".section .text.__arm_get_current_vg,\"ax\",%progbits\n"
    ".hidden __arm_get_current_vg\n.weak __arm_get_current_vg\n"
    ".type __arm_get_current_vg,%function\n.balign 4\n"
    "__arm_get_current_vg:\n"
    "  mrs x0, S3_3_C4_C2_2\n"
    "  tbz x0, #0, 1f\n"
    "  cntd x0\n"
    "  ret\n"
    "1: mov x0, xzr\n"
    "  ret\n"
    ".size __arm_get_current_vg, .-__arm_get_current_vg\n"
    ".text\n");

#endif
