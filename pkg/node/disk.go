package node

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	diskEvery     = 100 * time.Millisecond
	ballastName   = "BALLAST"
	ballastPieces = 4
)

// disk watches the room on the disk of the data directory.
//
//	free  ├─── reserve/8 ───┼──── reserve/2 ────┼──── reserve ────┼── reserve + 1/4 ──►
//	       ballast is given    followers take     client writes      taken again
//	       up, a piece at a    no frames          are refused
//	       time
type disk struct {
	dir              string
	reserve, ballast themis.Bytes // as configured
	changed          broadcast    // full or not full any more
	syncs            syncs

	mu    sync.Mutex
	room  replication.Room
	free  themis.Bytes
	kept  themis.Bytes // the reserve of this disk
	since time.Time    // since when there is little room
}

func newDisk(dir string, reserveMB, ballastMB int) *disk {
	return &disk{dir: dir, reserve: themis.Bytes(reserveMB) << 20, ballast: themis.Bytes(ballastMB) << 20}
}

// roomFor is how much room so many free bytes are; was keeps it from changing to and fro.
func roomFor(free, reserve themis.Bytes, was replication.Room) replication.Room {
	switch {
	case free < reserve/2:
		return replication.None
	case free < reserve || was != replication.Enough && free < reserve+reserve/4:
		return replication.Little
	}
	return replication.Enough
}

// ballastFor is how large the ballast should be.
func ballastFor(free, reserve, have, want themis.Bytes) themis.Bytes {
	switch {
	case free < reserve/8:
		return max(0, have-want/ballastPieces)
	case free > 2*reserve+want && have < want:
		return want
	}
	return have
}

// look measures once. The error says what could not be done; the room is known all the same.
func (d *disk) look(now time.Time) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err
	}
	free, total := themis.Bytes(int64(st.Bavail)*int64(st.Bsize)), themis.Bytes(int64(st.Blocks)*int64(st.Bsize)) //nolint:gosec,unconvert // sizes of disks
	d.mu.Lock()
	was := d.room
	d.free, d.kept = free, min(d.reserve, total/8)
	d.room = roomFor(free, d.kept, was)
	switch {
	case d.room == replication.Enough:
		d.since = time.Time{}
	case was == replication.Enough:
		d.since = now
	}
	turned := (was == replication.Enough) != (d.room == replication.Enough)
	kept := d.kept
	d.mu.Unlock()
	if turned {
		d.changed.wake()
	}
	return d.holdBallast(free, kept, min(d.ballast, total/32))
}

// holdBallast makes the ballast as large as it should be.
func (d *disk) holdBallast(free, reserve, want themis.Bytes) error {
	name := filepath.Join(d.dir, ballastName)
	have := themis.Bytes(0)
	st, err := os.Stat(name)
	switch {
	case err == nil:
		have = themis.Bytes(st.Size())
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	next := ballastFor(free, reserve, have, want)
	if next == have {
		return nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the operator's own directory
	if err != nil {
		return err
	}
	if next < have {
		err = f.Truncate(int64(next))
	} else if err = fallocate(f, int64(next)); errors.Is(err, errors.ErrUnsupported) {
		err = writeZeros(f, int64(have), int64(next))
	}
	return errors.Join(err, f.Close())
}

// writeZeros fills the bytes from…to of f, so that they take their room.
func writeZeros(f io.WriterAt, from, to int64) error {
	zeros := make([]byte, 1<<20)
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// Room is how much room there was a moment ago.
func (d *disk) Room() replication.Room {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.room
}

// left is what was free a moment ago, and how much of it is the reserve.
func (d *disk) left() (free, reserve themis.Bytes) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.free, d.kept
}

func (d *disk) full() bool { return d.Room() != replication.Enough }

// tells is what health says of a full disk; nil while it is not.
func (d *disk) tells() *health.DiskFull {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.room == replication.Enough {
		return nil
	}
	return &health.DiskFull{Dir: d.dir, Free: d.free, Reserve: d.kept, Since: d.since.UTC()}
}

// watchDisk measures until ctx ends, and records when the disk becomes full and when it is no longer.
func (n *Node) watchDisk(ctx context.Context) error {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	full, failed := false, ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			if err := n.disk.look(now); err != nil && err.Error() != failed {
				failed = err.Error()
				n.log.Warn("the disk of the data directory can't be looked at", "err", err)
			}
		}
		if n.disk.full() == full {
			continue
		}
		full = !full
		e := cluster.Event{Actor: n.actor(), Action: "disk_full", Subject: string(n.id.Node), Outcome: "done", Rule: "disk-reserve", Reason: "there is room again: writes are taken"}
		if t := n.disk.tells(); t != nil {
			e.Reason = t.String()
		}
		n.event(e)
	}
}
