// Creates threads as fast as possible, each of which ends immediately. Echoes lines from stdin.
#include <poll.h>
#include <pthread.h>
#include <stdio.h>

static void *nothing(void *arg)
{
    return arg;
}

static void *create(void *arg)
{
    for (;;) {
        pthread_t t;
        if (pthread_create(&t, NULL, nothing, NULL) == 0)
            pthread_join(t, NULL);
    }
    return arg;
}

int main(void)
{
    for (int i = 0; i < 3; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, create, NULL) != 0)
            return 1;
    }
    puts("ready");
    fflush(stdout);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        fputs(line, stdout);
        fflush(stdout);
    }
    return 0;
}
