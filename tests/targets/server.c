// A busy multi-threaded server, for tests that recording disturbs nothing: `server N` answers on N
// threads with epoll. A request is 16 bytes; the answer is the same bytes, each incremented, after
// some 20 us of work. Prints `ready pid=PID port=PORT`; ends when stdin closes.
#include "truth.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static volatile uint64_t sink;
static int listener, port;

NOINLINE static void answer_work(uint64_t n)
{
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++)
        x = x * 6364136223846793005u + 1;
    __atomic_fetch_add(&sink, x, __ATOMIC_RELAXED);
}

// Requests of 16 bytes from our own client over loopback arrive in one piece. Anything else closes
// the connection, which the client sees as a lost request.
static void serve(int epoll, int fd)
{
    unsigned char request[16];
    ssize_t got = recv(fd, request, sizeof request, 0);
    if (got != (ssize_t)sizeof request) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
        close(fd);
        return;
    }
    answer_work(15000);
    for (size_t i = 0; i < sizeof request; i++)
        request[i]++;
    if (send(fd, request, sizeof request, MSG_NOSIGNAL) != (ssize_t)sizeof request)
        close(fd);
}

static void *worker(void *nothing)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = listener };
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct epoll_event ready[16];
        int n = epoll_wait(epoll, ready, 16, -1);
        for (int i = 0; i < n; i++) {
            if (ready[i].data.fd != listener) {
                serve(epoll, ready[i].data.fd);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (fd < 0)
                continue;
            struct epoll_event added = { .events = EPOLLIN, .data.fd = fd };
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &added);
        }
    }
    return nothing;
}

int main(int argc, char **argv)
{
    int threads = argc == 2 ? atoi(argv[1]) : 4;
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0
        || listen(listener, 128) != 0
        || getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        return 3;
    port = ntohs(address.sin_port);
    for (int i = 0; i < threads; i++) {
        pthread_t id;
        if (pthread_create(&id, NULL, worker, NULL) != 0)
            return 3;
    }
    printf("ready pid=%d port=%d\n", (int)getpid(), port);
    fflush(stdout);
    while (!truth_ended)
        truth_obey(-1);
    return truth_finish();
}
