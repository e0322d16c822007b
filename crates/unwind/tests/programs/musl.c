// musl's code has no call frame information. That concerns the functions stepped through here, the
// caller of `main`, the start function of threads, and `__clone`, in which a child starts.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define KEEP __attribute__((noinline, noclone))

static _Alignas(16) char stack[64 << 10];
static volatile int sink;

KEEP static int in_child(void *p) {
    (void)p;
    return sink++;
}

KEEP static void *in_thread(void *p) {
    char text[64];
    snprintf(text, sizeof text, "%5.2f of %-8s, %#x", 2.5, "them", 77);
    return p + strlen(text);
}

KEEP static int compare(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

KEEP static int many(FILE *out) {
    int numbers[6] = {5, 2, 6, 1, 4, 3};
    qsort(numbers, 6, sizeof numbers[0], compare);
    fprintf(out, "%d %s %llx %g\n", numbers[2], "text", 1ull << 40, 0.1);
    char *copy = strdup("free me");
    sink += strtol("1234", 0, 10) + copy[3];
    free(copy);
    return fflush(out);
}

int main(void) {
    FILE *out = fopen("/dev/null", "w");
    sink += many(out);
    pthread_t thread;
    pthread_create(&thread, 0, in_thread, 0);
    pthread_join(thread, 0);
    clone(in_child, stack + sizeof stack, SIGCHLD, 0);
    return wait(0) < 0;
}
