// Package faults breaks things for tests: disks that lose what was not synced, fill up or lose bits, and processes whose
// system calls fail. It touches only files, mounts and processes that its caller made and names.
package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedRoot skips the test for somebody who isn't root, or hasn't got these programs; under THEMIS_REQUIRE_ROOT=1 that is a failure.
func NeedRoot(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacking(t, "root, for loop disks and namespaces")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Lacking(t, p)
		}
	}
}

// Lacking skips the test, which needs what is not to be had here; under THEMIS_REQUIRE_ROOT=1 that is a failure.
func Lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("THEMIS_REQUIRE_ROOT") == "1" {
		t.Fatalf("this test needs %s, and THEMIS_REQUIRE_ROOT=1 says that it must run", what)
	}
	t.Skipf("needs %s", what)
}

// Flip changes one bit of a file at the offset; a negative offset counts from the end.
func Flip(name string, offset int64) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // the caller's file
	if err != nil {
		return err
	}
	if offset < 0 {
		info, err := f.Stat()
		if err != nil {
			return errors.Join(err, f.Close())
		}
		offset += info.Size()
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], offset)
	if err == nil {
		b[0] ^= 0x10
		_, err = f.WriteAt(b[:], offset)
	}
	return errors.Join(err, f.Close())
}

// Tear cuts n bytes off a file's end.
func Tear(name string, n int64) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	return os.Truncate(name, max(0, info.Size()-n))
}

// Disk is a file system of its own in a file, on which power can be cut.
type Disk struct {
	Dir   string // where it is mounted
	image string
}

// NewDisk makes an XFS of that size, mounted for the test's duration.
func NewDisk(t *testing.T, megabytes int) *Disk {
	t.Helper()
	NeedRoot(t, "mkfs.xfs", "xfs_io", "mount", "fsfreeze", "fallocate")
	dir := t.TempDir()
	d := &Disk{Dir: filepath.Join(dir, "mnt"), image: filepath.Join(dir, "image")}
	run(t, "truncate", "-s", fmt.Sprintf("%dM", megabytes), d.image)
	run(t, "mkfs.xfs", "-q", d.image)
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.Dir).CombinedOutput(); err != nil { //nolint:gosec,noctx // our own image
		Lacking(t, fmt.Sprintf("loop disks, which this machine does not let it mount: %v: %s", err, out))
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", d.Dir).Run() }) //nolint:gosec,noctx // our own mount
	return d
}

// PowerLoss throws away what was not synced, as a loss of power does: the file system goes down without flushing its log, and
// is mounted again. Whoever has files open there must have been killed first.
func (d *Disk) PowerLoss(t *testing.T) {
	t.Helper()
	d.Cut(t)
	d.Remount(t)
}

// Cut takes the file system down at once; every call on it fails from then on.
func (d *Disk) Cut(t *testing.T) {
	t.Helper()
	run(t, "xfs_io", "-x", "-c", "shutdown", d.Dir)
}

// Remount brings it back.
func (d *Disk) Remount(t *testing.T) {
	t.Helper()
	for range 100 { // a process that was just killed may still hold it
		if exec.Command("umount", d.Dir).Run() == nil { //nolint:gosec,noctx // our own mount
			run(t, "mount", "-o", "loop", d.image, d.Dir)
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	run(t, "umount", d.Dir)
}

// Freeze makes every write to the disk hang until the returned function is called, or the test ends; reads go on.
func (d *Disk) Freeze(t *testing.T) (thaw func()) {
	t.Helper()
	run(t, "fsfreeze", "-f", d.Dir)
	thaw = sync.OnceFunc(func() { run(t, "fsfreeze", "-u", d.Dir) })
	t.Cleanup(thaw)
	return thaw
}

// FillTo leaves room for so many bytes, and never for fewer, until the returned function is called.
func (d *Disk) FillTo(t *testing.T, left int64) (empty func()) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.Dir, &st); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(d.Dir, "filler")
	run(t, "fallocate", "-l", fmt.Sprint(int64(st.Bavail)*int64(st.Bsize)-left), name) //nolint:gosec,unconvert // sizes of disks
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// Fill leaves no room until the returned function is called.
func (d *Disk) Fill(t *testing.T) (empty func()) {
	t.Helper()
	name := filepath.Join(d.Dir, "filler")
	out, err := exec.Command("sh", "-c", "dd if=/dev/zero of="+name+" bs=64k 2>&1; dd if=/dev/zero of="+name+".2 bs=512 2>&1").CombinedOutput() //nolint:gosec,noctx // our own disk
	if err == nil || !strings.Contains(string(out), "No space left") {
		t.Fatalf("the disk did not fill: %v\n%s", err, out)
	}
	return func() {
		for _, n := range []string{name, name + ".2"} {
			if err := os.RemoveAll(n); err != nil { // on the fullest of disks there is no room for the name of the second
				t.Error(err)
			}
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput() //nolint:gosec,noctx // a short command of the test's own
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// Long skips a test that is not for every run, unless THEMIS_LONG=1.
func Long(t *testing.T) {
	t.Helper()
	if os.Getenv("THEMIS_LONG") != "1" {
		t.Skip("long: THEMIS_LONG=1 runs it")
	}
}
