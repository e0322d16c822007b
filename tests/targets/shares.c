// For tests of CPU shares: four functions take 50, 30, 15 and 5% of the CPU time, in slices of
// about 4 ms in random order. `heavy_d` spends its time in a callee (`leaf_of_d`), so flat and
// cumulative differ. Built as PIE, without PIE, static, static-pie, with musl, and stripped.
//
// `shares --burn MS` needs no handshake: it burns immediately, prints `done` and waits for stdin to
// close (used by fork.c and exec.c).
#include "truth.h"

static volatile uint64_t sink;

// The bodies differ in constants, else -fipa-icf would fold them into one function.
NOINLINE static void heavy_a(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1442695040888963407u;
    sink += x;
}

NOINLINE static void heavy_b(uint64_t n)
{
    uint64_t x = n | 1;
    for (uint64_t i = 0; i < n; i++)
        x = (x ^ (x >> 7)) * 3935559000370003845u;
    sink += x;
}

NOINLINE static void heavy_c(uint64_t n)
{
    double x = (double)(n & 15) + 2.0;
    for (uint64_t i = 0; i < n; i++)
        x = x / 1.000001 + 0.5;
    sink += (uint64_t)x;
}

NOINLINE static uint64_t leaf_of_d(uint64_t n)
{
    uint64_t x = n + 3;
    for (uint64_t i = 0; i < n; i++)
        x += (x << 5) ^ (x >> 3) ^ i;
    return x;
}

NOINLINE static void heavy_d(uint64_t n)
{
    sink += leaf_of_d(n) + 1;
}

static struct truth_share shares[] = {
    { "heavy_a", heavy_a, 10, 0, NULL },
    { "heavy_b", heavy_b, 6, 0, NULL },
    { "heavy_c", heavy_c, 3, 0, NULL },
    { "heavy_d", heavy_d, 1, 0, NULL },
};

int main(int argc, char **argv)
{
    truth_prepare(shares, 4, 4000000);
    if (argc == 3 && strcmp(argv[1], "--burn") == 0) {
        truth_goal_ns = strtoull(argv[2], NULL, 10) * 1000000u;
        uint64_t begin = truth_cpu();
        for (int i = 0; truth_cpu() - begin < truth_goal_ns; i++)
            truth_slice(&shares[i % 20 < 10 ? 0 : i % 20 < 16 ? 1 : i % 20 < 19 ? 2 : 3]);
        truth_done();
    } else {
        truth_ready();
    }
    while (truth_wait_go())
        truth_work(shares, 4);
    return truth_finish();
}
