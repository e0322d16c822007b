// For tests that idle time costs nothing and is not counted: two threads sleep and wake every 10 ms
// to burn 0.2 ms in `short_work`, which uses some 4% of one CPU.
#include "truth.h"

#include <pthread.h>

static volatile uint64_t sink;
static struct truth_site *site;
static uint64_t iterations;

NOINLINE static void short_work(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    __atomic_fetch_add(&sink, x, __ATOMIC_RELAXED);
}

static void *sleeper(void *nothing)
{
    struct timespec pause = { 0, 10000000 };
    while (truth_going) {
        nanosleep(&pause, NULL);
        uint64_t begin = truth_cpu();
        short_work(iterations);
        __atomic_fetch_add(&site->ns, truth_cpu() - begin, __ATOMIC_RELAXED);
    }
    return nothing;
}

int main(void)
{
    site = truth_site("short_work");
    iterations = truth_calibrate(short_work, 200000);
    truth_ready();
    while (truth_wait_go()) {
        pthread_t threads[2];
        for (int i = 0; i < 2; i++)
            if (pthread_create(&threads[i], NULL, sleeper, NULL) != 0)
                return 3;
        while (truth_going)
            truth_obey(-1);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
    }
    return truth_finish();
}
