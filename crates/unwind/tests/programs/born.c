// A system call in code without call frame information, like that in glibc's clone3.
char stack[4096] __attribute__((aligned(16)));

__asm__(".globl call, returned; call: syscall; returned: ret");

int main(void) {
    long result = 39; // getpid; the result is not used
    __asm__ volatile("call call" : "+a"(result) : : "rcx", "r11", "memory");
    return result < 0;
}
