//go:build !linux

package bench

import (
	"errors"
	"os"
)

func fdatasync(f *os.File) error { return f.Sync() }

// uncache can't be done here, so a start with a cold cache is not measured.
func uncache(*os.File) error { return errors.ErrUnsupported }
