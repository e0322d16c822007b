// For tests of inlined frames of C++: templates and member functions inlined into `hot`. The marks
// are explained in inline.c.
#include "truth.h"

#define ALWAYS inline __attribute__((always_inline))

static volatile uint64_t sink;

namespace mixing {

template <typename T> struct Mixer {
    T state;

    ALWAYS void step(T by) // @begin step
    {
        state = (state ^ (state >> 7)) * by;
    } // @end step

    template <int N> ALWAYS T many(uint64_t n) // @begin many
    {
        for (uint64_t i = 0; i < n; i++)
            step(6364136223846793005u + N); // @call step
        return state;
    } // @end many
};

ALWAYS uint64_t run(uint64_t seed, uint64_t n) // @begin run
{
    Mixer<uint64_t> mixer{ seed };
    return mixer.many<4>(n); // @call many
} // @end run

} // namespace mixing

NOINLINE static void hot(uint64_t n) // @begin hot
{
    uint64_t x = sink;
    x = mixing::run(x, n); // @call run
    sink = x;
} // @end hot

int main() // @begin main
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
