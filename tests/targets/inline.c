// For tests of inlined frames of C: `hot` is not inlined; `level1`, `level2` and `level3` are
// inlined into it and each other. `@begin F` marks where F is declared, `@end F` its last line, and
// `@call F` the line that calls F: tests/tests/inlines.rs reads its expectations from these marks.
#include "truth.h"

#define ALWAYS static inline __attribute__((always_inline))

static volatile uint64_t sink;

ALWAYS uint64_t level3(uint64_t x, uint64_t n) // @begin level3
{
    for (uint64_t i = 0; i < n; i++)
        x = (x ^ (x >> 7)) * 6364136223846793005u;
    return x;
} // @end level3

ALWAYS uint64_t level2(uint64_t x, uint64_t n) // @begin level2
{
    x += 17;
    x = level3(x, n); // @call level3
    return x ^ 5;
} // @end level2

ALWAYS uint64_t level1(uint64_t x, uint64_t n) // @begin level1
{
    x ^= 99;
    return level2(x, n) + 1; // @call level2
} // @end level1

NOINLINE static void hot(uint64_t n) // @begin hot
{
    uint64_t x = sink;
    x = level1(x, n); // @call level1
    sink = x;
} // @end hot

int main(void) // @begin main
{
    struct truth_site *site = truth_site("hot");
    uint64_t iterations = truth_calibrate(hot, 4000000);
    truth_ready();
    while (truth_wait_go()) {
        uint64_t begin = truth_cpu();
        do {
            uint64_t from = truth_cpu();
            hot(iterations); // @call hot
            site->ns += truth_cpu() - from;
        } while (truth_continue(begin));
    }
    return truth_finish();
} // @end main
