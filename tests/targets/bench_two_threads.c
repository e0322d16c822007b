// The load that scripts/bench profiles: two threads, always busy, with stacks of 15 to 20 frames
// below the thread's start that differ from sample to sample, without frame pointers.
//
// An operation runs a little interpreter over an expression tree, sorts the values and computes a
// checksum; it takes about 20 us and is exactly the same work each time. Threads share nothing. The
// program prints `ready pid=PID`, answers each line on stdin with
//   mark ops=N cpu=NANOSECONDS wall=NANOSECONDS
// (operations of both threads so far, their CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC), and ends
// when stdin closes.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
#define THREADS 2
#define VALUES 48

struct state {
    uint64_t seed;
    uint64_t values[VALUES];
    unsigned count;
    uint64_t sum;
};

struct worker {
    pthread_t thread;
    volatile uint64_t ops;
    volatile uint64_t sum;
} __attribute__((aligned(128)));

static struct worker workers[THREADS];
static volatile int ended;

static uint64_t next(struct state *s)
{
    s->seed ^= s->seed << 13;
    s->seed ^= s->seed >> 7;
    return s->seed ^= s->seed << 17;
}

// Leaves: most of the time is spent here, each in its own loop.
NOINLINE static uint64_t leaf_mix(uint64_t x, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return x;
}

NOINLINE static uint64_t leaf_divide(uint64_t x, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        x += 0xfedcba9876543210u / (x | 1);
    return x;
}

NOINLINE static uint64_t leaf_bits(uint64_t x, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        x = (x << 1) ^ ((uint64_t)__builtin_popcountll(x) * 0x9e3779b97f4a7c15u);
    return x;
}

static uint64_t evaluate(struct state *s, unsigned depth, uint64_t x);

// One function per kind of node, with frames of different sizes and saved registers, like real
// code.
NOINLINE static uint64_t node_add(struct state *s, unsigned depth, uint64_t x)
{
    uint64_t left = evaluate(s, depth, x);
    return left + (depth & 1 ? leaf_mix(left ^ x, 24) : x);
}

NOINLINE static uint64_t node_multiply(struct state *s, unsigned depth, uint64_t x)
{
    volatile uint64_t spilled[6] = { x, x + 1, x + 2, depth, 0, 0 };
    spilled[4] = evaluate(s, depth, x + spilled[3]);
    spilled[5] = leaf_bits(spilled[4], 16);
    return spilled[5] * spilled[1];
}

NOINLINE static uint64_t node_branch(struct state *s, unsigned depth, uint64_t x)
{
    uint64_t test = leaf_mix(x, 8);
    uint64_t taken = evaluate(s, depth, test);
    return test & 1 ? taken : ~taken;
}

NOINLINE static uint64_t node_load(struct state *s, unsigned depth, uint64_t x)
{
    volatile char frame[200];
    frame[x % sizeof frame] = (char)x;
    uint64_t found = evaluate(s, depth, x ^ s->values[x % VALUES]);
    return found + (uint64_t)frame[x % sizeof frame];
}

static uint64_t (*const nodes[4])(struct state *, unsigned, uint64_t) = { node_add, node_multiply,
                                                                        node_branch, node_load };

NOINLINE static uint64_t evaluate(struct state *s, unsigned depth, uint64_t x)
{
    if (depth == 0)
        return leaf_divide(x, 12) + leaf_mix(x, 40);
    return nodes[(x ^ s->seed) & 3](s, depth - 1, x + depth) + 1;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

NOINLINE static void collect_values(struct state *s)
{
    for (unsigned i = 0; i < VALUES; i++) {
        s->values[i] = evaluate(s, 5 + i % 3, next(s));
        s->sum += 1;
    }
}

NOINLINE static void order_values(struct state *s)
{
    qsort(s->values, VALUES, sizeof *s->values, compare);
    s->sum += s->values[0];
}

NOINLINE static void run_stage(struct state *s, void (*stage)(struct state *))
{
    stage(s);
    s->count++;
}

NOINLINE static void run_program(struct state *s)
{
    run_stage(s, collect_values);
    run_stage(s, order_values);
    s->sum ^= leaf_bits(s->values[VALUES / 2], 64);
}

NOINLINE static uint64_t handle_request(uint64_t seed)
{
    struct state s = { .seed = seed };
    run_program(&s);
    return s.sum;
}

NOINLINE static void serve(struct worker *w)
{
    // The same few requests in turn: operations cost the same, averaged over a few.
    static const uint64_t seeds[4] = { 0x12345, 0x98765432, 0xabcdef0123, 0x55aa55aa55aa };
    while (!ended) {
        w->sum += handle_request(seeds[w->ops & 3]);
        w->ops++;
    }
}

static void *bench_worker(void *argument)
{
    serve(argument);
    return NULL;
}

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(void)
{
    clockid_t clocks[THREADS];
    for (int i = 0; i < THREADS; i++) {
        if (pthread_create(&workers[i].thread, NULL, bench_worker, &workers[i]) != 0
            || pthread_getcpuclockid(workers[i].thread, &clocks[i]) != 0)
            return 3;
    }
    printf("ready pid=%d\n", (int)getpid());
    fflush(stdout);
    for (int c; (c = getchar()) != EOF;) {
        if (c != '\n')
            continue;
        uint64_t ops = 0, cpu = 0;
        for (int i = 0; i < THREADS; i++) {
            ops += workers[i].ops;
            cpu += now(clocks[i]);
        }
        printf("mark ops=%llu cpu=%llu wall=%llu\n", (unsigned long long)ops,
               (unsigned long long)cpu, (unsigned long long)now(CLOCK_MONOTONIC));
        fflush(stdout);
    }
    ended = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    return 0;
}
