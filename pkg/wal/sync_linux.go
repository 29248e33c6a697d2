package wal

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fdatasync makes f's data and size durable. It is never called again after an error.
func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) { // interrupted before it began: no answer of the disk
			return err
		}
	}
}
