    .text
    .globl asm_sized
    .type asm_sized, @function
asm_sized:
    nop
    nop
    ret
    .size asm_sized, .-asm_sized

    .globl asm_label
asm_label:
    nop
    ret
asm_second:
    nop
    nop
    ret
    .section .note.GNU-stack,"",@progbits
