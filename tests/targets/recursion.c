// For tests of deep stacks: `recursion small DEPTH` and `recursion big DEPTH` call exactly DEPTH
// frames of `descend_small` (some 50 bytes each) or `descend_big` (over 70 KiB each, more than the
// largest window a kernel copies), below which `bottom_burn` burns 50 ms of CPU time at a time.
// This runs in a thread with a stack of 512 MiB, so the caller's limits do not matter.
#include "truth.h"

#include <pthread.h>

static volatile uint64_t sink;
static struct truth_site *bottom;
static uint64_t burst, begin;
static int depth, big;

NOINLINE static uint64_t bottom_burn(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    return x;
}

// The result is used after the call, so there are no tail calls.
NOINLINE static uint64_t descend_small(int left)
{
    if (left == 0) {
        uint64_t from = truth_cpu(), x = 0;
        while (truth_cpu() - from < 50000000)
            x += bottom_burn(burst);
        bottom->ns += truth_cpu() - from;
        return x;
    }
    uint64_t below = descend_small(left - 1);
    return below * 31 + (uint64_t)left + sink;
}

NOINLINE static uint64_t descend_big(int left)
{
    volatile char room[70 * 1024];
    room[left % sizeof room] = (char)left;
    if (left == 0) {
        uint64_t from = truth_cpu(), x = 0;
        while (truth_cpu() - from < 50000000)
            x += bottom_burn(burst);
        bottom->ns += truth_cpu() - from;
        return x + (uint64_t)room[0];
    }
    uint64_t below = descend_big(left - 1);
    return below * 31 + (uint64_t)room[left % sizeof room];
}

static void *thread(void *nothing)
{
    begin = truth_cpu();
    // DEPTH frames: `left` runs from DEPTH-1 down to 0.
    do {
        sink += big ? descend_big(depth - 1) : descend_small(depth - 1);
    } while (truth_continue(begin));
    return nothing;
}

static void calibrated(uint64_t n)
{
    sink += bottom_burn(n);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    big = strcmp(argv[1], "big") == 0;
    depth = atoi(argv[2]);
    bottom = truth_site("bottom_burn");
    burst = truth_calibrate(calibrated, 1000000);
    pthread_attr_t large;
    pthread_attr_init(&large);
    if (pthread_attr_setstacksize(&large, (size_t)512 << 20) != 0)
        return 3;
    truth_ready();
    while (truth_wait_go()) {
        pthread_t id;
        if (pthread_create(&id, &large, thread, NULL) != 0)
            return 3;
        pthread_join(id, NULL);
    }
    return truth_finish();
}
