// For tests of every thread's CPU time, in these modes:
//   threads fixed N    N threads; thread i burns (i+1)/N of the goal, then waits
//   threads churn N    threads that live for 20 ms of CPU each, N at a time, until the goal;
//                      none of them exists when the recording starts
//   threads brief N    as churn, but with 0.05 ms of CPU each
//   threads many N     N threads that each burn 1/N of the goal in slices of 1 ms
//   threads rename N   as fixed, but halfway every thread changes its name
// Functions: burn_0 .. burn_3 by thread number modulo 4, so that stacks distinguish threads.
#include "truth.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static volatile uint64_t sink;

#define BURN(k, constant)                                       \
    NOINLINE static void burn_##k(uint64_t n)                   \
    {                                                           \
        uint64_t x = n;                                         \
        for (uint64_t i = 0; i < n; i++)                        \
            x = x * constant + 1;                               \
        __atomic_fetch_add(&sink, x, __ATOMIC_RELAXED);         \
    }
BURN(0, 6364136223846793005u)
BURN(1, 3935559000370003845u)
BURN(2, 2862933555777941757u)
BURN(3, 1181783497276652981u)

static void (*const burns[4])(uint64_t) = { burn_0, burn_1, burn_2, burn_3 };
static uint64_t per_ms;
static struct truth_site *sites[4];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int generation, started, finished;
static int count;
static enum { FIXED, CHURN, MANY, RENAME } mode;
static uint64_t life = 20000000; // CPU nanoseconds of a CHURN thread

static void name_self(const char *prefix, int index)
{
    char name[16];
    snprintf(name, sizeof name, "%s%d", prefix, index);
    prctl(PR_SET_NAME, name);
}

NOINLINE static void burn_for(int index, uint64_t ns)
{
    uint64_t begin = truth_cpu(), last = begin;
    while (!truth_ended && last - begin < ns) {
        burns[index % 4](ns < 1000000 ? per_ms / 50 : per_ms);
        uint64_t now = truth_cpu();
        __atomic_fetch_add(&sites[index % 4]->ns, now - last, __ATOMIC_RELAXED);
        last = now;
    }
}

static void *worker(void *argument)
{
    int index = (int)(intptr_t)argument, seen = 0;
    name_self("worker-", index);
    pthread_mutex_lock(&lock);
    started++;
    pthread_cond_broadcast(&changed);
    for (;;) {
        while (generation == seen && !truth_ended)
            pthread_cond_wait(&changed, &lock);
        if (truth_ended)
            break;
        seen = generation;
        uint64_t goal = mode == MANY ? truth_goal_ns / (uint64_t)count
                                     : truth_goal_ns * (uint64_t)(index + 1) / (uint64_t)count;
        pthread_mutex_unlock(&lock);
        if (mode == RENAME) {
            burn_for(index, goal / 2);
            name_self("renamed-", index);
            burn_for(index, goal - goal / 2);
        } else {
            burn_for(index, goal);
        }
        pthread_mutex_lock(&lock);
        finished++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void *short_lived(void *argument)
{
    int index = (int)(intptr_t)argument;
    name_self("brief-", index % 4);
    burn_for(index, life);
    return NULL;
}

static void churn(void)
{
    uint64_t lives = truth_goal_ns / life;
    int next = 0;
    while (lives > 0 && !truth_ended) {
        pthread_t threads[64];
        int now = count < 64 ? count : 64;
        if ((uint64_t)now > lives)
            now = (int)lives;
        for (int i = 0; i < now; i++)
            if (pthread_create(&threads[i], NULL, short_lived, (void *)(intptr_t)next++) != 0)
                abort();
        for (int i = 0; i < now; i++)
            pthread_join(threads[i], NULL);
        lives -= (uint64_t)now;
    }
    truth_done();
}

static void work(void)
{
    pthread_mutex_lock(&lock);
    finished = 0;
    generation++;
    pthread_cond_broadcast(&changed);
    while (finished < count)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    truth_done();
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    if (strcmp(argv[1], "brief") == 0)
        life = 50000;
    mode = strcmp(argv[1], "churn") == 0 || life < 1000000 ? CHURN
           : strcmp(argv[1], "many") == 0 ? MANY
           : strcmp(argv[1], "rename") == 0 ? RENAME : FIXED;
    count = atoi(argv[2]);
    static const char *const names[4] = { "burn_0", "burn_1", "burn_2", "burn_3" };
    for (int i = 0; i < 4; i++)
        sites[i] = truth_site(names[i]);
    per_ms = truth_calibrate(burn_0, 1000000);
    pthread_t *threads = calloc((size_t)count, sizeof *threads);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    if (mode != CHURN) {
        for (int i = 0; i < count; i++)
            if (pthread_create(&threads[i], &small, worker, (void *)(intptr_t)i) != 0)
                return 3;
        pthread_mutex_lock(&lock);
        while (started < count)
            pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
    }
    truth_ready();
    while (truth_wait_go())
        mode == CHURN ? churn() : work();
    if (mode != CHURN) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        for (int i = 0; i < count; i++)
            pthread_join(threads[i], NULL);
    }
    return truth_finish();
}
