package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// twoEpochs is an open log over four segments: epoch 1 up to seq 20, epoch 2 up to 40.
func twoEpochs(t *testing.T, dir string) *Log {
	t.Helper()
	l, _ := mustOpen(t, dir, smallSegments())
	reign(t, l, 1)
	put(t, l, 20, bigEntry)
	reign(t, l, 2)
	put(t, l, 20, bigEntry)
	return l
}

func TestTruncateBack(t *testing.T) {
	whole := t.TempDir()
	mustClose(t, twoEpochs(t, whole))
	for _, after := range []themis.Seq{0, 1, 10, 11, 12, 20, 21, 22, 23, 39, 40} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			dir := copyDir(t, whole)
			l, _ := mustOpen(t, dir, smallSegments())
			if err := l.TruncateBack(after); err != nil {
				t.Fatal(err)
			}
			starts := startsUpTo([]themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 2, Seq: 21}}, after)
			check := func(last themis.Position) {
				t.Helper()
				want := themis.Position{Seq: after, Epoch: epochAt(starts, after), LSN: themis.LSN(after) * (minFrameBytes + bigEntry)}
				if last != want || !slices.Equal(l.Lineage(), starts) {
					t.Fatalf("last %+v lineage %v, want %+v %v", last, l.Lineage(), want, starts)
				}
			}
			check(l.Last())
			mustClose(t, l)
			l, r := mustOpen(t, dir, smallSegments())
			check(r.Last)
			if r.Blank || r.Mark != after {
				t.Fatalf("recovery %+v", r)
			}
			reign(t, l, 7)
			put(t, l, 14, bigEntry)
			readAll(t, l, 1, bigEntry)
		})
	}
}

func TestTruncateBackBounds(t *testing.T) {
	l, _ := mustOpen(t, t.TempDir(), opts())
	if err := l.Reset(themis.Position{Seq: 100, Epoch: 1, LSN: 5000}, []themis.EpochStart{{Epoch: 1, Seq: 1}}); err != nil {
		t.Fatal(err)
	}
	reign(t, l, 1)
	put(t, l, 5, 50)
	if err := l.TruncateBack(99); themis.CodeOf(err) != themis.InvalidArgument || l.Last().Seq != 105 {
		t.Fatalf("below the base: %v, last %d", err, l.Last().Seq)
	}
	if err := l.TruncateBack(105); err != nil || l.Last().Seq != 105 {
		t.Fatalf("nothing to cut: %v", err)
	}
	if _, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1); !errors.Is(err, ErrNoReign) {
		t.Fatalf("it still reigns: %v", err)
	}
	steps := 0
	l.onStep = func(string) {
		steps++
		if err := l.SetEpoch(9); themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("a reign began while the log was being cut: %v", err)
		}
	}
	if err := l.TruncateBack(100); err != nil || l.Last() != l.Base() || steps == 0 {
		t.Fatalf("down to the base: %v, last %+v", err, l.Last())
	}
}

// A cut that makes a blank log shorter must not make it look whole.
func TestTruncateBackKeepsBlank(t *testing.T) {
	dir, _ := closed(t, opts(), 10, 100)
	os.Truncate(segmentPath(dir, 1), recordBytes(minFrameBytes+100)*8)
	l, r := mustOpen(t, dir, opts())
	if !r.Blank {
		t.Fatalf("recovery %+v", r)
	}
	if err := l.TruncateBack(5); err != nil {
		t.Fatal(err)
	}
	if _, blank := l.Blank(); !blank {
		t.Fatal("no longer blank")
	}
	mustClose(t, l)
	if _, r := mustOpen(t, dir, opts()); !r.Blank || r.Mark != 10 || r.Last.Seq != 5 {
		t.Fatalf("recovery %+v", r)
	}
}

// Each of the three ways to shorten a log may be cut short between any two of its steps.
func TestCrashInsideCuts(t *testing.T) {
	whole := t.TempDir()
	mustClose(t, twoEpochs(t, whole))
	reset := themis.Position{Seq: 30, Epoch: 5, LSN: 777}
	lineage := []themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 5, Seq: 15}}
	for _, c := range []struct {
		name  string
		do    func(l *Log) error
		check func(r Recovery, l *Log) bool
		steps int
	}{
		{"back", func(l *Log) error { return l.TruncateBack(15) }, func(r Recovery, l *Log) bool {
			n := len(l.Lineage())
			return r.Last.Seq >= 15 && r.Last.Seq <= 40 && (n == 2 && r.Last.Seq > 20 || n == 1 && r.Last.Seq <= 20 || r.Last.Seq == 22 && n == 2)
		}, 4},
		{"front", func(l *Log) error { return l.TruncateFront(30) }, func(r Recovery, l *Log) bool {
			return r.Last.Seq == 40 && l.First() == 23 && l.Segments() == 2
		}, 3},
		{"reset", func(l *Log) error { return l.Reset(reset, lineage) }, func(r Recovery, l *Log) bool {
			return r.Last == reset && l.Base() == reset && slices.Equal(l.Lineage(), lineage) && l.Segments() == 1
		}, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, _ := mustOpen(t, copyDir(t, whole), smallSegments())
			var crashed []string
			l.onStep = func(string) { crashed = append(crashed, copyDir(t, l.dir)) }
			if err := c.do(l); err != nil {
				t.Fatal(err)
			}
			if len(crashed) != c.steps {
				t.Fatalf("%d steps", len(crashed))
			}
			for i, dir := range append(crashed, copyDir(t, l.dir)) {
				l, r := mustOpen(t, dir, smallSegments())
				if r.Blank || !c.check(r, l) {
					t.Fatalf("after step %d: %+v, lineage %v", i, r, l.Lineage())
				}
				reign(t, l, 9)
				size := bigEntry
				readAll(t, l, l.First(), size)
				put(t, l, 2, size)
				readAll(t, l, l.First(), size)
				mustClose(t, l)
				if in, err := Inspect(dir, opts().identity(), nil); err != nil || len(in.Findings) != 0 {
					t.Fatalf("after step %d: %+v, %v", i, in.Findings, err)
				}
			}
		})
	}
}

func TestTruncateFront(t *testing.T) {
	dir := t.TempDir()
	l := twoEpochs(t, dir)
	for _, c := range []struct{ upTo, first themis.Seq }{{0, 1}, {10, 1}, {11, 12}, {12, 12}, {21, 12}, {33, 34}, {40, 34}, {1000, 34}} {
		if err := l.TruncateFront(c.upTo); err != nil || l.First() != c.first {
			t.Fatalf("up to %d: first %d, want %d: %v", c.upTo, l.First(), c.first, err)
		}
	}
	want := themis.Position{Seq: 33, Epoch: 2, LSN: 33 * (minFrameBytes + bigEntry)}
	if l.Base() != want || !slices.Equal(l.Lineage(), []themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 2, Seq: 21}}) {
		t.Fatalf("base %+v lineage %v", l.Base(), l.Lineage())
	}
	put(t, l, 4, bigEntry) // the last one fills its segment
	mustClose(t, l)
	if err := createEmpty(segmentPath(dir, 45)); err != nil { // the crash came before anything was written to the next
		t.Fatal(err)
	}
	l, _ = mustOpen(t, dir, smallSegments())
	if err := l.TruncateFront(1000); err != nil || l.First() != 34 {
		t.Fatalf("an entry must stay: first %d, %v", l.First(), err)
	}
	mustClose(t, l)
	l, r := mustOpen(t, dir, smallSegments())
	if r.Blank || r.Last.Seq != 44 || l.Base() != want {
		t.Fatalf("base %+v, recovery %+v", l.Base(), r)
	}
	readAll(t, l, 34, bigEntry)
}

func TestResetRefusesNonsense(t *testing.T) {
	l, _ := mustOpen(t, t.TempDir(), opts())
	reign(t, l, 1)
	put(t, l, 3, 10)
	one := []themis.EpochStart{{Epoch: 1, Seq: 1}}
	for name, c := range map[string]struct {
		base    themis.Position
		lineage []themis.EpochStart
	}{
		"epoch not in lineage":  {themis.Position{Seq: 9, Epoch: 2}, one},
		"no lineage":            {themis.Position{Seq: 9, Epoch: 1}, nil},
		"start behind the base": {themis.Position{Seq: 9, Epoch: 1}, append(one, themis.EpochStart{Epoch: 2, Seq: 10})},
		"falling":               {themis.Position{Seq: 9, Epoch: 1}, []themis.EpochStart{{Epoch: 2, Seq: 1}, {Epoch: 1, Seq: 5}}},
		"lsn without entries":   {themis.Position{LSN: 5}, nil},
	} {
		if err := l.Reset(c.base, c.lineage); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(readAll(t, l, 1, 10)) != 3 {
		t.Fatal("a refused reset had an effect")
	}
	put(t, l, 1, 10) // it still reigns
	if err := l.Reset(themis.Position{}, nil); err != nil || l.Last() != (themis.Position{}) {
		t.Fatalf("reset to nothing: %v", err)
	}
}

// Scanners beside every kind of cut: they end with the error that says what to do, never with damage.
func TestScannersBesideCuts(t *testing.T) {
	dir := t.TempDir()
	l := twoEpochs(t, dir)
	scan := func(from themis.Seq, read int) *Scanner {
		s, err := l.Scan(from)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		for range read {
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	drain := func(s *Scanner) error {
		for {
			if _, err := s.Next(); err != nil {
				return err
			}
		}
	}
	inFront, behind := scan(1, 2), scan(25, 2)
	if err := l.TruncateFront(22); err != nil {
		t.Fatal(err)
	}
	trimmed := drain(inFront)
	if e, ok := errors.AsType[*TrimmedError](trimmed); !ok || e.Wanted != 12 || e.First != 23 {
		t.Fatalf("in front: %v", trimmed)
	}
	if err := drain(behind); !errors.Is(err, io.EOF) {
		t.Fatalf("behind: %v", err)
	}
	put(t, l, 1, bigEntry)
	if e, err := behind.Next(); err != nil || e.Seq != 41 {
		t.Fatalf("resumed: %d, %v", e.Seq, err)
	}
	mid := scan(30, 1)
	if err := l.TruncateBack(32); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Scanner{"at the end": behind, "in the middle": mid} {
		if err := drain(s); !errors.Is(err, ErrCut) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if len(readAll(t, l, 23, bigEntry)) != 10 {
		t.Fatal("a new scan")
	}
	last := scan(33, 0)
	gone := scan(23, 0)
	gone.f, gone.first, gone.off, gone.limit = nil, 0, 0, 0
	os.Remove(segmentPath(dir, 23)) // by somebody else
	wantCorrupt(t, drain(gone), 23)
	mustClose(t, l)
	if _, err := last.Next(); !errors.Is(err, ErrClosed) {
		t.Fatalf("after close: %v", err)
	}
	if _, err := l.Scan(23); !errors.Is(err, ErrClosed) {
		t.Fatalf("scan after close: %v", err)
	}
}
