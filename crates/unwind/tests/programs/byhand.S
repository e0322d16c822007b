// Frames that no compiler generates: a CFA in rbx or in an expression, a return address in a
// register, and functions that call without any call frame information.
    .text
    .globl main
    .type main, @function
main:
    .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    call by_rbx
    call by_register
    call by_expression
    call bare_with_frame
    xorl %eax, %eax
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size main, .-main

// The CFA is rbx + 16, while rsp and rbp point elsewhere.
    .type by_rbx, @function
by_rbx:
    .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    movq %rsp, %rbx
    .cfi_def_cfa_register %rbx
    pushq %rbp
    .cfi_offset %rbp, -24
    subq $200, %rsp
    xorl %ebp, %ebp
    andq $-64, %rsp
    call bottom
    nop
    movq -8(%rbx), %rbp
    .cfi_restore %rbp
    movq %rbx, %rsp
    .cfi_def_cfa_register %rsp
    popq %rbx
    .cfi_restore %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc

// During the call, the return address and the caller's rbp are only in r12 and r13.
    .type by_register, @function
by_register:
    .cfi_startproc
    pushq %r12
    .cfi_def_cfa_offset 16
    .cfi_offset %r12, -16
    pushq %r13
    .cfi_def_cfa_offset 24
    .cfi_offset %r13, -24
    movq 16(%rsp), %r12
    .cfi_register %rip, %r12
    movq %rbp, %r13
    .cfi_register %rbp, %r13
    movq $0x1234, 16(%rsp)
    movq $7, %rbp
    call bottom
    movq %r13, %rbp
    .cfi_restore %rbp
    movq %r12, 16(%rsp)
    .cfi_offset %rip, -8
    popq %r13
    .cfi_def_cfa_offset 16
    .cfi_restore %r13
    popq %r12
    .cfi_def_cfa_offset 8
    .cfi_restore %r12
    ret
    .cfi_endproc

// The CFA is in memory at r14 + 24. The expression has one operation more than known patterns.
    .type by_expression, @function
by_expression:
    .cfi_startproc
    pushq %r14
    .cfi_def_cfa_offset 16
    .cfi_offset %r14, -16
    subq $40, %rsp
    .cfi_def_cfa_offset 56
    movq %rsp, %r14
    leaq 48(%rsp), %rax
    movq %rax, 24(%r14)
    // DW_CFA_def_cfa_expression, 6 bytes: breg14 24; deref; plus_uconst 8; nop
    .cfi_escape 0x0f, 6, 0x7e, 24, 0x06, 0x23, 8, 0x96
    subq $512, %rsp
    call bottom
    movq %r14, %rsp
    .cfi_def_cfa %rsp, 56
    addq $40, %rsp
    .cfi_def_cfa_offset 16
    popq %r14
    .cfi_def_cfa_offset 8
    .cfi_restore %r14
    ret
    .cfi_endproc

    .type bottom, @function
bottom:
    .cfi_startproc
    nop
    ret
    .cfi_endproc
    .size bottom, .-bottom

// No call frame information, but a frame record, and a direct call that confirms it.
    .globl bare_with_frame
    .type bare_with_frame, @function
bare_with_frame:
    pushq %rbp
    movq %rsp, %rbp
    subq $32, %rsp
    .globl bare_body
bare_body:
    call bottom
    leave
    ret
    .size bare_with_frame, .-bare_with_frame

    .section .note.GNU-stack,"",@progbits
