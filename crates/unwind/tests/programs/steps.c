// A program for stepping through each instruction: prologues, epilogues, PLT stubs with lazy
// binding, callbacks of the C library, the vdso, alloca, and a realigned stack.
#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KEEP __attribute__((noinline, noclone))

static volatile long sink;

KEEP static int compare(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

KEEP static long many(long a, long b, long c, long d, long e, long f, long g, long h) {
    volatile long local[12];
    for (int i = 0; i < 3; i++) local[i] = a + b * i;
    sink += local[1];
    return local[2] + c + d + e + f + g + h + strlen(getenv("HOME") ? "x" : "yy");
}

KEEP static long with_alloca(long n) {
    char *p = alloca(n);
    memset(p, 1, n);
    sink += p[n / 2];
    return many(1, 2, 3, 4, 5, 6, 7, n);
}

// A realigned stack with a part of variable size: GCC's prologue addresses the arguments via r10.
KEEP static long realigned(long n) {
    _Alignas(64) volatile char aligned[128];
    char *p = alloca(n);
    memset(p, 2, n);
    aligned[5] = p[1];
    sink += aligned[5];
    return with_alloca(n + 3) + aligned[5];
}

KEEP static void sort(void) {
    int numbers[6] = {5, 2, 6, 1, 4, 3};
    qsort(numbers, 6, sizeof numbers[0], compare);
    sink += numbers[0];
}

KEEP static void clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    sink += t.tv_nsec;
}

KEEP void start(void) {
    sink += realigned(100);
    clock_now();
    clock_now();
    sort();
}

int main(void) {
    start();
    return 0;
}
