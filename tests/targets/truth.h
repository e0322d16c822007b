// The handshake and the CPU accounting shared by all ground-truth programs.
//
// The program prints `ready KEY=VALUE...`, then obeys lines on stdin:
//   go MS   start working; MS > 0: stop after MS milliseconds of CPU time and print `done`
//   mark    print `truth NAME=NANOSECONDS...`: CPU time per site since the start
// and ends when stdin closes, after a last `truth` line.
//
// The printed numbers are measured with CLOCK_THREAD_CPUTIME_ID, not planned, so a busy machine
// changes the truth and the profile alike.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))

struct truth_site {
    const char *name;
    volatile uint64_t ns;
};

static struct truth_site truth_sites[64];
static int truth_count;
static volatile int truth_ended;  // stdin closed
static volatile int truth_going;  // between `go` and reaching the goal
static uint64_t truth_goal_ns;    // 0: no goal

static inline uint64_t truth_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((unused)) static struct truth_site *truth_site(const char *name)
{
    struct truth_site *site = &truth_sites[truth_count++];
    site->name = name;
    return site;
}

// Our own generator: cheap, and the same everywhere.
__attribute__((unused)) static uint32_t truth_random(void)
{
    static uint64_t state;
    if (!state) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        state = (uint64_t)t.tv_nsec * 2654435761u + (uint64_t)getpid() + 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static void truth_print(void)
{
    printf("truth");
    for (int i = 0; i < truth_count; i++)
        printf(" %s=%llu", truth_sites[i].name, (unsigned long long)truth_sites[i].ns);
    printf("\n");
    fflush(stdout);
}

// Obeys pending lines on stdin; waits up to `timeout_ms` (-1: forever) for the first one.
static void truth_obey(int timeout_ms)
{
    static char line[128];
    static size_t used;
    struct pollfd fd = { .fd = 0, .events = POLLIN, .revents = 0 };
    while (!truth_ended) {
        int n = poll(&fd, 1, timeout_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        char c;
        ssize_t got = read(0, &c, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            truth_ended = 1;
            truth_going = 0;
            return;
        }
        if (c != '\n') {
            if (used + 1 < sizeof line)
                line[used++] = c;
            continue;
        }
        line[used] = 0;
        used = 0;
        if (strncmp(line, "go ", 3) == 0) {
            truth_goal_ns = strtoull(line + 3, NULL, 10) * 1000000u;
            truth_going = 1;
        } else if (strcmp(line, "mark") == 0) {
            truth_print();
        } else {
            fprintf(stderr, "unknown command: %s\n", line);
            exit(2);
        }
        timeout_ms = 0;
    }
}

__attribute__((unused)) static void truth_ready(void)
{
    printf("ready pid=%d\n", (int)getpid());
    fflush(stdout);
}

// Waits idle until `go` or the end; returns true if there is work.
__attribute__((unused)) static int truth_wait_go(void)
{
    while (!truth_ended && !truth_going)
        truth_obey(-1);
    return !truth_ended;
}

__attribute__((unused)) static void truth_done(void)
{
    truth_going = 0;
    printf("done\n");
    fflush(stdout);
}

// For single-threaded programs: true while there is work. `begin` is the thread's CPU time when
// this work began.
__attribute__((unused)) static int truth_continue(uint64_t begin)
{
    truth_obey(0);
    if (truth_going && truth_goal_ns && truth_cpu() - begin >= truth_goal_ns)
        truth_done();
    return truth_going;
}

__attribute__((unused)) static int truth_finish(void)
{
    truth_print();
    return 0;
}

// The number of iterations of `run` that take about `ns` of CPU time.
__attribute__((unused)) static uint64_t truth_calibrate(void (*run)(uint64_t), uint64_t ns)
{
    uint64_t iterations = 1000;
    for (;;) {
        uint64_t begin = truth_cpu();
        run(iterations);
        uint64_t took = truth_cpu() - begin;
        if (took > 2000000)
            return (uint64_t)((double)iterations * (double)ns / (double)took) + 1;
        iterations *= 2;
    }
}

// Slices in random order and of random length (75..125% of `slice_ns`); each round has the exact
// proportions of the weights. Random, so that sampling cannot be in step with them.
struct truth_share {
    const char *name;
    void (*run)(uint64_t);
    int weight;
    uint64_t iterations;
    struct truth_site *site;
};

__attribute__((unused)) static void truth_prepare(struct truth_share *shares, int n, uint64_t slice_ns)
{
    for (int i = 0; i < n; i++) {
        shares[i].site = truth_site(shares[i].name);
        shares[i].iterations = truth_calibrate(shares[i].run, slice_ns);
    }
}

__attribute__((unused)) static void truth_slice(struct truth_share *share)
{
    uint64_t iterations = share->iterations * (75 + truth_random() % 51) / 100 + 1;
    uint64_t begin = truth_cpu();
    share->run(iterations);
    share->site->ns += truth_cpu() - begin;
}

__attribute__((unused)) static void truth_work(struct truth_share *shares, int n)
{
    int order[256], slots = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < shares[i].weight; k++)
            order[slots++] = i;
    uint64_t begin = truth_cpu();
    for (;;) {
        for (int i = slots - 1; i > 0; i--) {
            int k = (int)(truth_random() % (uint32_t)(i + 1)), swap = order[i];
            order[i] = order[k];
            order[k] = swap;
        }
        for (int i = 0; i < slots; i++) {
            truth_slice(&shares[order[i]]);
            if (!truth_continue(begin))
                return;
        }
    }
}
