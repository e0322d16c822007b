// An entry point without call frame information.
#define KEEP __attribute__((noinline, noclone))

static volatile long sink;

KEEP void bottom(void) { sink++; }

KEEP void calls(void) {
    bottom();
    sink++;
    __asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall");
}

__asm__(".globl _start; _start: xor %ebp, %ebp; call calls; hlt");
