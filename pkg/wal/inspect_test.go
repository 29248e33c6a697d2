package wal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestInspect(t *testing.T) {
	whole := t.TempDir()
	mustClose(t, twoEpochs(t, whole))
	record := recordBytes(minFrameBytes + bigEntry)
	// rewrite replaces entry seq by another whole entry of the same size.
	rewrite := func(segment, seq themis.Seq, edit func(e *themis.Entry)) func(dir string) {
		return func(dir string) {
			change(t, segmentPath(dir, segment), func(b []byte) []byte {
				at := int64(seq-segment)*record + record - int64(minFrameBytes+bigEntry)
				e, n, err := DecodeFrame(b[at:])
				if err != nil {
					t.Fatal(err)
				}
				edit(&e)
				copy(b[at:], AppendFrame(nil, &e)[:n])
				return b
			})
		}
	}
	edit := func(name string, f func(b []byte) []byte) func(dir string) {
		return func(dir string) { change(t, filepath.Join(dir, name), f) }
	}
	flip := func(segment themis.Seq, at int64) func(dir string) {
		return edit(segmentName(segment), func(b []byte) []byte { b[at] ^= 4; return b })
	}
	for _, c := range []struct {
		name    string
		damage  func(dir string)
		want    []Fault
		seq     themis.Seq // of the first finding
		offset  int64
		entries int
		sound   bool
	}{
		{"nothing", func(string) {}, nil, 0, 0, 40, true},
		{"torn tail", edit(segmentName(34), func(b []byte) []byte { return append(b, b[:500]...) }), []Fault{FaultTornTail}, 41, 7 * record, 40, true},
		{"zeros", edit(segmentName(34), func(b []byte) []byte { return append(b, 0, 0, 0) }), nil, 0, 0, 40, true},
		{"zeros before more", edit(segmentName(34), func(b []byte) []byte { return append(b, 0, 0, 0, 7) }), []Fault{FaultTornTail}, 41, 7 * record, 40, true},
		{"zeros behind another segment", edit(segmentName(12), func(b []byte) []byte { return append(b, 0, 0, 0) }), []Fault{FaultFlipped}, 23, 11 * record, 40, false},
		{"flipped bit", flip(12, 2*record+700), []Fault{FaultFlipped}, 14, 2 * record, 39, false},
		{"flipped size prefix", flip(12, 2*record), []Fault{FaultFlipped}, 14, 2 * record, 39, false},
		{"flipped bit in the last entry of a segment", flip(12, 11*record-1), []Fault{FaultFlipped}, 22, 10 * record, 39, false},
		{"two flipped bits", func(dir string) { flip(1, 700)(dir); flip(34, record+700)(dir) }, []Fault{FaultFlipped, FaultFlipped}, 1, 0, 38, false},
		{"acknowledged end flipped", flip(34, 7*record-1), []Fault{FaultTornTail, FaultLost}, 40, 6 * record, 39, false},
		{"gap", rewrite(12, 15, func(e *themis.Entry) { e.Seq++ }), []Fault{FaultGap, FaultDuplicate}, 15, 3 * record, 40, false},
		{"falling epoch", rewrite(34, 37, func(e *themis.Entry) { e.Epoch = 1 }), []Fault{FaultEpochFalls}, 37, 3 * record, 40, false},
		{"lsn", rewrite(12, 13, func(e *themis.Entry) { e.LSN += 9 }), []Fault{FaultLSN, FaultLSN}, 13, record, 40, false},
		{"newer format", rewrite(12, 14, func(e *themis.Entry) { e.Version = 3 }), []Fault{FaultFormat}, 14, 2 * record, 39, false},
		{"missing segment", func(dir string) { os.Remove(segmentPath(dir, 12)) }, []Fault{FaultGap}, 12, 0, 29, false},
		{"missing last segment", func(dir string) { os.Remove(segmentPath(dir, 34)) }, []Fault{FaultLost}, 34, 0, 33, false},
		{"empty segment", func(dir string) { os.Truncate(segmentPath(dir, 12), 0) }, []Fault{FaultFlipped, FaultGap}, 12, 0, 29, false},
		{"segment twice", func(dir string) {
			b, _ := os.ReadFile(segmentPath(dir, 12))
			os.WriteFile(segmentPath(dir, 16), b, 0o600)
		}, []Fault{FaultDuplicate}, 23, 0, 51, false},
		{"leftover", func(dir string) { os.WriteFile(filepath.Join(dir, segmentName(12)+".START.TEMP"), nil, 0o600) }, []Fault{FaultLeftover}, 1, 0, 40, true},
		{"LOG missing", func(dir string) { os.Remove(filepath.Join(dir, logName)) }, []Fault{FaultLogFile}, 1, 0, 40, false},
		{"LOG damaged", edit(logName, func(b []byte) []byte { b[30] ^= 1; return b }), []Fault{FaultLogFile}, 1, 0, 40, false},
		{"MARK missing", func(dir string) { os.Remove(filepath.Join(dir, markName)) }, []Fault{FaultMark}, 1, 0, 40, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, whole)
			c.damage(dir)
			visited := 0
			in, err := Inspect(dir, opts().identity(), func(v Visited) error {
				visited++
				if v.File == "" || v.Bytes != int(record) {
					t.Errorf("visited %s offset %d, %d bytes", v.File, v.Offset, v.Bytes)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []Fault
			for _, f := range in.Findings {
				if f.File == "" || f.Detail == "" {
					t.Errorf("finding without a place or a reason: %+v", f)
				}
				if len(got) == 0 || got[len(got)-1] != f.Fault || f.Fault == FaultFlipped || f.Fault == FaultLSN && len(got) < 2 {
					got = append(got, f.Fault)
				}
			}
			if len(c.want) > 0 && len(got) > len(c.want) {
				got = got[:len(c.want)] // a wrong place shifts what follows
			}
			if !slices.Equal(got, c.want) || in.Entries != c.entries || visited != c.entries || in.Sound() != c.sound {
				t.Fatalf("faults %v, want %v; %d entries, %d visited, want %d; sound %v\n%+v", got, c.want, in.Entries, visited, c.entries, in.Sound(), in.Findings)
			}
			if len(c.want) > 0 && (in.Findings[0].Seq != c.seq || in.Findings[0].Offset != c.offset) {
				t.Fatalf("first finding %+v, want seq %d offset %d", in.Findings[0], c.seq, c.offset)
			}
		})
	}
}

func TestInspectForeignAndWhole(t *testing.T) {
	dir := t.TempDir()
	mustClose(t, twoEpochs(t, dir))
	in, err := Inspect(dir, Identity{Cluster: "c-9"}, nil)
	if err != nil || len(in.Findings) != 1 || in.Findings[0].Fault != FaultForeign || in.Sound() {
		t.Fatalf("%+v: %v", in.Findings, err)
	}
	if in.Identity != opts().identity() || in.Last.Seq != 40 || in.Mark != 40 || len(in.Lineage) != 2 || len(in.Segments) != 4 {
		t.Fatalf("%+v", in)
	}
	if s := in.Segments[1]; s.First != 12 || s.Last != 22 || s.Entries != 11 {
		t.Fatalf("%+v", s)
	}
	stop := errors.New("enough")
	if _, err := Inspect(dir, Identity{}, func(Visited) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("a visit's error: %v", err)
	}
	if _, err := Inspect(filepath.Join(dir, "nowhere"), Identity{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("no directory: %v", err)
	}
	mustOpen(t, dir, smallSegments()) // it needs no lock, and takes none
	if in, err := Inspect(dir, Identity{}, nil); err != nil || in.Entries != 40 {
		t.Fatalf("beside an open log: %v", err)
	}
}

// TestInspectUnderReset: a log whose Reset was cut short is no damage, at whichever step and whatever its old segments hold; the same
// files with a LOG that knows of no Reset are.
func TestInspectUnderReset(t *testing.T) {
	dir := t.TempDir()
	mustClose(t, twoEpochs(t, dir))
	l, _ := mustOpen(t, dir, smallSegments())
	base := themis.Position{Seq: 90, LSN: 50000, Epoch: 3}
	seen := 0
	l.onStep = func(step string) {
		seen++
		now := copyDir(t, dir)
		firsts, _, err := listSegments(now)
		if err != nil {
			t.Fatal(err)
		}
		old := 0
		for _, first := range firsts {
			if first <= 40 {
				old++
				change(t, segmentPath(now, first), func(b []byte) []byte { b[700] ^= 4; return b[:len(b)-3] })
			}
		}
		in, err := Inspect(now, opts().identity(), func(v Visited) error { t.Errorf("%s: visited %s", step, v.File); return nil })
		if err != nil || !in.Resetting || !in.Sound() || in.Entries != 0 || in.Last != base || in.Base != base || len(in.Findings) != len(firsts) {
			t.Errorf("%s: %v\n%+v", step, err, in)
		}
		for _, f := range in.Findings {
			if f.Fault != FaultLeftover {
				t.Errorf("%s: %+v", step, f)
			}
		}
		log, err := readLogFile(now)
		if log.Resetting = false; err != nil || log.write(now) != nil {
			t.Fatal(err)
		}
		if in, err := Inspect(now, Identity{}, nil); err != nil || old > 0 && in.Sound() {
			t.Errorf("%s, no longer under reset, %d old segments: %v\n%+v", step, old, err, in)
		}
	}
	if err := l.Reset(base, []themis.EpochStart{{Epoch: 3, Seq: 50}}); err != nil {
		t.Fatal(err)
	}
	if seen != 7 { // LOG, MARK, four segments, the new one
		t.Errorf("%d steps", seen)
	}
}

func TestInspectLineage(t *testing.T) {
	whole := t.TempDir()
	mustClose(t, twoEpochs(t, whole))
	in, err := Inspect(whole, Identity{}, nil)
	if err != nil || !slices.Equal(in.Epochs, in.Lineage) || len(in.Epochs) != 2 {
		t.Fatalf("%v: %+v, LOG has %+v", err, in.Epochs, in.Lineage)
	}
	second := in.Lineage[1]
	for _, c := range []struct {
		name   string
		starts []themis.EpochStart
		want   int // findings
		file   string
	}{
		{"behind a crash LOG lacks the newest epoch", in.Lineage[:1], 0, ""},
		{"an epoch begins later", []themis.EpochStart{in.Lineage[0], {Epoch: second.Epoch, Seq: second.Seq + 1}}, 1, segmentName(12)},
		{"an epoch begins earlier", []themis.EpochStart{in.Lineage[0], {Epoch: second.Epoch, Seq: second.Seq - 1}}, 1, logName},
		{"another epoch", []themis.EpochStart{in.Lineage[0], {Epoch: second.Epoch + 1, Seq: second.Seq}}, 1, segmentName(12)},
		{"an epoch that wrote nothing", []themis.EpochStart{in.Lineage[0], second, {Epoch: second.Epoch + 1, Seq: second.Seq + 3}}, 1, logName},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, whole)
			log, err := readLogFile(dir)
			if log.Epochs = c.starts; err != nil || log.write(dir) != nil {
				t.Fatal(err)
			}
			in, err := Inspect(dir, Identity{}, nil)
			if err != nil || len(in.Findings) != c.want || in.Sound() != (c.want == 0) {
				t.Fatalf("%v: %+v", err, in.Findings)
			}
			if c.want > 0 && (in.Findings[0].Fault != FaultLineage || filepath.Base(in.Findings[0].File) != c.file) {
				t.Fatalf("%+v", in.Findings[0])
			}
		})
	}
}

func TestInspectBelowTheBase(t *testing.T) {
	whole, dir := t.TempDir(), ""
	mustClose(t, twoEpochs(t, whole))
	l, _ := mustOpen(t, whole, smallSegments())
	l.onStep = func(step string) {
		if dir == "" && step == stepLog {
			dir = copyDir(t, whole)
		}
	}
	if err := l.TruncateFront(30); err != nil {
		t.Fatal(err)
	}
	in, err := Inspect(dir, Identity{}, nil)
	if err != nil || !in.Sound() || in.Resetting || in.Entries != 18 || len(in.Segments) != 2 || len(in.Findings) != 2 || in.Findings[0].Fault != FaultLeftover {
		t.Fatalf("%v: %+v", err, in)
	}
}
