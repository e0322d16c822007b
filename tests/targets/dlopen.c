// For tests that code which is loaded and unloaded keeps its name: `dlopen ALPHA.so BETA.so` loads
// one plugin, works in it for about 20 ms, unloads it and loads the other, alpha twice as often as
// beta. `same` counts how often the other was loaded at the same address, which is most of the
// time.
#include "truth.h"

#include <dlfcn.h>

static volatile uint64_t sink;
static uintptr_t last_address;
static const char *last_name;

NOINLINE static void use_plugin(const char *path, const char *name, struct truth_site *site,
                                struct truth_site *same)
{
    void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!plugin) {
        fprintf(stderr, "%s\n", dlerror());
        exit(3);
    }
    uint64_t (*run)(uint64_t) = (uint64_t (*)(uint64_t))dlsym(plugin, name);
    if (!run)
        exit(3);
    if (last_name != name && last_address == (uintptr_t)run)
        same->ns++;
    last_name = name;
    last_address = (uintptr_t)run;
    uint64_t begin = truth_cpu(), now = begin;
    while (now - begin < 20000000) {
        sink += run(100000);
        now = truth_cpu();
    }
    site->ns += now - begin;
    dlclose(plugin);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct truth_site *alpha = truth_site("alpha_work"), *beta = truth_site("beta_work"),
                      *same = truth_site("same");
    truth_ready();
    while (truth_wait_go()) {
        uint64_t begin = truth_cpu();
        for (int i = 0; truth_continue(begin); i++)
            if (i % 3 == 0)
                use_plugin(argv[2], "beta_work", beta, same);
            else
                use_plugin(argv[1], "alpha_work", alpha, same);
    }
    return truth_finish();
}
