#pragma once

#define ALWAYS static inline __attribute__((always_inline))

extern volatile unsigned long sink;

ALWAYS unsigned long level4(unsigned long x) {
    for (int i = 0; i < 3; i++)
        sink += x ^ i;
    return x * 31 + sink;
}

ALWAYS unsigned long level3(unsigned long x) {
    unsigned long a = level4(x + 1);
    return a + level4(a ^ x);
}
