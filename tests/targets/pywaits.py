"""Waits in Python, each in its own function and thread, with the handshake of truth.h.

`SITE=NANOSECONDS` is the wall time less the CPU time of the calls, `SITE_n` the number of calls,
`SITE_max` the longest, `SITE_run` the time in which the thread was ready and had no CPU. The line in which a site waits is marked `waits in SITE`.

With the argument `locks`, there is also a mutex of the C library: `lock_native` waits for it while
`hold_native` holds it; the line that unlocks it is marked `unlocks in hold_native`.
"""

import os
import socket
import sys
import threading
import time

wall = time.monotonic_ns
cpu = time.thread_time_ns
ours, theirs = socket.socketpair()
lock = threading.Lock()
never = threading.Lock()
changed = threading.Condition()
of_sites = {}


def sleep_long():
    time.sleep(0.02)  # waits in sleep_long


def receive():
    ours.recv(1)  # waits in receive


def acquire():
    lock.acquire()  # waits in acquire
    lock.release()


def wait_for_change():
    with changed:
        changed.wait()  # waits in wait_for_change


def wait_for_ever():
    never.acquire()  # waits in wait_for_ever


def pause():
    time.sleep(0.003)


def feed():
    while True:
        time.sleep(0.012)
        theirs.send(b"x")
        with changed:
            changed.notify()


def hold():
    while True:
        with lock:
            time.sleep(0.008)
        pause()


def repeat(site):
    own = of_sites[site.__name__]
    try:
        schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except FileNotFoundError:  # in a root directory without /proc
        schedstat = None

    def run_delay():
        return 0 if schedstat is None else int(os.pread(schedstat, 80, 0).split()[1])

    while True:
        delay = run_delay()
        begin, used = wall(), cpu()
        site()
        ns = wall() - begin - (cpu() - used)
        own[0] += max(ns, 0)
        own[1] += 1
        own[2] = max(own[2], ns)
        own[3] += run_delay() - delay
        pause()


def begin(what, *args):
    threading.Thread(target=what, args=args, daemon=True).start()


def begin_locks():
    import ctypes

    mutex = ctypes.create_string_buffer(64)
    native = ctypes.CDLL(None)

    def lock_native():
        native.pthread_mutex_lock(mutex)  # waits in lock_native
        native.pthread_mutex_unlock(mutex)

    def hold_native():
        while True:
            native.pthread_mutex_lock(mutex)
            time.sleep(0.01)
            native.pthread_mutex_unlock(mutex)  # unlocks in hold_native
            pause()

    of_sites["lock_native"] = [0, 0, 0, 0]
    begin(repeat, lock_native)
    begin(hold_native)


def begin_all():
    for site in (sleep_long, receive, acquire, wait_for_change):
        of_sites[site.__name__] = [0, 0, 0, 0]
        begin(repeat, site)
    for other in (feed, hold, wait_for_ever):
        begin(other)
    if "locks" in sys.argv:
        begin_locks()


def mark():
    sums = []
    for name, numbers in of_sites.items():
        keys = ("", "_n", "_max", "_run")
        sums += ["%s%s=%d" % (name, key, number) for key, number in zip(keys, numbers)]
    print("truth", *sums, flush=True)


def main():
    never.acquire()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("go"):
            begin_all()
        elif line.startswith("mark"):
            mark()
        elif line.startswith("fork") and os.fork() == 0:
            # The child has its own threads and no stdin, so it never notices the end.
            os.close(0)
            begin_all()
            wait_for_ever()
    mark()


main()
