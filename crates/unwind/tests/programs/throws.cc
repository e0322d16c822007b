// Throws an exception, so that the C++ runtime's own unwinder can be stepped through.
#include <stdexcept>
#include <string>

static volatile long sink;

struct Guard {
    ~Guard() { sink = sink + 1; }
};

__attribute__((noinline)) void throws(int n) {
    Guard guard;
    if (n > 0) throw std::runtime_error("thrown");
    sink = sink + 1;
}

__attribute__((noinline)) int catches(int n) {
    try {
        Guard guard;
        throws(n);
    } catch (const std::exception &e) {
        return std::string(e.what()).size();
    }
    return 0;
}

int main(int argc, char **) { return catches(argc) == 6 ? 0 : 1; }
