// Soak works forever: it allocates, collects garbage, contends for locks, and starts and ends
// goroutines. Like plain, it imports no profiling package.
//
// It reads one command per line from stdin and ends each answer with a line "@@END". "count" prints
// the number of rounds of work done, the CPU time used in nanoseconds, and the number of garbage
// collections.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
)

var (
	rounds atomic.Int64
	mu     sync.Mutex
	shared = map[int]int{}
)

func main() {
	debug.SetGCPercent(50)
	for i := 0; i < 4; i++ {
		go work(i)
	}
	fmt.Println("ready", os.Getpid(), runtime.Version())
	fmt.Println("@@END")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "count":
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			var usage syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
			fmt.Println(rounds.Load(), usage.Utime.Nano()+usage.Stime.Nano(), stats.NumGC)
		case "gc":
			runtime.GC()
		}
		fmt.Println("@@END")
	}
}

func work(seed int) {
	for i := 0; ; i++ {
		tree := grow(12, seed+i)
		done := make(chan int)
		for k := 0; k < 4; k++ {
			go func(k int) { done <- sum(tree) + spin(2000+k) }(k)
		}
		total := 0
		for k := 0; k < 4; k++ {
			total += <-done
		}
		mu.Lock()
		shared[total%1000] += i
		mu.Unlock()
		numbers := make([]int, 1000)
		for n := range numbers {
			numbers[n] = (n * 7919) % 1009
		}
		sort.Ints(numbers)
		rounds.Add(1)
	}
}

type node struct {
	left, right *node
	value       int
}

func grow(depth, value int) *node {
	if depth == 0 {
		return &node{value: value}
	}
	return &node{grow(depth-1, value+1), grow(depth-1, value+2), value}
}

func sum(n *node) int {
	if n == nil {
		return 0
	}
	return n.value + sum(n.left) + sum(n.right)
}

// spin has no call in its loop: only a signal can preempt it.
//
//go:noinline
func spin(n int) int {
	x := 1
	for i := 0; i < n; i++ {
		x = x*31 + i
	}
	return x & 1
}
