// A plugin for dlopen.c, built twice, with -DWORK=alpha_work and -DWORK=beta_work. Both have the
// same layout, so a loader that reuses the address puts one function exactly where the other was.
#include <stdint.h>

uint64_t WORK(uint64_t n);

__attribute__((noinline)) uint64_t WORK(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    return x;
}
