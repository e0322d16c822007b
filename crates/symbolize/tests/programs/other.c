#include "middle.h"

unsigned long other(unsigned long x) {
    return level1(x) ^ level3(x);
}

unsigned long second(unsigned long x) {
    return level2(x) + 1;
}
