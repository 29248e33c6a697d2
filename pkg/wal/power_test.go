package wal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// batches writes one batch for each size, so many entries at once, and returns the offset of each batch in the first segment.
func batches(t *testing.T, sizes ...int) (dir string, at []int64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	for _, n := range sizes {
		at = append(at, l.view.Load().tailSize)
		var last *Append
		for range n {
			var err error
			if last, err = l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(1, 100), 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := last.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
	return dir, at
}

// A loss of power in the middle of a write may leave later pages of it on disk and earlier ones not. Such a batch was never
// acknowledged: it is a torn tail, not damage.
func TestUnfinishedBatchIsATail(t *testing.T) {
	dir, at := batches(t, 2, 3)
	change(t, segmentPath(dir, 1), func(b []byte) []byte { // its first page never came
		for i := at[1]; i < at[1]+60; i++ {
			b[i] = 0
		}
		return b
	})
	if err := os.Remove(filepath.Join(dir, "MARK")); err != nil { // nor did the mark, which is synced a second later
		t.Fatal(err)
	}
	l, rec := mustOpen(t, dir, opts())
	defer mustClose(t, l)
	if rec.CutBytes == 0 || rec.Last.Seq != 2 {
		t.Fatalf("recovery %+v", rec)
	}
}

// The same bytes missing from a batch that has another one behind it are damage: that one was written after the fsync of this.
func TestDamageBeforeALaterBatchIsNoTail(t *testing.T) {
	dir, at := batches(t, 2, 3, 1)
	change(t, segmentPath(dir, 1), func(b []byte) []byte {
		for i := at[1]; i < at[1]+60; i++ {
			b[i] = 0
		}
		return b
	})
	_, _, err := Open(dir, opts())
	if _, ok := errors.AsType[*CorruptError](err); !ok {
		t.Fatalf("open: %v", err)
	}
}

// With the mark on disk the cut is known to have taken what was acknowledged: the replica is blank.
func TestCutBelowTheMarkIsBlank(t *testing.T) {
	dir, at := batches(t, 2, 3)
	change(t, segmentPath(dir, 1), func(b []byte) []byte { b[at[1]+30] ^= 1; return b })
	l, rec := mustOpen(t, dir, opts())
	defer mustClose(t, l)
	if !rec.Blank || rec.Last.Seq != 2 {
		t.Fatalf("recovery %+v", rec)
	}
}
