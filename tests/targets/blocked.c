// Threads that wait forever or sleep repeatedly.
//   blocked N         N threads below `wait_for_ever`, each on its own semaphore
//   blocked N MS      N threads below `sleep_again`, each for MS milliseconds at a time
#include "truth.h"
#include <pthread.h>
#include <semaphore.h>

static long sleep_ms;

NOINLINE static void wait_for_ever(void)
{
    sem_t never;
    sem_init(&never, 0, 0);
    for (;;)
        sem_wait(&never);
}

NOINLINE static void sleep_again(void)
{
    struct timespec t = { .tv_sec = sleep_ms / 1000, .tv_nsec = sleep_ms % 1000 * 1000000 };
    for (;;)
        nanosleep(&t, NULL);
}

static void *thread(void *arg)
{
    if (sleep_ms)
        sleep_again();
    else
        wait_for_ever();
    return arg;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    sleep_ms = argc > 2 ? atol(argv[2]) : 0;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    for (int i = 0; i < threads; i++) {
        pthread_t t;
        if (pthread_create(&t, &small, thread, NULL))
            abort();
    }
    truth_ready();
    while (!truth_ended)
        truth_obey(-1);
    return truth_finish();
}
