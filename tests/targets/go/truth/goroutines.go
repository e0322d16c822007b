package main

import (
	"context"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"
)

var (
	started sync.WaitGroup
	sink    []byte
)

// startAll starts one goroutine for each kind of wait, and twenty of different depth.
func startAll() {
	start("chan receive", func() { <-make(chan int) })
	start("chan send", func() { make(chan int) <- 1 })
	start("nil receive", func() { var c chan int; <-c })
	start("select", func() {
		a, b := make(chan int), make(chan int)
		select {
		case <-a:
		case b <- 1:
		}
	})
	start("select none", func() { select {} })
	start("sleep", func() { time.Sleep(100 * time.Hour) })
	start("mutex", func() { var mu sync.Mutex; mu.Lock(); mu.Lock() })
	start("rwmutex", func() { var mu sync.RWMutex; mu.Lock(); mu.RLock() })
	start("cond", func() { c := sync.NewCond(&sync.Mutex{}); c.L.Lock(); c.Wait() })
	start("waitgroup", func() { var wg sync.WaitGroup; wg.Add(1); wg.Wait() })
	start("locked", func() { runtime.LockOSThread(); <-make(chan int) })
	start("accept", func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		l.Accept()
	})
	start("syscall", func() {
		var p [2]int
		if err := syscall.Pipe(p[:]); err != nil {
			panic(err)
		}
		syscall.Read(p[0], make([]byte, 1))
	})
	start("pipe", func() {
		r, _, err := os.Pipe()
		if err != nil {
			panic(err)
		}
		r.Read(make([]byte, 1))
	})
	start("inlined", func() { outer(make(chan int)) })
	start("generic", func() { (&box[string]{c: make(chan string)}).wait() })
	start("wrapper", func() { waiter(embeds{&embedded{make(chan int)}}).Wait() })
	start("deferred", func() { defer func() { <-make(chan int) }() })
	start("panicking", inPanic)
	for depth := 0; depth < 20; depth++ {
		depth := depth
		start("depth", func() { descend(depth) })
	}
	start("deep", func() { descend(90) })
	many := []string{}
	for i := 0; i < 12; i++ {
		many = append(many, "key"+string(rune('a'+i)), "value \"quoted\" é")
	}
	labelled("labels", func() { <-make(chan int) }, "endpoint", "/users", "method", "GET")
	labelled("more labels", func() { <-make(chan int) }, many...)
	started.Wait()
	settle()
}

func start(name string, f func()) {
	started.Add(1)
	go func() {
		started.Done()
		f()
	}()
}

func labelled(name string, f func(), labels ...string) {
	start(name, func() { pprof.Do(context.Background(), pprof.Labels(labels...), func(context.Context) { f() }) })
}

// settle waits until every goroutine is parked. A goroutine that has just started is not, and only
// time can show when it is.
func settle() { time.Sleep(300 * time.Millisecond) }

func outer(c chan int)  { middle(c) }
func middle(c chan int) { inner(c) }
func inner(c chan int)  { <-c }

type box[T any] struct{ c chan T }

//go:noinline
func (b *box[T]) wait() { <-b.c }

type waiter interface{ Wait() }
type embedded struct{ c chan int }
type embeds struct{ *embedded }

//go:noinline
func (e *embedded) Wait() { <-e.c }

//go:noinline
func descend(n int) {
	if n == 0 {
		<-make(chan int)
	}
	descend(n - 1)
}

func inPanic() {
	defer func() { <-make(chan int) }()
	var p *int
	*p = 1
}

// spin starts n goroutines that never yield the CPU.
func spin(n int) {
	for i := 0; i < n; i++ {
		go spinning()
	}
	settle()
}

var spun uint64

func spinning() {
	for i := uint64(0); ; i++ {
		spun = mix(i, spun)
	}
}

// mix has no stack frame and takes most of the time.
//
//go:noinline
func mix(a, b uint64) uint64 {
	for i := 0; i < 40; i++ {
		a = a*31 + b
	}
	return a
}

// many starts n waiting goroutines.
func many(n int) {
	for i := 0; i < n; i++ {
		start("many", func() { <-make(chan int) })
	}
	started.Wait()
	settle()
}

// churn starts n pairs of goroutines that start, pass messages at changing depth, and end.
func churn(n int) {
	for i := 0; i < n; i++ {
		go func() {
			for {
				done := make(chan int)
				go churned(done, 3+int(spun%17))
				<-done
			}
		}()
	}
	settle()
}

//go:noinline
func churned(done chan int, depth int) {
	if depth > 0 {
		churned(done, depth-1)
		return
	}
	runtime.Gosched()
	done <- 1
}
