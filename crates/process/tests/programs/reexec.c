// `reexec N`: after a byte on stdin, a thread other than the main thread executes the program again
// with N - 1. With N = 0 it exits with status 7. Only the first execution prints `ready` and waits.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char **arguments;

static void *idle(void *arg)
{
    pause();
    return arg;
}

static void *again(void *arg)
{
    int left = atoi(arguments[1]);
    if (left == 0)
        exit(7);
    char number[16];
    snprintf(number, sizeof number, "%d", left - 1);
    execl("/proc/self/exe", "reexec", number, "go", (char *)NULL);
    return arg;
}

int main(int argc, char **argv)
{
    arguments = argv;
    pthread_t t;
    for (int i = 0; i < 3; i++)
        pthread_create(&t, NULL, idle, NULL);
    if (argc == 2) {
        puts("ready");
        fflush(stdout);
        char c;
        if (read(0, &c, 1) != 1)
            return 1;
    }
    pthread_create(&t, NULL, again, NULL);
    pthread_join(t, NULL);
    return 1;
}
