// For tests of forked children: for each `go MS`, `fork SHARES` forks a child that burns MS/2 in
// `child_burn` and forks a grandchild that burns MS/2 in `grandchild_burn`, forks a child that
// executes SHARES for MS, and burns MS itself in `parent_burn`. The truth is what wait4 reports for
// each child (the kernel's sum of its run time), so it includes fork and exec.
#include "truth.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

static volatile uint64_t sink;

#define BURN(name, constant)                                    \
    NOINLINE static void name(uint64_t ns)                      \
    {                                                           \
        uint64_t begin = truth_cpu(), x = begin;                \
        while (truth_cpu() - begin < ns)                        \
            for (int i = 0; i < 100000; i++)                    \
                x = x * constant + 1;                           \
        sink += x;                                              \
    }
BURN(parent_burn, 6364136223846793005u)
BURN(child_burn, 3935559000370003845u)
BURN(grandchild_burn, 2862933555777941757u)

static uint64_t reap(pid_t pid, int *status)
{
    struct rusage use;
    while (wait4(pid, status, 0, &use) < 0)
        if (errno != EINTR)
            abort();
    return ((uint64_t)use.ru_utime.tv_sec + (uint64_t)use.ru_stime.tv_sec) * 1000000000u
           + ((uint64_t)use.ru_utime.tv_usec + (uint64_t)use.ru_stime.tv_usec) * 1000u;
}

static pid_t fork_or_die(void)
{
    pid_t pid = fork();
    if (pid < 0)
        abort();
    return pid;
}

// Reports the grandchild's CPU time separately, through `report`.
static void child(uint64_t ns, int report)
{
    pid_t grandchild = fork_or_die();
    if (grandchild == 0) {
        grandchild_burn(ns);
        _exit(0);
    }
    child_burn(ns);
    int status;
    uint64_t took = reap(grandchild, &status);
    if (write(report, &took, sizeof took) != sizeof took)
        _exit(1);
    _exit(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct truth_site *parent = truth_site("parent_burn"), *first = truth_site("child_burn"),
                      *second = truth_site("grandchild_burn"), *execed = truth_site("shares");
    truth_ready();
    while (truth_wait_go()) {
        uint64_t goal = truth_goal_ns;
        int pipes[2], status;
        if (pipe(pipes) != 0)
            abort();
        pid_t forked = fork_or_die();
        if (forked == 0)
            child(goal / 2, pipes[1]);
        pid_t runs = fork_or_die();
        if (runs == 0) {
            char ms[32];
            int null = open("/dev/null", O_RDWR);
            dup2(null, 0);
            dup2(null, 1);
            snprintf(ms, sizeof ms, "%llu", (unsigned long long)(goal / 1000000));
            execl(argv[1], argv[1], "--burn", ms, (char *)NULL);
            _exit(127);
        }
        uint64_t begin = truth_cpu(), grandchild_ns = 0;
        parent_burn(goal);
        parent->ns += truth_cpu() - begin;
        if (read(pipes[0], &grandchild_ns, sizeof grandchild_ns) != sizeof grandchild_ns)
            abort();
        second->ns += grandchild_ns;
        // The kernel adds a reaped grandchild to RUSAGE_CHILDREN, and wait4 reports RUSAGE_BOTH, so
        // the grandchild's time is included and must be subtracted.
        first->ns += reap(forked, &status) - grandchild_ns;
        if (status != 0)
            abort();
        execed->ns += reap(runs, &status);
        if (status != 0)
            abort();
        close(pipes[0]);
        close(pipes[1]);
        truth_done();
    }
    return truth_finish();
}
