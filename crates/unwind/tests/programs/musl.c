// musl's own code has no call frame information: here `__clone`, which a child begins in.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

static _Alignas(16) char stack[64 << 10];
static volatile int sink;

__attribute__((noinline, noclone)) static int in_child(void *p) {
    (void)p;
    return sink++;
}

int main(void) {
    clone(in_child, stack + sizeof stack, SIGCHLD, 0);
    return wait(0) < 0;
}
