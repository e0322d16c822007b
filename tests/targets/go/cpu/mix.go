package main

import (
	"bytes"
	"runtime"
	"sort"
	"strings"
)

// mix spends its time in frameless assembly, in the allocator and in small functions.
func mix() {
	runtime.LockOSThread()
	big := bytes.Repeat([]byte("some text "), 20000)
	other := make([]byte, len(big))
	for {
		timed("moves", func() { moves(other, big) })
		timed("searches", func() { searches(other) })
		timed("sorts", sorts)
		timed("builds", builds)
	}
}

//go:noinline
func moves(to, from []byte) {
	for i := 0; i < 60; i++ {
		copy(to, from)
	}
}

//go:noinline
func searches(in []byte) {
	for i := 0; i < 40; i++ {
		sink.Add(uint64(bytes.IndexByte(in, 'z') + bytes.Count(in, []byte("x"))))
	}
}

var values = make([]int, 5000)

//go:noinline
func sorts() {
	for i := range values {
		values[i] = (i * 7919) % 5003
	}
	sort.Ints(values)
}

//go:noinline
func builds() {
	var b strings.Builder
	m := map[int]string{}
	for i := 0; i < 3000; i++ {
		b.WriteString("word ")
		m[i%100] = b.String()[:i%50]
	}
	sink.Add(uint64(len(m)))
}

type tree struct{ left, right *tree }

func grow(depth int) *tree {
	if depth == 0 {
		return &tree{}
	}
	return &tree{grow(depth - 1), grow(depth - 1)}
}

var live *tree

// gc keeps the garbage collector busy: it marks the live tree again each time.
func gc() {
	live = grow(16)
	for w := 0; w < 2; w++ {
		go func() {
			for {
				grow(12)
			}
		}()
	}
	select {}
}
