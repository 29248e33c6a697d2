package bench

import (
	"os"

	"golang.org/x/sys/unix"
)

func fdatasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) } //nolint:gosec // a file descriptor

// uncache takes what is synced of f out of the page cache.
func uncache(f *os.File) error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) } //nolint:gosec // a file descriptor
