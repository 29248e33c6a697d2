package node

import (
	"os"

	"golang.org/x/sys/unix"
)

// fallocate makes f size bytes long, with room on the disk for all of them; errors.ErrUnsupported where the file system can't.
func fallocate(f *os.File, size int64) error { return unix.Fallocate(int(f.Fd()), 0, 0, size) } //nolint:gosec // a descriptor
