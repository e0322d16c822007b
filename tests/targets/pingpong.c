// Two threads on one CPU that wake each other by a futex as fast as they can: some hundred thousand
// context switches a second. `truth` gives the rounds and the CPU time of both.
#include "truth.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

static volatile uint32_t turn;
static struct truth_site *rounds, *cpu;

static void *play(void *arg)
{
    uint32_t mine = (uint32_t)(uintptr_t)arg;
    uint64_t before = truth_cpu();
    for (uint64_t n = 0; !truth_ended; n++) {
        while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != mine && !truth_ended)
            syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 1 - mine, NULL, NULL, 0);
        __atomic_store_n(&turn, 1 - mine, __ATOMIC_RELEASE);
        syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        if (n % 256 == 0) {
            uint64_t now = truth_cpu();
            __atomic_add_fetch(&cpu->ns, now - before, __ATOMIC_RELAXED);
            before = now;
            if (!mine)
                rounds->ns += 256;
        }
    }
    return arg;
}

int main(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    rounds = truth_site("rounds");
    cpu = truth_site("cpu");
    truth_ready();
    if (!truth_wait_go())
        return truth_finish();
    for (uintptr_t i = 0; i < 2; i++) {
        pthread_t t;
        pthread_attr_t on_one;
        pthread_attr_init(&on_one);
        pthread_attr_setaffinity_np(&on_one, sizeof one, &one);
        if (pthread_create(&t, &on_one, play, (void *)i))
            abort();
    }
    while (!truth_ended)
        truth_obey(-1);
    return truth_finish();
}
