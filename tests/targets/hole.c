// For tests of stacks with pages that were never touched: `hole` burns in `below_hole`, called by
// `with_hole`, whose frame is an array of twelve untouched pages. One thread follows another, so
// that each stack is new.
#include "truth.h"

#include <pthread.h>
#include <sys/prctl.h>

// CPU time of a thread, in ns.
#define EACH 120000000u

static struct truth_share shares[1];

NOINLINE static void below_hole(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    __asm__ volatile("" : : "r"(x));
}

NOINLINE static void with_hole(void)
{
    char array[12 * 4096];
    // The array must exist, and the compiler must not assume anything about its contents.
    __asm__ volatile("" : : "r"(array));
    while (truth_cpu() < EACH)
        truth_slice(&shares[0]);
    __asm__ volatile("" : : "r"(array));
}

static void *start(void *arg)
{
    with_hole();
    return arg;
}

int main(void)
{
    // A huge page would touch all of them.
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    shares[0] = (struct truth_share){ "below_hole", below_hole, 1, 0, NULL };
    truth_prepare(shares, 1, 4000000);
    truth_ready();
    pthread_attr_t fresh;
    pthread_attr_init(&fresh);
    while (truth_wait_go()) {
        while (truth_going) {
            pthread_t thread;
            // The C library reuses the stacks of ended threads, except large ones.
            pthread_attr_setstacksize(&fresh, 64 << 20);
            if (pthread_create(&thread, &fresh, start, NULL) != 0 || pthread_join(thread, NULL) != 0)
                return 3;
            truth_obey(0);
        }
    }
    return truth_finish();
}
