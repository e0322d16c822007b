// `busy N` runs N threads, which in turn count, block in nanosleep, in read of an empty pipe, or in
// futex (a condition variable). It counts handled signals (SIGRTMIN+3). For each line on stdin it
// prints `COUNT SIGNALS BROKEN`. BROKEN counts reads that failed with EINTR, which SA_RESTART must
// prevent.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t counted, handled, broken;
static int empty[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t started;

static void on_signal(int signal)
{
    (void)signal;
    __atomic_fetch_add(&handled, 1, __ATOMIC_SEQ_CST);
}

static void *work(void *arg)
{
    pthread_barrier_wait(&started);
    for (;;)
        switch ((intptr_t)arg % 4) {
        case 0:
            __atomic_fetch_add(&counted, 1, __ATOMIC_SEQ_CST);
            break;
        case 1: {
            struct timespec t = { 1000, 0 };
            nanosleep(&t, NULL);
            break;
        }
        case 2: {
            char c;
            if (read(empty[0], &c, 1) < 0 && errno == EINTR)
                __atomic_fetch_add(&broken, 1, __ATOMIC_SEQ_CST);
            break;
        }
        default:
            pthread_mutex_lock(&lock);
            pthread_cond_wait(&never, &lock);
            pthread_mutex_unlock(&lock);
        }
    return NULL;
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 1;
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigaction(SIGRTMIN + 3, &action, NULL);
    if (pipe(empty) != 0)
        return 1;
    pthread_barrier_init(&started, NULL, (unsigned)n + 1);
    for (intptr_t i = 0; i < n; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, work, (void *)i) != 0)
            return 1;
    }
    pthread_barrier_wait(&started);
    puts("ready");
    fflush(stdout);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        printf("%lu %lu %lu\n", __atomic_load_n(&counted, __ATOMIC_SEQ_CST),
               __atomic_load_n(&handled, __ATOMIC_SEQ_CST),
               __atomic_load_n(&broken, __ATOMIC_SEQ_CST));
        fflush(stdout);
    }
    return 0;
}
