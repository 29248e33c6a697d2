package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

// TestAllAtOnce applies a log while others read, flush, take checkpoints and close. Every checkpoint must hold exactly the log
// up to the position that it names, and every view be one moment.
func TestAllAtOnce(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, "store", func(o *Options) { o.MemTableBytes = minMemTableBytes })
	j := newJournal()
	for i := range 300 { // every entry sets all of eight documents to its number
		var ops []themis.Op
		for k := range 8 {
			ops = append(ops, put(themis.Token(k), "k", fmt.Sprintf("%0500d", i)))
		}
		j.write(ops...)
	}
	var wg sync.WaitGroup
	applied := make(chan struct{})
	loop := func(do func() error) {
		wg.Go(func() {
			for {
				if err := do(); errors.Is(err, ErrClosed) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
				select {
				case <-applied:
					return
				default:
				}
			}
		})
	}
	loop(func() error { return oneMoment(s) })
	loop(func() error { _, err := s.Flush(); return err })
	loop(func() error {
		seq, err := s.DurableApplied()
		if at := s.Applied().Seq; err == nil && seq > at {
			err = fmt.Errorf("durable %d, applied %d", seq, at)
		}
		return err
	})
	loop(func() error {
		before := s.Applied().Seq
		d, _, err := s.Get(7, themis.Token(3).Placement(), "k")
		if err == nil && d.Seq < before {
			err = fmt.Errorf("read seq %d when %d was applied", d.Seq, before)
		}
		return err
	})
	var snaps []Snapshot
	loop(func() error {
		if len(snaps) >= 12 {
			return nil
		}
		snap, err := s.Checkpoint(fmt.Sprint("checkpoint-", len(snaps)))
		if err == nil {
			snaps = append(snaps, snap)
		}
		return err
	})
	rng := rand.New(rand.NewPCG(1, 1))
	for rest := j.entries; len(rest) > 0; {
		n := min(1+rng.IntN(9), len(rest))
		mustApply(t, s, rest[:n]...)
		rest = rest[n:]
	}
	close(applied)
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i, snap := range snaps {
		dir := fmt.Sprint("installed-", i)
		if err := Install(dir, fmt.Sprint("checkpoint-", i), snap, Options{FS: fs}); err != nil {
			t.Fatal(err)
		}
		got := mustOpen(t, fs, dir)
		if err := oneMoment(got); err != nil {
			t.Fatal(err)
		}
	}
}

// oneMoment looks at a view: all documents are of the entry at its position.
func oneMoment(s *Store) error {
	v, err := s.View()
	if err != nil {
		return err
	}
	defer v.Close()
	n := 0
	for d, err := range v.Scan(7, ScanOptions{}) {
		if err != nil {
			return err
		}
		if d.Seq != v.Position().Seq {
			return fmt.Errorf("a document of entry %d in a view at %d", d.Seq, v.Position().Seq)
		}
		n++
	}
	if want := 8; n != want && v.Position().Seq > 0 {
		return fmt.Errorf("%d documents", n)
	}
	return nil
}
