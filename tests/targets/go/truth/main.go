// Truth is the reference for the readers of the Go runtime: it does what Go programs do with
// goroutines, the heap and locks, and prints its own runtime's view of it.
//
// It reads one command per line from stdin and ends each answer with a line "@@END".
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
)

var out = bufio.NewWriter(os.Stdout)

func main() {
	debug.SetGCPercent(-1)
	startAll()
	fmt.Fprintf(out, "ready %d %s\n", os.Getpid(), runtime.Version())
	end()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if len(words) == 0 {
			continue
		}
		if words[0] == "write" {
			write(words[1], words[2])
			end()
			continue
		}
		n := 0
		if len(words) > 1 {
			n, _ = strconv.Atoi(words[1])
		}
		run(words[0], n)
		end()
	}
}

func end() {
	fmt.Fprintln(out, "@@END")
	out.Flush()
}

func run(command string, n int) {
	switch command {
	case "goroutine", "heap", "allocs", "block", "mutex", "threadcreate", "goroutineleak":
		if err := pprof.Lookup(command).WriteTo(out, n); err != nil {
			panic(err)
		}
	case "gc":
		runtime.GC()
		runtime.GC()
	case "rates":
		// A negative argument only queries the value.
		fmt.Fprintf(out, "%d %d\n", runtime.MemProfileRate, runtime.SetMutexProfileFraction(-1))
	case "alloc":
		allocate(n)
	case "contend":
		contend(n)
	case "setrates":
		runtime.SetBlockProfileRate(n)
		runtime.SetMutexProfileFraction(n)
	case "wait":
		waits(n)
	case "collections":
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		fmt.Fprintf(out, "%d\n", stats.NumGC)
	case "spin":
		spin(n)
	case "stress":
		stress(n)
	case "many":
		many(n)
	case "churn":
		churn(n)
	case "frames":
		frames()
	case "panic":
		inPanic()
	case "cgo":
		throughC()
	case "symbols":
		fmt.Fprintf(out, "%p %p\n", allocate, inPanic)
	case "quit":
		os.Exit(0)
	default:
		fmt.Fprintf(out, "no such command: %s\n", command)
	}
}

// write writes a profile in the form of debug=0 to a file.
func write(kind, path string) {
	file, err := os.Create(path)
	if err != nil {
		panic(err)
	}
	if err := pprof.Lookup(kind).WriteTo(file, 0); err != nil {
		panic(err)
	}
	file.Close()
}

// frames prints the runtime's information on every program counter of some functions.
func frames() {
	for _, f := range []interface{}{allocate, contend, startAll, many, runtime.GC, fmt.Fprintf, strings.Fields, strconv.Atoi} {
		printFrames(f)
	}
}
