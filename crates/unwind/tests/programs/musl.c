// musl's own code has no call frame information: a thread, whose start is `__clone`.
#include <pthread.h>

__attribute__((noinline, noclone)) static void *in_thread(void *p) { return p; }

int main(void) {
    pthread_t t;
    pthread_create(&t, 0, in_thread, 0);
    pthread_join(t, 0);
    return 0;
}
