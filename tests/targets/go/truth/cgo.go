//go:build cgo

package main

/*
#include <unistd.h>
extern void fromC(void);
static void intoC(void) { fromC(); }
*/
import "C"

func throughC() {
	start("cgo", func() { C.intoC() })
	start("cgo blocked", func() { C.pause() })
	started.Wait()
	settle()
}

//export fromC
func fromC() { <-make(chan int) }
