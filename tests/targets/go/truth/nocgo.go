//go:build !cgo

package main

func throughC() {}
