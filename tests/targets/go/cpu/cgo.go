//go:build cgo

package main

/*
#include <math.h>
#include <unistd.h>
#cgo CFLAGS: -O2 -fomit-frame-pointer
#cgo LDFLAGS: -lm
extern void fromC(int n);
extern void waitsFromC(void);

// The attribute keeps this small function from being inlined; the work needs all registers.
__attribute__((noinline)) static double c_work(int n) {
	double a = 1, b = 2, c = 3, d = 4;
	for (int i = 0; i < n * 60; i++) {
		a = a * 1.0000001 + b; b = b * 0.9999999 + c; c = sqrt(c + d); d = d * 0.5 + a;
	}
	return a + b + c + d;
}
__attribute__((noinline)) static double c_outer(int n) { return c_work(n) + 1; }
__attribute__((noinline)) static void c_calls_back(int n) {
	volatile int keep = n;
	fromC(n);
	keep++;
}
__attribute__((noinline)) static void c_waits(void) { for (;;) pause(); }
__attribute__((noinline)) static void c_calls_waiter(void) {
	volatile int keep = 1;
	waitsFromC();
	keep++;
}
*/
import "C"

// cgo works in C, in Go called by C, and in C called by that Go code.
func cgo() {
	for {
		intoC(100)
		throughC(100)
	}
}

//go:noinline
func intoC(n int) { sink.Add(uint64(C.c_outer(C.int(n)))) }

//go:noinline
func throughC(n int) { C.c_calls_back(C.int(n)) }

//export fromC
func fromC(n C.int) {
	calledBack(int(n))
	burn(int(n))
	grow(6)
}

//go:noinline
func calledBack(n int) { sink.Add(uint64(C.c_outer(C.int(n)))) }

// waits waits in C, and in C called by Go that C called.
func waits() {
	go waitInC()
	C.c_calls_waiter()
}

//go:noinline
func waitInC() { C.c_waits() }

//export waitsFromC
func waitsFromC() { waitInC() }
