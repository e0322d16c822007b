// Threads that constantly wait for locks and for each other, briefly: many are woken while they are
// still going to sleep. `truth` gives the number of `rounds`.
#include "truth.h"
#include <pthread.h>

enum { LOCKS = 3, THREADS = 8 };

static pthread_mutex_t locks[LOCKS];
static pthread_barrier_t barrier;
static struct truth_site *rounds;

static void *work(void *arg)
{
    uint32_t random = (uint32_t)(uintptr_t)arg + 1;
    for (;;) {
        for (int i = 0; i < 20; i++) {
            random = random * 1664525u + 1013904223u;
            pthread_mutex_t *lock = &locks[(random >> 16) % LOCKS];
            pthread_mutex_lock(lock);
            for (volatile uint32_t n = (random >> 24) * 4; n; n--)
                ;
            pthread_mutex_unlock(lock);
        }
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            rounds->ns++;
    }
    return arg;
}

int main(void)
{
    rounds = truth_site("rounds");
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&locks[i], NULL);
    truth_ready();
    if (!truth_wait_go())
        return truth_finish();
    for (uintptr_t i = 0; i < THREADS; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, work, (void *)i))
            abort();
    }
    while (!truth_ended)
        truth_obey(-1);
    return truth_finish();
}
