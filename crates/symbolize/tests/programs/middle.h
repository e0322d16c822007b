#pragma once
#include "inlined.h"

ALWAYS unsigned long level2(unsigned long x) {
    sink++;
    return level3(x) + level3(x >> 1);
}

ALWAYS unsigned long level1(unsigned long x) {
    if (x & 1)
        return level2(x);
    return level2(x * 3) - 1;
}
