// For tests that children are found without perf events: for each `go MS`, `offspring SHARES` forks
// a child that sleeps MS/2 in `child_sleeps`, forks a grandchild that sleeps MS/2 in
// `grandchild_sleeps` and then burns MS/2 in `grandchild_burns`, and waits for it in `child_waits`;
// and a child that executes SHARES for MS/2. The truth is wall-clock time. In `child_creates`, the
// child also creates a thread that ends immediately.
#include "truth.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

static volatile uint64_t sink;
// Shared memory of all processes.
static struct {
    uint64_t child_sleeps, child_waits, grandchild_sleeps, grandchild_burns;
} *took;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
    struct timespec rest = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
    while (nanosleep(&rest, &rest) != 0)
        if (errno != EINTR)
            abort();
}

NOINLINE static uint64_t child_sleeps(uint64_t ns)
{
    uint64_t begin = now();
    sleep_ns(ns);
    return now() - begin;
}

NOINLINE static uint64_t grandchild_sleeps(uint64_t ns)
{
    uint64_t begin = now();
    sleep_ns(ns);
    // Without this, the compiler would merge this function with child_sleeps.
    sink += 1;
    return now() - begin;
}

NOINLINE static uint64_t grandchild_burns(uint64_t ns)
{
    uint64_t begin = now(), x = begin;
    while (truth_cpu() < ns)
        for (int i = 0; i < 100000; i++)
            x = x * 2862933555777941757u + 1;
    sink += x;
    return now() - begin;
}

static void reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            abort();
    if (status != 0)
        abort();
}

NOINLINE static uint64_t child_waits(pid_t pid)
{
    uint64_t begin = now();
    reap(pid);
    return now() - begin;
}

static void *nothing(void *arg)
{
    return arg;
}

NOINLINE static void child_creates(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        abort();
}

static pid_t fork_or_die(void)
{
    pid_t pid = fork();
    if (pid < 0)
        abort();
    return pid;
}

static void child(uint64_t ns)
{
    child_creates();
    took->child_sleeps += child_sleeps(ns);
    pid_t grandchild = fork_or_die();
    if (grandchild == 0) {
        took->grandchild_sleeps += grandchild_sleeps(ns);
        took->grandchild_burns += grandchild_burns(ns);
        _exit(0);
    }
    took->child_waits += child_waits(grandchild);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    took = mmap(NULL, sizeof *took, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (took == MAP_FAILED)
        return 3;
    struct truth_site *sleeps = truth_site("child_sleeps"), *waits = truth_site("child_waits"),
                      *sleeps_too = truth_site("grandchild_sleeps"),
                      *burns = truth_site("grandchild_burns"), *execed = truth_site("shares");
    truth_ready();
    while (truth_wait_go()) {
        uint64_t goal = truth_goal_ns / 2;
        pid_t forked = fork_or_die();
        if (forked == 0)
            child(goal);
        uint64_t begin = now();
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
        reap(runs);
        execed->ns += now() - begin;
        reap(forked);
        sleeps->ns = took->child_sleeps;
        waits->ns = took->child_waits;
        sleeps_too->ns = took->grandchild_sleeps;
        burns->ns = took->grandchild_burns;
        truth_done();
    }
    return truth_finish();
}
