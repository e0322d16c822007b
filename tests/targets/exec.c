// For tests of an exec during the recording: `exec SHARES` burns its goal in `before_exec` and
// executes SHARES under the same PID, which burns as much again and prints `done`. Samples of both
// programs must be symbolized with their own program.
#include "truth.h"

static volatile uint64_t sink;

NOINLINE static void before_exec(uint64_t ns)
{
    uint64_t begin = truth_cpu(), x = begin;
    while (truth_cpu() - begin < ns)
        for (int i = 0; i < 100000; i++)
            x = x * 6364136223846793005u + 1;
    sink += x;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct truth_site *site = truth_site("before_exec");
    truth_ready();
    if (truth_wait_go()) {
        uint64_t begin = truth_cpu();
        char ms[32];
        before_exec(truth_goal_ns);
        site->ns = truth_cpu() - begin;
        truth_print();
        snprintf(ms, sizeof ms, "%llu", (unsigned long long)(truth_goal_ns / 1000000));
        execl(argv[1], argv[1], "--burn", ms, (char *)NULL);
        return 127;
    }
    return truth_finish();
}
