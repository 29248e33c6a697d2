//go:build !linux

package wal

import "os"

// fdatasync makes f's data and size durable. It is never called again after an error.
func fdatasync(f *os.File) error { return f.Sync() }
