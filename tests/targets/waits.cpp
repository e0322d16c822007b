// Locks of C++'s standard library, and other waits. The sites `locks` and `others` give the time
// asleep, in nanoseconds.
#include "spent.h"
#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <semaphore>
#include <shared_mutex>
#include <thread>
#include <vector>

using namespace std::chrono_literals;

template <typename F> static inline __attribute__((always_inline)) void timed(struct truth_site *site, F f)
{
    struct spent before = spent();
    f();
    __atomic_add_fetch(&site->ns, slept(before, spent()), __ATOMIC_RELAXED);
}

static std::mutex mutex;
static std::timed_mutex timed_mutex;
static std::shared_mutex shared_mutex;
static struct truth_site *locks, *others;

extern "C" {

NOINLINE void hold_mutex()
{
    timed(locks, [] { mutex.lock(); });
    std::this_thread::sleep_for(2ms);
    mutex.unlock();
    asm volatile("");
}

NOINLINE void hold_timed_mutex()
{
    timed(locks, [] { (void)timed_mutex.try_lock_for(10s); });
    std::this_thread::sleep_for(2ms);
    timed_mutex.unlock();
    asm volatile("");
}

NOINLINE void hold_shared_mutex()
{
    timed(locks, [] { shared_mutex.lock(); });
    std::this_thread::sleep_for(3ms);
    shared_mutex.unlock();
    asm volatile("");
}

NOINLINE void hold_shared_mutex_shared()
{
    timed(locks, [] { shared_mutex.lock_shared(); });
    std::this_thread::sleep_for(1ms);
    shared_mutex.unlock_shared();
    asm volatile("");
}

}

static std::mutex queue_mutex;
static std::condition_variable queue_ready;
static int queued;
static std::counting_semaphore<100> semaphore(0);

extern "C" NOINLINE void feed()
{
    std::this_thread::sleep_for(3ms);
    {
        std::lock_guard<std::mutex> guard(queue_mutex);
        queued++;
    }
    queue_ready.notify_one();
    semaphore.release();
}

extern "C" NOINLINE void wait_queue()
{
    timed(others, [] {
        std::unique_lock<std::mutex> guard(queue_mutex);
        queue_ready.wait(guard, [] { return queued > 0; });
        queued--;
    });
}

extern "C" NOINLINE void wait_semaphore()
{
    timed(others, [] { semaphore.acquire(); });
}

extern "C" NOINLINE void wait_future()
{
    timed(others, [] {
        std::async(std::launch::async, [] { std::this_thread::sleep_for(4ms); }).get();
    });
}

int main()
{
    locks = truth_site("locks");
    others = truth_site("others");
    truth_ready();
    if (!truth_wait_go())
        return truth_finish();
    void (*const loops[])() = {
        hold_mutex,        hold_mutex,        hold_mutex,
        hold_timed_mutex,  hold_timed_mutex,  hold_shared_mutex,
        hold_shared_mutex, hold_shared_mutex_shared, hold_shared_mutex_shared,
        feed,              wait_queue,        wait_semaphore,
        wait_future,
    };
    for (void (*loop)() : loops)
        std::thread([loop] {
            for (;;) {
                loop();
                std::this_thread::sleep_for(1ms);
            }
        }).detach();
    while (!truth_ended)
        truth_obey(-1);
    int status = truth_finish();
    // The threads continue, so nothing they use may be destroyed.
    _exit(status);
}
