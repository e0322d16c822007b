// For tests of unwinding through a signal frame: SIGPROF arrives after every 5 ms of CPU time and
// its handler burns about 2 ms in `handler_burn`; the handler interrupts `interrupted_loop`.
//   signals normal    on the thread's own stack
//   signals alternate on a sigaltstack in its own mapping
#include "truth.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

static volatile uint64_t sink;
static struct truth_site *in_handler, *in_loop;
static uint64_t handler_iterations;

NOINLINE static void handler_burn(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 3935559000370003845u + 1;
    sink += x;
}

NOINLINE static void interrupted_loop(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    sink += x;
}

static void on_signal(int number)
{
    (void)number;
    uint64_t begin = truth_cpu();
    handler_burn(handler_iterations);
    in_handler->ns += truth_cpu() - begin;
}

int main(int argc, char **argv)
{
    int alternate = argc == 2 && strcmp(argv[1], "alternate") == 0;
    in_handler = truth_site("handler_burn");
    in_loop = truth_site("interrupted_loop");
    handler_iterations = truth_calibrate(handler_burn, 2000000);
    // Long, so that the interrupted stack is rarely elsewhere.
    uint64_t iterations = truth_calibrate(interrupted_loop, 100000000);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART | (alternate ? SA_ONSTACK : 0);
    if (alternate) {
        stack_t stack = { .ss_size = 128 * 1024 };
        stack.ss_sp = mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL) != 0)
            return 3;
    }
    sigaction(SIGPROF, &action, NULL);
    truth_ready();
    while (truth_wait_go()) {
        struct itimerval every = { { 0, 5000 }, { 0, 5000 } }, never = { { 0, 0 }, { 0, 0 } };
        setitimer(ITIMER_PROF, &every, NULL);
        uint64_t begin = truth_cpu();
        do {
            uint64_t handled = in_handler->ns, from = truth_cpu();
            interrupted_loop(iterations);
            in_loop->ns += truth_cpu() - from - (in_handler->ns - handled);
        } while (truth_continue(begin));
        setitimer(ITIMER_PROF, &never, NULL);
    }
    return truth_finish();
}
