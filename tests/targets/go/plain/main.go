// Plain imports no profiling package at all, so that its runtime samples nothing by itself.
//
// It reads one command per line from stdin and ends each answer with a line "@@END".
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
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

// clocked is how long a call takes.
func clocked(wait func()) time.Duration {
	begin := time.Now()
	wait()
	return time.Since(begin)
}

//go:noinline
func waitMutex() time.Duration {
	var mu sync.Mutex
	held, done := make(chan int, 1), make(chan int)
	go func() {
		mu.Lock()
		held <- 1
		time.Sleep(pause)
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
		time.Sleep(pause)
		c <- 1
	}()
	return clocked(func() { <-c })
}

//go:noinline
func waitSend() time.Duration {
	c := make(chan int)
	go func() {
		time.Sleep(pause)
		<-c
	}()
	return clocked(func() { c <- 1 })
}

//go:noinline
func waitSelect() time.Duration {
	a, b := make(chan int), make(chan int)
	go func() {
		time.Sleep(pause)
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
		time.Sleep(pause)
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
		time.Sleep(pause)
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
		time.Sleep(pause)
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
		time.Sleep(pause)
		wg.Done()
	}()
	return clocked(wg.Wait)
}
