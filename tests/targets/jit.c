// Compiles code into memory that it reuses, and writes down what it compiled:
//   jit map     into /tmp/perf-PID.map, in turns of 400 ms of CPU time
//   jit dump    into DIR/jit-PID.dump, in turns of 40 ms, each with a timestamp
//   jit stale   as map, but writes nothing: the test writes the file
// Sites, called by run_first and run_second: jit_first (3 parts) and jit_second (1 part),
// alternately at the same address.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "truth.h"

// push rbp; mov rbp, rsp; mov ecx, N; 1: dec ecx; jnz 1b; pop rbp; ret
static const uint8_t LOOP[] = { 0x55, 0x48, 0x89, 0xe5, 0xb9, 0, 0, 0, 0,
                                0xff, 0xc9, 0x75, 0xfc, 0x5d, 0xc3 };

static uint8_t *code;
static int out = -1;
static uint64_t compiled;

static void put(const void *bytes, size_t n)
{
    if (write(out, bytes, n) != (ssize_t)n)
        exit(3);
}

static void open_dump(const char *folder)
{
    char path[512];
    snprintf(path, sizeof path, "%s/jit-%d.dump", folder, (int)getpid());
    out = open(path, O_CREAT | O_TRUNC | O_RDWR, 0644);
    struct {
        uint32_t magic, version, size, machine, pad, pid;
        uint64_t time, flags;
    } header = { 0x4a695444, 1, 40, 62, 0, (uint32_t)getpid(), 0, 0 };
    put(&header, sizeof header);
    // Profilers find the file by this mapping.
    if (out < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, out, 0) == MAP_FAILED)
        exit(3);
}

static void open_map(void)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    out = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (out < 0)
        exit(3);
}

static void compile(const char *kind, const char *name, uint32_t rounds)
{
    memcpy(code, LOOP, sizeof LOOP);
    memcpy(code + 5, &rounds, 4);
    if (!strcmp(kind, "dump")) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        size_t n = strlen(name) + 1;
        struct {
            uint32_t id, size;
            uint64_t time;
            uint32_t pid, tid;
            uint64_t vma, address, length, index;
        } load = { 0, (uint32_t)(56 + n + sizeof LOOP),
                   (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec,
                   (uint32_t)getpid(), (uint32_t)getpid(),
                   (uintptr_t)code, (uintptr_t)code, sizeof LOOP, compiled };
        put(&load, sizeof load);
        put(name, n);
        put(LOOP, sizeof LOOP);
    } else if (!strcmp(kind, "map")) {
        char line[128];
        int n = snprintf(line, sizeof line, "%lx %zx %s\n", (long)(uintptr_t)code, sizeof LOOP, name);
        put(line, (size_t)n);
    }
    compiled++;
}

NOINLINE static void turn(struct truth_site *site, uint64_t ms)
{
    uint64_t begin = truth_cpu(), now = begin;
    while (now - begin < ms * 1000000u && !truth_ended) {
        ((void (*)(void))code)();
        now = truth_cpu();
        truth_obey(0);
    }
    site->ns += now - begin;
}

// The caller shows what the code was compiled as. The assembler comments keep the two functions,
// which are otherwise identical, from being merged.
NOINLINE static void run_first(struct truth_site *site, uint64_t ms)
{
    turn(site, ms);
    __asm__ volatile("# first");
}

NOINLINE static void run_second(struct truth_site *site, uint64_t ms)
{
    turn(site, ms);
    __asm__ volatile("# second");
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "map";
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 3;
    if (!strcmp(kind, "dump"))
        open_dump(argc > 2 ? argv[2] : ".");
    else if (!strcmp(kind, "map"))
        open_map();
    uint64_t unit = strcmp(kind, "dump") ? 100 : 10;
    struct truth_site *first = truth_site("jit_first"), *second = truth_site("jit_second");
    truth_ready();
    while (truth_wait_go()) {
        while (truth_going) {
            compile(kind, "jit_first", 200000);
            run_first(first, 3 * unit);
            compile(kind, "jit_second", 100000);
            run_second(second, unit);
        }
    }
    return truth_finish();
}
