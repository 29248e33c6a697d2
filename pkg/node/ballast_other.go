//go:build !linux

package node

import (
	"errors"
	"os"
)

// fallocate makes f size bytes long, with room on the disk for all of them; errors.ErrUnsupported where the file system can't.
func fallocate(*os.File, int64) error { return errors.ErrUnsupported }
