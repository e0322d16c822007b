package main

import (
	"bytes"
	"runtime/debug"
	"strings"
	"time"
)

// stress starts n goroutines that spend their time in assembly, in the allocator, in the garbage
// collector, in the vDSO and in growing stacks.
func stress(n int) {
	debug.SetGCPercent(20)
	for i := 0; i < n; i++ {
		go stressing(i)
	}
	settle()
}

var stressed [64]int

func stressing(i int) {
	big := bytes.Repeat([]byte("some text "), 1000)
	for {
		other := append([]byte(nil), big...)
		stressed[i%64] += bytes.IndexByte(other, 'z') + bytes.Count(other, []byte("x"))
		stressed[i%64] += strings.Count(string(other), "t ")
		m := map[int]string{}
		for k := 0; k < 50; k++ {
			m[k] = string(other[k : k+8])
		}
		for k := 0; k < 20; k++ {
			stressed[i%64] += time.Now().Nanosecond()
		}
		stressed[i%64] += grow(200) + len(m)
	}
}

//go:noinline
func grow(n int) int {
	var room [64]byte
	if n == 0 {
		return 0
	}
	room[n%64] = byte(n)
	return grow(n-1) + int(room[7])
}
