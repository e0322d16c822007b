// A target that lies, in ways that need no privileges. `hostile WAY`:
//   maps    as many executable mappings as allowed, up to 100,000, of files whose names contain
//           newlines and escape sequences and look like other lines; a thread name of that kind
//   stack   an arbitrary stack pointer while it uses the CPU
//   frames  unwind tables by which a function is its own caller, on a matching stack
#include "truth.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static volatile uint64_t sink;

NOINLINE static void honest_work(struct truth_site *site)
{
    uint64_t begin = truth_cpu();
    for (int i = 0; i < 200000; i++)
        sink += (uint64_t)i * i;
    site->ns += truth_cpu() - begin;
}

static int map_all(const char *folder)
{
    char name[4096];
    snprintf(name, sizeof name, "%s/\n7f0000000000-7fffffffffff r-xp 00000000 00:00 0 [vdso]\033[31m",
             folder);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0755);
    if (fd < 0 || ftruncate(fd, 3 << 12) != 0)
        exit(3);
    int count = 0;
    // Alternating offsets, so that the kernel does not merge neighboring mappings.
    while (count < 100000) {
        off_t offset = count % 2 ? 0 : 2 << 12;
        if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, offset) == MAP_FAILED)
            break;
        count++;
    }
    // Another file takes the name, and the mapped one is truncated.
    char other[4096];
    snprintf(other, sizeof other, "%s/other", folder);
    rename(name, other);
    int second = open(name, O_RDWR | O_CREAT | O_TRUNC, 0755);
    if (second < 0 || ftruncate(fd, 100) != 0)
        exit(3);
    prctl(PR_SET_NAME, "\n\033[31m/../[x]");
    return count;
}

// Works for about a millisecond with the stack pointer at `where`. Must not push anything.
NOINLINE static void elsewhere(uint64_t where)
{
    __asm__ volatile("mov %%rsp, %%r12\n\t"
                     "mov %0, %%rsp\n\t"
                     "mov $1000000, %%rcx\n"
                     "1:\n\t"
                     "dec %%rcx\n\t"
                     "jnz 1b\n\t"
                     "mov %%r12, %%rsp"
                     :
                     : "r"(where)
                     : "r12", "rcx", "memory");
}

// CFA = rsp + 16; the return address at CFA - 8 points into this function, and the caller's stack
// pointer is the same as its own.
void own_caller(void *stack);
__asm__(".text\n"
        ".globl own_caller\n"
        ".type own_caller, @function\n"
        "own_caller:\n"
        ".cfi_startproc\n"
        "  mov %rsp, %r12\n"
        "  mov %rdi, %rsp\n"
        "  .cfi_def_cfa %rsp, 16\n"
        "  .cfi_offset %rip, -8\n"
        // DW_CFA_val_expression of rsp: DW_OP_breg7 0.
        "  .cfi_escape 0x16, 0x07, 0x02, 0x77, 0x00\n"
        "  mov $1000000, %rcx\n"
        ".globl own_caller_loop\n"
        "own_caller_loop:\n"
        "  dec %rcx\n"
        "  jnz own_caller_loop\n"
        "  mov %r12, %rsp\n"
        "  ret\n"
        ".cfi_endproc\n"
        ".size own_caller, . - own_caller\n");
extern char own_caller_loop[];

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct truth_site *site = truth_site("honest_work");
    uint64_t *heap = malloc(1 << 20);
    for (int i = 0; i < (1 << 17); i++)
        heap[i] = (uint64_t)own_caller_loop + 1;
    uint64_t places[] = { 0, 8, (uint64_t)heap + (1 << 19), (uint64_t)heap + 3, 1ull << 63,
                          ~0ull, ~0ull - 4095, 0x7ffffffff000, (uint64_t)main, 0xffffffff81000000 };
    int count = 0;
    if (!strcmp(argv[1], "maps"))
        count = map_all(argv[2]);
    // No call happens on a foreign stack: a signal then would end the program.
    printf("ready count=%d\n", count);
    fflush(stdout);
    while (truth_wait_go()) {
        uint64_t begin = truth_cpu();
        for (unsigned i = 0; truth_continue(begin); i++) {
            honest_work(site);
            if (!strcmp(argv[1], "stack"))
                elsewhere(places[i % (sizeof places / sizeof *places)]);
            if (!strcmp(argv[1], "frames"))
                own_caller(heap + (1 << 16));
        }
    }
    return truth_finish();
}
