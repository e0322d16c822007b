// Signal handlers on the thread's own stack, on an alternate stack, nested, and at the first
// instruction of a function (the debugger sends that signal).
#include <signal.h>
#include <stdlib.h>

#define KEEP __attribute__((noinline, noclone))

static volatile long sink;

KEEP void in_handler(int n) { sink += n; }

static void on_usr1(int n) {
    in_handler(n);
    sink++;
}

static void on_usr2(int n) {
    raise(SIGUSR1);
    in_handler(n);
    sink++;
}

KEEP void victim(void) { sink += 3; }

KEEP void calls_victim(void) {
    victim();
    sink++;
}

KEEP void calls_null(void) {
    void (*volatile f)(void) = 0;
    f();
    sink++;
}

static char alternate[64 << 10];

int main(int argc, char **argv) {
    (void)argv;
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, 0);
    struct sigaction usr1 = {.sa_handler = on_usr1};
    struct sigaction usr2 = {.sa_handler = on_usr2, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &usr1, 0);
    sigaction(SIGUSR2, &usr2, 0);
    calls_victim();
    raise(SIGUSR2);
    if (argc > 1) calls_null();
    return 0;
}
