// Plain imports no profiling package at all, so that its runtime samples nothing by itself.
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
	// more are the commands that need a profiling package: see own.go.
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
			// How long it waited, by its own clock.
			mutex, channel := waits(n, waitMutex), waits(n, waitChannel)
			fmt.Println("waited", mutex.Nanoseconds(), channel.Nanoseconds())
		case "waits":
			// Each kind of wait by the name of its function, and how long it waited.
			for _, k := range kinds {
				fmt.Println(k.name, waits(n, k.wait).Nanoseconds())
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

func waits(n int, wait func() time.Duration) (all time.Duration) {
	for i := 0; i < n; i++ {
		all += wait()
	}
	return all
}

var kinds = []struct {
	name string
	wait func() time.Duration
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

// woken is when the main goroutine was let go on.
var woken time.Time

// clocked is how long the main goroutine waits in a call, until it is woken: when it runs again is a
// matter of the machine.
func clocked(wait func()) time.Duration {
	begin := time.Now()
	wait()
	return woken.Sub(begin)
}

// holdUp lets some time pass in which the main goroutine waits. On a busy machine it may come to that
// late, and would not wait at all if nobody waited for it.
func holdUp() {
	for !mainWaits() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(pause)
	woken = time.Now()
}

// mainWaits is whether the main goroutine waits for another one.
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
func waitMutex() time.Duration {
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
	waited := clocked(mu.Lock)
	mu.Unlock()
	<-done
	return waited
}

//go:noinline
func waitChannel() time.Duration {
	c := make(chan int)
	go func() {
		holdUp()
		c <- 1
	}()
	return clocked(func() { <-c })
}

//go:noinline
func waitSend() time.Duration {
	c := make(chan int)
	go func() {
		holdUp()
		<-c
	}()
	return clocked(func() { c <- 1 })
}

//go:noinline
func waitSelect() time.Duration {
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
func waitCond() time.Duration {
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
	waited := clocked(func() {
		for !ready {
			c.Wait()
		}
	})
	c.L.Unlock()
	return waited
}

//go:noinline
func waitReader() time.Duration {
	var mu sync.RWMutex
	held := make(chan int, 1)
	go func() {
		mu.Lock()
		held <- 1
		holdUp()
		mu.Unlock()
	}()
	<-held
	waited := clocked(mu.RLock)
	mu.RUnlock()
	return waited
}

//go:noinline
func waitWriter() time.Duration {
	var mu sync.RWMutex
	held := make(chan int, 1)
	go func() {
		mu.RLock()
		held <- 1
		holdUp()
		mu.RUnlock()
	}()
	<-held
	waited := clocked(mu.Lock)
	mu.Unlock()
	return waited
}

//go:noinline
func waitGroup() time.Duration {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		holdUp()
		wg.Done()
	}()
	return clocked(wg.Wait)
}
