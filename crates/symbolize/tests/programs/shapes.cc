#include <cstdio>
#include <string>
#include <vector>

#include "inlined.h"

volatile unsigned long sink;

namespace geometry {

template <typename T> struct Shape {
    T side;
    explicit Shape(T s) : side(s) {}
    virtual ~Shape() {}
    __attribute__((noinline)) virtual T area() const { return side * side + T(level3(sink)); }
    T doubled() const { return area() * 2; }
};

struct Named : Shape<long> {
    std::string name;
    Named(long s, std::string n) : Shape(s), name(std::move(n)) {}
    long area() const override;
};

__attribute__((noinline)) long Named::area() const {
    long sum = 0;
    for (char c : name)
        sum += c;
    return sum + long(level3(sum));
}

} // namespace geometry

namespace {
__attribute__((noinline)) unsigned long hidden(const std::vector<int> &v) {
    unsigned long s = 0;
    for (int i : v)
        s += level4(i);
    return s;
}
} // namespace

int main() {
    std::vector<int> v;
    for (int i = 0; i < 10; i++)
        v.push_back(i);
    auto lambda = [&](int k) __attribute__((noinline)) { return hidden(v) + k + level3(k); };
    geometry::Shape<int> s(3);
    geometry::Named n(4, "four");
    geometry::Shape<long> *p = &n;
    std::printf("%lu %d %ld\n", lambda(3), s.doubled(), p->doubled());
}
