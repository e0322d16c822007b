// What a thread has used so far: wall time, CPU time, and the time it was runnable without a CPU.
#include "truth.h"
#include <fcntl.h>

static inline uint64_t wall(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// The second number in schedstat.
static inline uint64_t run_delay(void)
{
    static __thread int fd = -1;
    char text[80];
    if (fd < 0)
        fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    if (got <= 0)
        abort();
    text[got] = 0;
    char *second;
    strtoull(text, &second, 10);
    return strtoull(second, NULL, 10);
}

struct spent {
    uint64_t wall, cpu, delay;
};

// A consistent reading: the thread did not wait for a CPU between the three. On a busy machine it
// often waits for milliseconds, which would be counted as sleep.
static inline struct spent spent(void)
{
    uint64_t delay = run_delay();
    for (;;) {
        struct spent now = { wall(), truth_cpu(), delay };
        delay = run_delay();
        if (delay == now.delay)
            return now;
    }
}

// Time asleep. A negative difference means that it did not wait and reading the clocks took longer.
static inline uint64_t slept(struct spent from, struct spent to)
{
    int64_t ns = (int64_t)(to.wall - from.wall) - (int64_t)(to.cpu - from.cpu) - (int64_t)(to.delay - from.delay);
    return ns > 0 ? (uint64_t)ns : 0;
}
