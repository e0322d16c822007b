// Threads that never stay long in one place: `restless N`.
// Each thread repeatedly calls `left_leaf` through `left` or `right_leaf` through `right`, works
// there for a fraction of a millisecond, overwriting the place of the other's frames, and waits for
// about as long. Its stack then no longer shows where it waited last. A stack that contains both,
// or is broken, never existed.
// The kernel does not restart these waits (signal(7), epoll_wait): `eintr` counts those that failed
// because the thread was stopped. `waits` counts all of them.
#include "truth.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

static struct truth_site *eintr, *waits;
static int epoll;

// `room` holds MARK_side, then the same byte everywhere while the thread waits, and a mixture while
// it works. The sizes of the two rooms differ, so that frames of one side are not where those of
// the other were.
#define MARK_left 0x6c656674726f6f6dull
#define MARK_right 0x72696768726f6f6dull

#define SIDE(side, bytes) \
    NOINLINE static void side##_leaf(volatile char *room, unsigned n) \
    { \
        struct epoll_event event; \
        struct timespec time = { 0, (long)(n % 100) * 1000 }; \
        *(volatile uint64_t *)room = MARK_##side; \
        for (unsigned i = 0; i < 40000; i++) \
            room[8 + i * (bytes - 8) / 40000] = (char)n; \
        if (epoll_pwait2(epoll, &event, 1, &time, NULL) < 0 && errno == EINTR) \
            __atomic_add_fetch(&eintr->ns, 1, __ATOMIC_RELAXED); \
        __atomic_add_fetch(&waits->ns, 1, __ATOMIC_RELAXED); \
    } \
    NOINLINE static void side(unsigned n) \
    { \
        volatile char room[bytes] __attribute__((aligned(8))); \
        side##_leaf(room, n); \
        room[bytes - 1] = 0; \
    }

SIDE(left, 96)
SIDE(right, 1504)

static void *restless(void *arg)
{
    prctl(PR_SET_NAME, "restless");
    unsigned n = (unsigned)(uintptr_t)arg * 7919;
    for (;;) {
        n = n * 1664525 + 1013904223;
        if (n & 1 << 20)
            left(n >> 8);
        else
            right(n >> 8);
    }
    return arg;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 4;
    eintr = truth_site("eintr");
    waits = truth_site("waits");
    epoll = epoll_create1(0);
    for (int i = 0; i < threads; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, restless, (void *)(uintptr_t)(i + 1)))
            return 3;
    }
    truth_ready();
    while (!truth_ended)
        truth_obey(-1);
    return truth_finish();
}
