// The start of a thread by clone3, whose FDE has a gap at the system call, and a coroutine.
#include <pthread.h>
#include <ucontext.h>

#define KEEP __attribute__((noinline, noclone))

static volatile long sink;
static ucontext_t main_context, coroutine;
static char stack[64 << 10];

KEEP void in_coroutine(void) { sink++; }

static void body(void) {
    in_coroutine();
    sink++;
}

KEEP void in_thread(void) { sink += 5; }

static void *thread(void *p) {
    in_thread();
    sink++;
    return p;
}

int main(void) {
    getcontext(&coroutine);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = sizeof stack;
    coroutine.uc_link = &main_context;
    makecontext(&coroutine, body, 0);
    swapcontext(&main_context, &coroutine);
    pthread_t t;
    pthread_create(&t, 0, thread, 0);
    pthread_join(t, 0);
    return 0;
}
