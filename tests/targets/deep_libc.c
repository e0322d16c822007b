// For tests of unwinding out of libc, the vDSO and the kernel; each site takes a fifth of the CPU
// time:
//   in_qsort     qsort with our callback (`compare_items`) leafward of libc's frames
//   in_bsearch   bsearch likewise (`compare_keys`)
//   in_memcpy    a memcpy of 1 MiB: the leaf is an assembly routine of libc
//   in_vdso      clock_gettime(CLOCK_MONOTONIC): the leaf is in the vDSO
//   in_kernel    reads 1 MiB from /dev/zero: the leaf is in the kernel
#include "truth.h"

#include <fcntl.h>

static volatile uint64_t sink;
static int items[4096], sorted[4096];
static char from[1 << 20], to[1 << 20];
static int zero;

NOINLINE static int compare_items(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

NOINLINE static int compare_keys(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    sink += 1;
    return (x > y) - (x < y);
}

NOINLINE static void in_qsort(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        memcpy(sorted, items, sizeof sorted);
        qsort(sorted, 4096, sizeof *sorted, compare_items);
    }
    sink += (uint64_t)sorted[0];
}

NOINLINE static void in_bsearch(uint64_t n)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < n; i++) {
        int key = (int)(i * 2654435761u % 4096);
        found += bsearch(&key, sorted, 4096, sizeof *sorted, compare_keys) != NULL;
    }
    sink += found;
}

NOINLINE static void in_memcpy(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        memcpy(to, from, sizeof to);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    sink += (uint64_t)to[0];
}

NOINLINE static void in_vdso(uint64_t n)
{
    struct timespec t = { 0, 0 };
    for (uint64_t i = 0; i < n; i++)
        clock_gettime(CLOCK_MONOTONIC, &t);
    sink += (uint64_t)t.tv_nsec;
}

NOINLINE static void in_kernel(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (read(zero, to, sizeof to) < 0)
            abort();
    sink += 1;
}

static struct truth_share shares[] = {
    { "in_qsort", in_qsort, 1, 0, NULL },   { "in_bsearch", in_bsearch, 1, 0, NULL },
    { "in_memcpy", in_memcpy, 1, 0, NULL }, { "in_vdso", in_vdso, 1, 0, NULL },
    { "in_kernel", in_kernel, 1, 0, NULL },
};

int main(void)
{
    zero = open("/dev/zero", O_RDONLY);
    if (zero < 0)
        return 3;
    for (int i = 0; i < 4096; i++) {
        items[i] = (int)(truth_random() >> 1);
        sorted[i] = i;
    }
    memset(from, 1, sizeof from);
    truth_prepare(shares, 5, 4000000);
    truth_ready();
    while (truth_wait_go())
        truth_work(shares, 5);
    return truth_finish();
}
