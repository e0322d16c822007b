// Cpu spends CPU time in known ways, and can profile itself for comparison.
//
// It speaks the handshake of tests/targets/truth.h: "ready", then "go N" starts the mode named by
// its argument, "mark" prints the CPU time of each site so far, and the end of stdin ends it.
// "profile MS PATH" writes its own runtime/pprof profile of that much CPU time.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

var modes = map[string]func(){
	"labels":  labels,
	"mix":     mix,
	"gc":      gc,
	"names":   names,
	"cgo":     cgo,
	"waits":   waits,
	"systems": systems,
}

var (
	sites   sync.Map
	started sync.Once
	sink    atomic.Uint64
)

func main() {
	mode := modes[os.Args[1]]
	fmt.Println("ready version=" + runtime.Version())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		switch words[0] {
		case "go":
			go mode()
		case "mark":
			mark()
		case "profile":
			profile(words[1], words[2])
			fmt.Println("done")
		}
	}
	mark()
}

func profile(ms, path string) {
	d, err := time.ParseDuration(ms + "ms")
	if err != nil {
		panic(err)
	}
	f, err := os.Create(path)
	if err != nil {
		panic(err)
	}
	// More samples than the usual 100 a second. The rate set first is kept, with a warning on stderr.
	runtime.SetCPUProfileRate(500)
	if err := pprof.StartCPUProfile(f); err != nil {
		panic(err)
	}
	for end := processTime() + d; processTime() < end; {
		time.Sleep(10 * time.Millisecond)
	}
	pprof.StopCPUProfile()
	f.Close()
}

// processTime is the CPU time of all threads: the same amount has as many samples on a busy
// machine.
func processTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// mark prints nanoseconds of CPU time by site.
func mark() {
	words := []string{"truth"}
	sites.Range(func(name, ns any) bool {
		words = append(words, fmt.Sprintf("%s=%d", name, ns.(*atomic.Int64).Load()))
		return true
	})
	sort.Strings(words[1:])
	fmt.Println(strings.Join(words, " "))
}

func site(name string) *atomic.Int64 {
	ns, _ := sites.LoadOrStore(name, new(atomic.Int64))
	return ns.(*atomic.Int64)
}

// threadTime is the CPU time of this thread, to which callers have locked themselves.
func threadTime() int64 {
	var t syscall.Timespec
	const threadClock = 3
	if _, _, e := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, threadClock, uintptr(unsafe.Pointer(&t)), 0); e != 0 {
		panic(e)
	}
	return t.Nano()
}

// burn works for about this many microseconds.
//
//go:noinline
func burn(micros int) {
	x := sink.Load()
	for i := 0; i < micros*60; i++ {
		for k := 0; k < 8; k++ {
			x = x*6364136223846793005 + 1442695040888963407
		}
	}
	sink.Store(x)
}

// timed runs a piece of work and adds its CPU time to a site.
func timed(name string, work func()) {
	begin := threadTime()
	work()
	site(name).Add(threadTime() - begin)
}

// labels serves three kinds of requests, short and long ones: each goroutine changes its labels
// many times between two readings of the profiler's ring buffers.
func labels() {
	for w := 0; w < 2; w++ {
		go func() {
			runtime.LockOSThread()
			for {
				labelled("short", short)
				labelled("middle", middle)
				labelled("long", long)
				timed("none", unlabelled)
			}
		}()
	}
	pprof.Do(context.Background(), pprof.Labels(many()...), func(context.Context) {
		runtime.LockOSThread()
		for {
			timed("many", manyLabelled)
		}
	})
}

func labelled(name string, work func()) {
	ctx := pprof.Labels("request", name, "kind", "served")
	pprof.Do(context.Background(), ctx, func(context.Context) { timed(name, work) })
}

//go:noinline
func short() { burn(700); sink.Add(1) }

//go:noinline
func middle() { burn(2100); sink.Add(1) }

//go:noinline
func long() { burn(4200); sink.Add(1) }

//go:noinline
func unlabelled() { burn(1400); sink.Add(1) }

//go:noinline
func manyLabelled() { burn(1000); sink.Add(1) }

// many returns more labels, and longer ones, than can be copied with a sample.
func many() (all []string) {
	for i := 0; i < 12; i++ {
		all = append(all, fmt.Sprintf("key%02d", i), strings.Repeat("é", 60+10*i))
	}
	return all
}

// systems switches to the system stack in every way: allocating large objects, growing stacks,
// reading clocks.
func systems() {
	for w := 0; w < 2; w++ {
		go func() {
			for {
				large()
				deepen(60)
				clocks()
			}
		}()
	}
	select {}
}

var kept atomic.Pointer[[]byte]

//go:noinline
func large() {
	for i := 0; i < 4; i++ {
		b := make([]byte, 128<<10)
		kept.Store(&b)
	}
}

//go:noinline
func clocks() {
	for i := 0; i < 2000; i++ {
		sink.Store(uint64(time.Now().UnixNano()))
	}
}

// deepen makes a new goroutine's stack grow.
func deepen(n int) {
	done := make(chan int)
	go func() { done <- deeper(n) }()
	<-done
}

//go:noinline
func deeper(n int) int {
	var room [128]byte
	room[n%128] = byte(n)
	if n == 0 {
		return int(room[3])
	}
	return deeper(n-1) + int(room[n%7])
}
