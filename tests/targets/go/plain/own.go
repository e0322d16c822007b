//go:build own

package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// Built with this file, the program can write its own profiles for comparison: "write KIND PATH".
func init() {
	more = func(command string) {
		var kind, path string
		fmt.Sscanf(command, "write %s %s", &kind, &path)
		file, err := os.Create(path)
		if err != nil {
			panic(err)
		}
		if err := pprof.Lookup(kind).WriteTo(file, 0); err != nil {
			panic(err)
		}
		file.Close()
	}
}
