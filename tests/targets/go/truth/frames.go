package main

import (
	"fmt"
	"reflect"
	"runtime"
)

// printFrames prints, for each byte of a function, the innermost frame that the runtime finds
// there.
func printFrames(function interface{}) {
	entry := reflect.ValueOf(function).Pointer()
	physical := runtime.FuncForPC(entry).Entry()
	within := func(pc uintptr) bool {
		f := runtime.FuncForPC(pc)
		return f != nil && f.Entry() == physical
	}
	// CallersFrames expects return addresses and subtracts one, except from an entry.
	for pc := entry; within(pc) && within(pc+1); pc++ {
		frames := runtime.CallersFrames([]uintptr{pc + 1})
		frame, _ := frames.Next()
		fmt.Fprintf(out, "%#x %s %s %d\n", pc, frame.Function, frame.File, frame.Line)
	}
}
