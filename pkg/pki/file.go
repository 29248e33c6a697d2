package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/themisdb/themis/pkg/themis"
)

// maxFileBytes bounds what is read from one file. A CRL of a million entries fits.
const maxFileBytes = 64 << 20

// replaceFile leaves the old or the new content at path, whatever happens in between, and returns when the new one is on disk.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	return putFile(path, data, mode, os.Rename)
}

// createFile is replaceFile for a path where nothing may be lost: it fails with fs.ErrExist when something is there.
func createFile(path string, data []byte, mode fs.FileMode) error {
	return putFile(path, data, mode, func(from, to string) error {
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	})
}

// putFile writes beside path, brings that to disk, puts it in place, and brings the directory to disk.
func putFile(path string, data []byte, mode fs.FileMode, place func(from, to string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*") // mode 0600 from the first moment
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeIfThere(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := place(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's directory
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// readFile reads a file that holds what; field names the setting in errors.
func readFile(field, path string) ([]byte, error) {
	b, _, err := readOpen(field, path)
	return b, err
}

// readKey reads a private key and refuses one that others can read.
func readKey(field, path string) ([]byte, error) {
	b, info, err := readOpen(field, path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "%s %s: mode %04o lets others reach the private key; want 0600", field, path, mode).
			Do("chmod 600 %s", path)
	}
	if bytes.Contains(b, []byte("ENCRYPTED")) {
		return nil, themis.Errorf(themis.InvalidArgument, "%s %s: the key is encrypted; a node reads a plain one that is kept at mode 0600", field, path).
			Do("openssl pkey -in %s -out plain.key", path)
	}
	return b, nil
}

func readOpen(field, path string) ([]byte, fs.FileInfo, error) {
	fail := func(err error) ([]byte, fs.FileInfo, error) {
		return nil, nil, themis.Errorf(themis.InvalidArgument, "%s: %w", field, err)
	}
	if path == "" {
		return nil, nil, themis.Errorf(themis.InvalidArgument, "%s: no file given", field)
	}
	f, err := os.Open(path) //nolint:gosec // the operator's file
	if err != nil {
		return fail(err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%s: not a regular file", path))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return fail(err)
	}
	if len(b) > maxFileBytes {
		return fail(fmt.Errorf("%s: larger than %d bytes", path, maxFileBytes))
	}
	return b, info, nil
}

// stamp is what a file looked like when it was read.
type stamp struct {
	info fs.FileInfo // nil: it wasn't there
}

func stampOf(path string) stamp {
	if path == "" {
		return stamp{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

func (s stamp) same(t stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return os.SameFile(s.info, t.info) && s.info.Size() == t.info.Size() && s.info.ModTime().Equal(t.info.ModTime())
}
