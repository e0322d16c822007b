// Plain imports no profiling package, so its runtime samples nothing on its own.
//
// It reads one command per line from stdin and ends each answer with a line "@@END".
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
)

var (
	kept [][]byte
	sink []byte
	// more handles the commands that need a profiling package: see own.go.
	more func(command string)
)

func main() {
	fmt.Println("ready", os.Getpid(), runtime.Version())
	fmt.Println("@@END")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var command string
		var n int
		fmt.Sscan(in.Text(), &command, &n)
		switch command {
		case "keep":
			for i := 0; i < n*64; i++ {
				kept = append(kept, keep())
			}
		case "drop":
			for i := 0; i < n*64; i++ {
				sink = drop()
			}
		case "spread":
			var done sync.WaitGroup
			for p := 0; p < runtime.GOMAXPROCS(0); p++ {
				done.Add(1)
				go func() {
					defer done.Done()
					for i := 0; i < n*64; i++ {
						local := drop()
						local[0] = 1
					}
				}()
			}
			done.Wait()
		case "gc":
			sink = nil
			runtime.GC()
			runtime.GC()
		case "contend":
			// How long it waited for the mutex, by its own clock.
			mutex := waits(n, waitMutex)
			waits(n, waitChannel)
			fmt.Println("waited", mutex.least.Nanoseconds(), mutex.most.Nanoseconds())
		case "waits":
			// For each kind of wait, the name of its function and how long it waited.
			for _, k := range kinds {
				all := waits(n, k.wait)
				fmt.Println(k.name, all.least.Nanoseconds(), all.most.Nanoseconds())
			}
		case "quit":
			os.Exit(0)
		default:
			if more != nil {
				more(in.Text())
			}
		}
		fmt.Println("@@END")
	}
}

//go:noinline
func keep() []byte { return make([]byte, 16<<10) }

//go:noinline
func drop() []byte { return make([]byte, 16<<10) }

func waits(n int, wait func() waited) (all waited) {
	for i := 0; i < n; i++ {
		one := wait()
		all.least += one.least
		all.most += one.most
	}
	return all
}

var kinds = []struct {
	name string
	wait func() waited
}{
	{"waitMutex", waitMutex},
	{"waitChannel", waitChannel},
	{"waitSend", waitSend},
	{"waitSelect", waitSelect},
	{"waitCond", waitCond},
	{"waitReader", waitReader},
	{"waitWriter", waitWriter},
	{"waitGroup", waitGroup},
}

const pause = 5 * time.Millisecond

// woken is the time just before the main goroutine was woken.
var woken time.Time

// waited is how long the main goroutine waited: at least until just before it was woken, at most
// until it ran again. On a busy machine, both goroutines may lose the CPU in between.
type waited struct{ least, most time.Duration }

// clocked measures how long the main goroutine waits in a call.
func clocked(wait func()) waited {
	begin := time.Now()
	wait()
	return waited{woken.Sub(begin), time.Since(begin)}
}

// holdUp sleeps briefly, once the main goroutine is waiting: on a busy machine it may start to
// wait late, and without this check perhaps not at all.
func holdUp() {
	for !mainWaits() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(pause)
	woken = time.Now()
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

//go:noinline
func waitMutex() waited {
	var mu sync.Mutex
	held, done := make(chan int, 1), make(chan int)
	go func() {
		mu.Lock()
		held <- 1
		holdUp()
		mu.Unlock()
		close(done)
	}()
	<-held
	took := clocked(mu.Lock)
	mu.Unlock()
	<-done
	return took
}

//go:noinline
func waitChannel() waited {
	c := make(chan int)
	go func() {
		holdUp()
		c <- 1
	}()
	return clocked(func() { <-c })
}

//go:noinline
func waitSend() waited {
	c := make(chan int)
	go func() {
		holdUp()
		<-c
	}()
	return clocked(func() { c <- 1 })
}

//go:noinline
func waitSelect() waited {
	a, b := make(chan int), make(chan int)
	go func() {
		holdUp()
		b <- 1
	}()
	return clocked(func() {
		select {
		case <-a:
		case <-b:
		}
	})
}

//go:noinline
func waitCond() waited {
	c := sync.NewCond(&sync.Mutex{})
	ready := false
	c.L.Lock()
	go func() {
		holdUp()
		c.L.Lock()
		ready = true
		c.L.Unlock()
		c.Signal()
	}()
	took := clocked(func() {
		for !ready {
			c.Wait()
		}
	})
	c.L.Unlock()
	return took
}

//go:noinline
func waitReader() waited {
	var mu sync.RWMutex
	held := make(chan int, 1)
	go func() {
		mu.Lock()
		held <- 1
		holdUp()
		mu.Unlock()
	}()
	<-held
	took := clocked(mu.RLock)
	mu.RUnlock()
	return took
}

//go:noinline
func waitWriter() waited {
	var mu sync.RWMutex
	held := make(chan int, 1)
	go func() {
		mu.RLock()
		held <- 1
		holdUp()
		mu.RUnlock()
	}()
	<-held
	took := clocked(mu.Lock)
	mu.Unlock()
	return took
}

//go:noinline
func waitGroup() waited {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		holdUp()
		wg.Done()
	}()
	return clocked(wg.Wait)
}
