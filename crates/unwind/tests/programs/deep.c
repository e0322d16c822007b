// A stack of a known depth: between `bottom` and `main` are as many frames as the argument says
// (default: 16), of two alternating functions with different frame layouts.
#include <stdlib.h>

#define KEEP __attribute__((noinline, noclone))

static volatile long sink;

KEEP void bottom(void) { sink++; }

KEEP long even(long n);

KEEP long odd(long n) {
    volatile long local[7];
    local[n & 3] = n;
    long below = n > 1 ? even(n - 1) : (bottom(), 0);
    return below * 3 + local[n & 3];
}

KEEP long even(long n) {
    volatile long local[2];
    local[n & 1] = sink;
    long a = sink, b = sink * 3, c = sink * 5;
    long below = n > 1 ? odd(n - 1) : (bottom(), 0);
    return below + local[n & 1] + a * b * c;
}

int main(int argc, char **argv) {
    sink += even(argc > 1 ? atol(argv[1]) : 16);
    return 0;
}
