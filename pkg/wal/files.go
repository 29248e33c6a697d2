package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	logName  = "LOG"
	markName = "MARK"
	lockName = "LOCK"
	tempName = ".TEMP" // ending of a file that is being written beside another

	dirPerm  = 0o700
	filePerm = 0o600
)

// replace leaves the old or the new content at path, whatever happens in between, and returns when the new one is on disk.
func replace(path string, data []byte) error {
	temp := path + tempName
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes creations, renames and removals in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes dir and its parents, each durable in its own parent.
func makeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// createEmpty makes an empty file durable, without its directory.
func createEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, filePerm)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// cutFile shortens path to size bytes and syncs it, also where it is no longer than that.
func cutFile(path string, size int64, sync func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = sync(f)
	}
	return errors.Join(err, f.Close())
}

// removeDurably removes files one by one, each durable before the next.
func removeDurably(dir string, names []string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// takeLock holds LOCK until the file is closed, or says that another has it.
func takeLock(dir string, shard themis.ShardID) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, filePerm)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, themis.Errorf(themis.RefusedUnsafe, "log %s is open already, in this process or another", dir).
				In(shard).Do("fuser -v %s", filepath.Join(dir, lockName))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}
