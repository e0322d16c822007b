package main

import (
	"runtime"
	"strings"
	"sync"
	"time"
)

var kept [][]byte

// allocate allocates n MiB that stay live, n MiB that become garbage, and some small objects.
func allocate(n int) {
	for i := 0; i < n; i++ {
		kept = append(kept, keep())
		sink = drop()
		small(5000)
	}
	sink = nil
}

//go:noinline
func keep() []byte { return make([]byte, 1<<20) }

//go:noinline
func drop() []byte { return make([]byte, 1<<20) }

type node struct {
	next *node
	data [3]int
}

var list *node

func small(n int) {
	for i := 0; i < n; i++ {
		list = &node{next: list}
	}
}

// contend makes n blocked waits of each kind, 5 ms each, and records all of them.
func contend(n int) {
	runtime.SetBlockProfileRate(1)
	runtime.SetMutexProfileFraction(1)
	waits(n)
	runtime.SetBlockProfileRate(0)
	runtime.SetMutexProfileFraction(0)
}

// waits makes the same waits without changing the rates.
func waits(n int) {
	for i := 0; i < n; i++ {
		waitMutex()
		waitChannel()
	}
}

// holdUp sleeps briefly, once the main goroutine is waiting: on a busy machine it may start to
// wait late, and without this check perhaps not at all.
func holdUp() {
	for !mainWaits() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(5 * time.Millisecond)
}

// mainWaits reports whether the main goroutine waits for another one.
func mainWaits() bool {
	all := make([]byte, 64<<10)
	all = all[:runtime.Stack(all, true)]
	_, state, found := strings.Cut(string(all), "goroutine 1 [")
	state, _, _ = strings.Cut(state, "]")
	for _, reason := range []string{"chan ", "select", "semacquire", "sync."} {
		if found && strings.HasPrefix(state, reason) {
			return true
		}
	}
	return false
}

func waitMutex() {
	var mu sync.Mutex
	held, done := make(chan int), make(chan int)
	go func() {
		mu.Lock()
		held <- 1
		holdUp()
		mu.Unlock()
		close(done)
	}()
	<-held
	mu.Lock()
	mu.Unlock()
	<-done
}

func waitChannel() {
	c := make(chan int)
	go func() {
		holdUp()
		c <- 1
	}()
	<-c
}
