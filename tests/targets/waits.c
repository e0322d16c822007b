// Waits of every kind, each in its own function, with the time they took: `truth SITE=NANOSECONDS`
// is the wall time less the CPU time of the calls, `SITE_n` the number of waits, `SITE_max` the
// longest; `sleep_short_wall` is the wall time with the CPU time. Locks also report who held up others: `held_SITE` is the integral, over the time that
// SITE held the lock, of the number of threads that waited for it. `naive_SITE` is what SITE would
// be charged if each wait were charged to the thread that ended it.
//
// The argument chooses the sites: `long` (only long waits), `short` (mostly short ones), `times`
// (both), `locks` (also futex waits that are not for a lock), or `all` (the default).
#include "spent.h"
#include <pthread.h>
#include <semaphore.h>

static void longest(struct truth_site *site, uint64_t waited)
{
    uint64_t before = __atomic_load_n(&site->ns, __ATOMIC_RELAXED);
    while (waited > before &&
           !__atomic_compare_exchange_n(&site->ns, &before, waited, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

// The site's function must stay on the stack of the functions it calls.
#define SITE(name, ...) \
    static struct truth_site *name##_site, *name##_count, *name##_max, *name##_wall; \
    NOINLINE static void name(void) \
    { \
        uint64_t begin = wall(), cpu = truth_cpu(); \
        __VA_ARGS__; \
        uint64_t spent = wall() - begin; \
        int64_t waited = (int64_t)spent - (int64_t)(truth_cpu() - cpu); \
        if (name##_wall) \
            __atomic_add_fetch(&name##_wall->ns, spent, __ATOMIC_RELAXED); \
        /* Negative if it did not wait and reading the clocks took longer. */ \
        if (waited > 0) { \
            __atomic_add_fetch(&name##_site->ns, (uint64_t)waited, __ATOMIC_RELAXED); \
            longest(name##_max, (uint64_t)waited); \
        } \
        __atomic_add_fetch(&name##_count->ns, 1, __ATOMIC_RELAXED); \
    }

// A lock: the holder is charged until it unlocks. When the waiter gets a CPU again depends on the
// machine and is counted separately, in `SITE_run`.
#define LOCK(name, ...) \
    static struct truth_site *name##_site, *name##_run, *name##_count, *name##_max; \
    NOINLINE static void name(void) \
    { \
        struct spent before = spent(); \
        __VA_ARGS__; \
        struct spent after = spent(); \
        __atomic_add_fetch(&name##_site->ns, slept(before, after), __ATOMIC_RELAXED); \
        longest(name##_max, slept(before, after)); \
        __atomic_add_fetch(&name##_run->ns, after.delay - before.delay, __ATOMIC_RELAXED); \
        __atomic_add_fetch(&name##_count->ns, 1, __ATOMIC_RELAXED); \
    }

static void sleep_us(long us)
{
    struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    nanosleep(&t, NULL);
}

// --- Time, descriptors ---

static int pipe_fds[2];

SITE(sleep_long, sleep_us(20000))
SITE(sleep_short, sleep_us(200))
SITE(wait_poll, poll(NULL, 0, 15))
SITE(read_pipe, {
    char c;
    if (read(pipe_fds[0], &c, 1) != 1)
        abort();
})

// --- A lock with three holders ---

struct holder {
    struct truth_site *held, *naive;
};

struct account {
    volatile int busy;
    uint64_t waiters, since;
    struct holder *holder, *last;
};

// Called whenever a waiter or the holder changes.
static void account(struct account *a, int waiters, struct holder *holder, int change_holder, uint64_t waited)
{
    while (__atomic_exchange_n(&a->busy, 1, __ATOMIC_ACQUIRE))
        ;
    uint64_t now = wall();
    if (a->holder)
        a->holder->held->ns += a->waiters * (now - a->since);
    if (a->last && waited)
        a->last->naive->ns += waited;
    a->since = now;
    a->waiters += (uint64_t)waiters;
    if (change_holder && a->holder)
        a->last = a->holder;
    if (change_holder)
        a->holder = holder;
    __atomic_store_n(&a->busy, 0, __ATOMIC_RELEASE);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct account lock_account;

LOCK(wait_lock, pthread_mutex_lock(&lock))

#define HOLDER(name, us) \
    static struct holder name##_holder; \
    NOINLINE static void name(void) \
    { \
        uint64_t begin = wall(); \
        account(&lock_account, 1, NULL, 0, 0); \
        wait_lock(); \
        account(&lock_account, -1, &name##_holder, 1, wall() - begin); \
        sleep_us(us); \
        account(&lock_account, 0, NULL, 1, 0); \
        pthread_mutex_unlock(&lock); \
        __asm__ volatile(""); \
    }

HOLDER(hold_a, 1000)
HOLDER(hold_b, 2000)
HOLDER(hold_c, 5000)

// --- A read-write lock ---

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;

LOCK(wait_read, pthread_rwlock_rdlock(&rwlock))
LOCK(wait_write, pthread_rwlock_wrlock(&rwlock))

NOINLINE static void hold_read(void)
{
    wait_read();
    sleep_us(3000);
    pthread_rwlock_unlock(&rwlock);
    __asm__ volatile("");
}

NOINLINE static void hold_write(void)
{
    wait_write();
    sleep_us(3000);
    pthread_rwlock_unlock(&rwlock);
    __asm__ volatile("");
}

// --- Waits that are not for a lock ---

static pthread_mutex_t cond_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int cond_ready;
static sem_t semaphore;
static pthread_barrier_t barrier;

SITE(wait_cond, {
    pthread_mutex_lock(&cond_lock);
    while (!cond_ready)
        pthread_cond_wait(&cond, &cond_lock);
    cond_ready = 0;
    pthread_mutex_unlock(&cond_lock);
})

SITE(wait_semaphore, {
    while (sem_wait(&semaphore))
        ;
})

SITE(wait_barrier, pthread_barrier_wait(&barrier))

static void *short_thread(void *arg)
{
    sleep_us(4000);
    return arg;
}

SITE(wait_join, {
    pthread_t thread;
    pthread_create(&thread, NULL, short_thread, NULL);
    pthread_join(thread, NULL);
})

// --- The threads ---

NOINLINE static void notify(void)
{
    sleep_us(5000);
    pthread_mutex_lock(&cond_lock);
    cond_ready = 1;
    pthread_mutex_unlock(&cond_lock);
    pthread_cond_signal(&cond);
    sem_post(&semaphore);
    if (write(pipe_fds[1], "x", 1) != 1)
        abort();
}

NOINLINE static void think(void)
{
    sleep_us(2000 + (long)(truth_random() % 2000));
}

#define LOOP(name, body) \
    static void *loop_##name(void *arg) \
    { \
        for (;;) { body; } \
        return arg; \
    }

LOOP(sleep_long, sleep_long())
LOOP(sleep_short, sleep_short())
LOOP(poll, wait_poll())
LOOP(read, read_pipe())
LOOP(hold_a, hold_a(); think())
LOOP(hold_b, hold_b(); think())
LOOP(hold_c, hold_c(); think())
LOOP(hold_read, hold_read(); think())
LOOP(hold_write, hold_write(); think())
LOOP(cond, wait_cond())
LOOP(semaphore, wait_semaphore())
LOOP(barrier, wait_barrier(); sleep_us(3000))
LOOP(join, wait_join())
LOOP(notify, notify())

#define HOLDS(name) \
    name##_holder.held = truth_site("held_" #name), name##_holder.naive = truth_site("naive_" #name)
#define BOTH(name) \
    name##_site = truth_site(#name), name##_count = truth_site(#name "_n"), name##_max = truth_site(#name "_max")
#define THREE(name) BOTH(name), name##_run = truth_site(#name "_run")

struct group {
    const char *names;  // of the arguments that choose this group
    void *(*loops[16])(void *);
};

static const struct group groups[] = {
    { "long times all", { loop_sleep_long, loop_poll, loop_read, loop_cond, loop_semaphore, loop_notify } },
    { "short times all", { loop_sleep_short } },
    { "short", { loop_sleep_long } },
    { "locks all",
      { loop_hold_a, loop_hold_a, loop_hold_b, loop_hold_b, loop_hold_c, loop_hold_c, loop_hold_read,
        loop_hold_read, loop_hold_write, loop_barrier, loop_barrier, loop_join } },
    { "locks", { loop_read, loop_cond, loop_semaphore, loop_notify } },
};

int main(int argc, char **argv)
{
    const char *chosen = argc > 1 ? argv[1] : "all";
    BOTH(sleep_long), BOTH(sleep_short), BOTH(wait_poll), BOTH(read_pipe);
    sleep_short_wall = truth_site("sleep_short_wall");
    THREE(wait_lock), THREE(wait_read), THREE(wait_write);
    BOTH(wait_cond), BOTH(wait_semaphore), BOTH(wait_barrier), BOTH(wait_join);
    HOLDS(hold_a), HOLDS(hold_b), HOLDS(hold_c);
    sem_init(&semaphore, 0, 0);
    pthread_barrier_init(&barrier, NULL, 2);
    if (pipe(pipe_fds))
        abort();
    truth_ready();
    if (!truth_wait_go())
        return truth_finish();
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        for (size_t i = 0; strstr(groups[g].names, chosen) && groups[g].loops[i]; i++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, groups[g].loops[i], NULL))
                abort();
        }
    }
    while (!truth_ended)
        truth_obey(-1);
    return truth_finish();
}
