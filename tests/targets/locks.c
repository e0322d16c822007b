// Threads blocked in different ways, for dumps: `locks N`.
//   `first` and `second` hold a mutex each and wait for each other's: a deadlock;
//   `queued` waits for the mutex of `holder`, which sleeps; N idlers wait for a condition variable.
// Prints `ready first=TID second=TID queued=TID holder=TID`. On `go` it creates a thread in
// create_here() that ends immediately, and prints `done`.
#include "truth.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static pthread_mutex_t a = PTHREAD_MUTEX_INITIALIZER, b = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t both;
static volatile int tids[4];

static void named(const char *name, int at)
{
    prctl(PR_SET_NAME, name);
    tids[at] = (int)syscall(SYS_gettid);
}

NOINLINE static void wait_for(pthread_mutex_t *mutex)
{
    pthread_mutex_lock(mutex);
    pthread_mutex_unlock(mutex);
}

static void *first(void *arg)
{
    named("first", 0);
    pthread_mutex_lock(&a);
    pthread_barrier_wait(&both);
    wait_for(&b);
    return arg;
}

static void *second(void *arg)
{
    named("second", 1);
    pthread_mutex_lock(&b);
    pthread_barrier_wait(&both);
    wait_for(&a);
    return arg;
}

static void *holder(void *arg)
{
    named("holder", 3);
    pthread_mutex_lock(&held);
    pthread_barrier_wait(&both);
    for (;;)
        sleep(1000);
    return arg;
}

static void *queued(void *arg)
{
    named("queued", 2);
    pthread_barrier_wait(&both);
    wait_for(&held);
    return arg;
}

NOINLINE static void idle(void)
{
    pthread_mutex_lock(&lock);
    for (;;)
        pthread_cond_wait(&never, &lock);
}

static void *idler(void *arg)
{
    prctl(PR_SET_NAME, "idler");
    idle();
    return arg;
}

static void *nothing(void *arg)
{
    return arg;
}

NOINLINE static void create_here(void)
{
    pthread_t t;
    if (pthread_create(&t, NULL, nothing, NULL) == 0)
        pthread_join(t, NULL);
}

static int is_asleep(int tid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    const char *end = strrchr(text, ')');
    return end && end[2] == 'S';
}

int main(int argc, char **argv)
{
    void *(*const roles[])(void *) = { first, second, holder, queued };
    int idlers = argc > 1 ? atoi(argv[1]) : 0;
    pthread_t t;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    pthread_barrier_init(&both, NULL, 5);
    for (int i = 0; i < 4; i++)
        if (pthread_create(&t, &small, roles[i], NULL) != 0)
            return 3;
    for (int i = 0; i < idlers; i++)
        if (pthread_create(&t, &small, idler, NULL) != 0)
            return 3;
    pthread_barrier_wait(&both);
    for (int i = 0; i < 4; i++)
        while (!is_asleep(tids[i]))
            sched_yield();
    printf("ready pid=%d first=%d second=%d queued=%d holder=%d\n", (int)getpid(), tids[0], tids[1],
           tids[2], tids[3]);
    fflush(stdout);
    while (truth_wait_go()) {
        create_here();
        truth_done();
    }
    // The threads never end.
    _exit(0);
}
