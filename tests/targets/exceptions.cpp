// For tests of unwinding through C++ exception handling: `throwing` repeatedly throws from 20
// frames down and catches at the top. Its share includes libgcc's unwinder, whose own frames
// (_Unwind_RaiseException and the code that restores registers) are hard to unwind. `calm` is the
// control.
#include "truth.h"

#include <stdexcept>

static volatile uint64_t sink;

NOINLINE static uint64_t thrower(int depth)
{
    if (depth == 0)
        throw std::runtime_error("deep");
    uint64_t below = thrower(depth - 1);
    return below + static_cast<uint64_t>(depth) + sink;
}

NOINLINE static void throwing(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        try {
            sink = sink + thrower(20);
        } catch (const std::exception &caught) {
            sink = sink + static_cast<uint64_t>(caught.what()[0]);
        }
    }
}

NOINLINE static void calm(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    sink = sink + x;
}

static truth_share shares[] = {
    { "throwing", throwing, 7, 0, nullptr },
    { "calm", calm, 3, 0, nullptr },
};

int main()
{
    truth_prepare(shares, 2, 4000000);
    truth_ready();
    while (truth_wait_go())
        truth_work(shares, 2);
    return truth_finish();
}
