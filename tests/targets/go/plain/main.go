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
			var mutex, channel time.Duration
			for i := 0; i < n; i++ {
				mutex += waitMutex()
				channel += waitChannel()
			}
			// How long it waited, by its own clock.
			fmt.Println("waited", mutex.Nanoseconds(), channel.Nanoseconds())
		case "quit":
			os.Exit(0)
		}
		fmt.Println("@@END")
	}
}

//go:noinline
func keep() []byte { return make([]byte, 16<<10) }

//go:noinline
func drop() []byte { return make([]byte, 16<<10) }

func waitMutex() time.Duration {
	var mu sync.Mutex
	held, done := make(chan int), make(chan int)
	go func() {
		mu.Lock()
		held <- 1
		time.Sleep(5 * time.Millisecond)
		mu.Unlock()
		close(done)
	}()
	<-held
	begin := time.Now()
	mu.Lock()
	waited := time.Since(begin)
	mu.Unlock()
	<-done
	return waited
}

func waitChannel() time.Duration {
	c := make(chan int)
	go func() {
		time.Sleep(5 * time.Millisecond)
		c <- 1
	}()
	begin := time.Now()
	<-c
	return time.Since(begin)
}
