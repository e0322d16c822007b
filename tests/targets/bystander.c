// A process that is not recorded and repeats the cheapest system call. `truth` gives the number of
// calls and the CPU time.
#include "truth.h"
#include <sys/syscall.h>

int main(void)
{
    struct truth_site *calls = truth_site("calls"), *cpu = truth_site("cpu");
    truth_ready();
    if (!truth_wait_go())
        return truth_finish();
    while (!truth_ended) {
        uint64_t before = truth_cpu();
        for (int i = 0; i < 10000; i++)
            syscall(SYS_getppid);
        cpu->ns += truth_cpu() - before;
        calls->ns += 10000;
        truth_obey(0);
    }
    return truth_finish();
}
