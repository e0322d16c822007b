// Waits forever below 301 calls of `down`, on 130 KiB of stack.
#include "truth.h"

NOINLINE static int down(int n)
{
    volatile char room[400];
    for (int i = 0; i < 400; i++)
        room[i] = (char)n;
    if (n)
        down(n - 1);
    while (!n && !truth_ended)
        truth_obey(-1);
    return room[3];
}

int main(void)
{
    truth_ready();
    down(300);
    return truth_finish();
}
