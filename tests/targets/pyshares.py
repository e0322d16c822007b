"""Ground truth in Python: CPU time by site, by the handshake of truth.h.

Sites: `heavy_a` and `heavy_b` do the same work in `leaf`; `heavy_c` has no callee; `heavy_sort` is
called back from C. With an argument N, that many threads work, in turn by the GIL.
"""

import sys
import threading
import time

cpu = time.thread_time_ns
NAMES = ("heavy_a", "heavy_b", "heavy_c", "heavy_sort")
of_threads = []
ended = False


def leaf(n):
    s = 0
    for i in range(n):
        s += i * i
    return s


def heavy_a(n):
    return leaf(n)


def heavy_b(n):
    return leaf(n)


def heavy_c(n):
    s = 0
    for i in range(n):
        s += i ^ (i >> 1)
    return s


class Sorter:
    def by_key(self, x):
        return -x

    def run(self, n):
        return len(sorted(range(n), key=self.by_key))


def heavy_sort(n):
    return Sorter().run(n)


def work(go):
    own = dict.fromkeys(NAMES, 0)
    of_threads.append(own)
    go.wait()
    rounds = ((heavy_a, 40000), (heavy_b, 15000), (heavy_c, 25000), (heavy_sort, 20000))
    while not ended:
        for site, n in rounds:
            begin = cpu()
            site(n)
            own[site.__name__] += cpu() - begin


def mark():
    sums = ["%s=%d" % (name, sum(own[name] for own in of_threads)) for name in NAMES]
    print("truth", *sums, flush=True)


def obey(go):
    global ended
    for line in sys.stdin:
        if line.startswith("go"):
            go.set()
        elif line.startswith("mark"):
            mark()
    ended = True
    go.set()


def main():
    go = threading.Event()
    more = int(sys.argv[1]) - 1 if len(sys.argv) > 1 else 0
    threads = [threading.Thread(target=work, args=(go,)) for _ in range(more)]
    threads.append(threading.Thread(target=obey, args=(go,), daemon=True))
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    work(go)
    mark()


main()
