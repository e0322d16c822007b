#include "middle.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

volatile unsigned long sink;

unsigned long other(unsigned long x);

__attribute__((noinline)) static unsigned long local_work(unsigned long x, int unused) {
    unsigned long y = level1(x);
    if (__builtin_expect(y == 42, 0)) {
        fprintf(stderr, "cold %lu\n", y);
        abort();
    }
    return y + level1(y);
}

__attribute__((noinline)) unsigned long exported_work(unsigned long x) {
    return local_work(x, 0) + level2(x);
}

unsigned long alias_work(unsigned long x) __attribute__((alias("exported_work")));

int main(int argc, char **argv) {
    char buf[64];
    memset(buf, argc, sizeof buf);
    unsigned long n = argc > 1 ? strtoul(argv[1], 0, 10) : 10;
    for (unsigned long i = 0; i < n; i++)
        sink += exported_work(i) + other(i) + buf[i % 64];
    printf("%lu\n", sink);
    return 0;
}
