package wal

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	tidwall "github.com/tidwall/wal"
	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/themis"
)

// Each test takes one of the thirteen ways in which a log in tidwall/wal's format can go wrong. Where it is cheap, it shows first
// that tidwall itself does so, so that a version that no longer does is noticed.

const bigEntry = 100_000 // eleven of them fill a segment of 1 MiB

func smallSegments() Options {
	o := opts()
	o.SegmentBytes = 1 << 20
	return o
}

// rawTidwall opens the segments as tidwall alone would.
func rawTidwall(dir string) (*tidwall.Log, error) {
	return tidwall.Open(dir, &tidwall.Options{NoSync: true, AllowEmpty: true, SegmentSize: 1 << 20})
}

func TestPitfall01NoChecksum(t *testing.T) {
	dir, _ := closed(t, smallSegments(), 25, bigEntry)
	segment := segmentPath(dir, 1)
	at := recordBytes(minFrameBytes+bigEntry)*2 + 500
	change(t, segment, func(b []byte) []byte { b[at] ^= 1; return b })
	if raw, err := rawTidwall(copyDir(t, dir)); err != nil {
		t.Fatal(err)
	} else if _, err := raw.Read(3); err != nil {
		t.Fatalf("tidwall has learned to check: %v", err)
	} else {
		defer raw.Close()
	}
	l, _ := mustOpen(t, dir, smallSegments())
	s, err := l.Scan(1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for want := themis.Seq(1); want <= 2; want++ {
		if e, err := s.Next(); err != nil || e.Seq != want {
			t.Fatalf("entry %d: %v", want, err)
		}
	}
	for range 2 { // it does not skip
		_, err = s.Next()
		c := wantCorrupt(t, err, 3)
		if c.File != segment || c.Offset != recordBytes(minFrameBytes+bigEntry)*2 || !errors.Is(err, ErrChecksum) {
			t.Fatalf("%+v", c)
		}
	}
	if _, err := l.Scan(5); err == nil {
		t.Fatal("a scan went past the damaged entry")
	}
}

func TestPitfall02TornTail(t *testing.T) {
	dir, last := closed(t, opts(), 10, 100)
	segment := segmentPath(dir, 1)
	record := recordBytes(minFrameBytes + 100)

	torn := copyDir(t, dir)
	change(t, segmentPath(torn, 1), func(b []byte) []byte { return append(b, b[:record-1]...) })
	if _, err := rawTidwall(copyDir(t, torn)); !errors.Is(err, tidwall.ErrCorrupt) {
		t.Fatalf("tidwall has learned to repair: %v", err)
	}
	l, r := mustOpen(t, torn, opts())
	if r.Last != last || r.CutBytes != record-1 || r.CutOffset != 10*record || r.CutReason == "" || r.Blank {
		t.Fatalf("recovery %+v", r)
	}
	reign(t, l, 1)
	put(t, l, 1, 100)
	readAll(t, l, 1, 100)

	inside := copyDir(t, dir)
	change(t, segmentPath(inside, 1), func(b []byte) []byte { b[record*4+60] ^= 8; return b })
	before, _ := os.ReadFile(segmentPath(inside, 1))
	_, _, err := Open(inside, opts())
	if c := wantCorrupt(t, err, 5); c.Offset != record*4 || c.LSN != themis.LSN(4*(minFrameBytes+100)) {
		t.Fatalf("%+v", c)
	}
	if after, _ := os.ReadFile(segmentPath(inside, 1)); !bytes.Equal(before, after) {
		t.Fatal("a corrupt log was changed")
	}

	// The last entry, acknowledged: it looks like a torn tail, but the mark knows better.
	change(t, segment, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	l, r = mustOpen(t, dir, opts())
	if !r.Blank || r.Last.Seq != 9 || r.Mark != 10 || !strings.Contains(r.BlankReason, "seq 10") {
		t.Fatalf("recovery %+v", r)
	}
	if err := l.SetEpoch(2); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Fatalf("a blank replica may reign: %v", err)
	}
}

func TestPitfall03ZerosAreEntries(t *testing.T) {
	dir, last := closed(t, opts(), 10, 100)
	change(t, segmentPath(dir, 1), func(b []byte) []byte { return append(b, make([]byte, 4096)...) })
	raw, err := rawTidwall(copyDir(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if n, _ := raw.LastIndex(); n != 10+4096 {
		t.Fatalf("tidwall no longer takes zeros for entries: last index %d", n)
	}
	_, r := mustOpen(t, dir, opts())
	if r.Last != last || r.CutBytes != 0 || r.Blank {
		t.Fatalf("recovery %+v", r)
	}
	in, err := Inspect(dir, Identity{}, nil)
	if err != nil || in.Entries != 10 || len(in.Findings) > 0 {
		t.Fatalf("%+v, %v", in, err)
	}
}

func TestPitfall04LengthByteAndMiddleSegment(t *testing.T) {
	dir, _ := closed(t, smallSegments(), 40, bigEntry)
	firsts, _, err := listSegments(dir)
	if err != nil || len(firsts) < 4 {
		t.Fatalf("segments %v: %v", firsts, err)
	}
	middle, next := firsts[1], firsts[2]
	for _, c := range []struct {
		name   string
		damage func(dir string)
		seq    themis.Seq
	}{
		{"missing", func(dir string) { os.Remove(segmentPath(dir, middle)) }, middle}, // the first of its entries
		{"oldest missing", func(dir string) { os.Remove(segmentPath(dir, 1)) }, 1},
		{"short by one byte", func(dir string) {
			change(t, segmentPath(dir, middle), func(b []byte) []byte { return b[:len(b)-1] })
		}, next - 1},
		{"short by one entry", func(dir string) {
			change(t, segmentPath(dir, middle), func(b []byte) []byte { return b[:len(b)-int(recordBytes(minFrameBytes+bigEntry))] })
		}, next - 1},
		{"long by one byte", func(dir string) {
			change(t, segmentPath(dir, middle), func(b []byte) []byte { return append(b, 0) })
		}, next},
		{"empty", func(dir string) { os.Truncate(segmentPath(dir, middle), 0) }, middle},
		{"first length byte", func(dir string) {
			change(t, segmentPath(dir, middle), func(b []byte) []byte { b[0] ^= 0x40; return b })
		}, 0}, // found at open or by the scan
		{"first lsn", func(dir string) {
			change(t, segmentPath(dir, middle), func(b []byte) []byte { b[3+20] ^= 1; return b })
		}, middle},
		{"all but a new segment", func(dir string) {
			for _, first := range firsts {
				os.Remove(segmentPath(dir, first))
			}
			createEmpty(segmentPath(dir, 99))
		}, 1},
		{"another's bytes", func(dir string) {
			b, _ := os.ReadFile(segmentPath(dir, next))
			os.WriteFile(segmentPath(dir, middle), b, 0o600)
		}, middle},
		{"length byte in the last segment", func(dir string) {
			last := firsts[len(firsts)-1]
			change(t, segmentPath(dir, last), func(b []byte) []byte { b[recordBytes(minFrameBytes+bigEntry)] ^= 0x10; return b })
		}, firsts[len(firsts)-1] + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			damaged := copyDir(t, dir)
			c.damage(damaged)
			l, _, err := Open(damaged, smallSegments())
			if err == nil && c.seq == 0 {
				defer l.Close()
				s, scanErr := l.Scan(middle)
				if err = scanErr; err == nil {
					_, err = s.Next()
					s.Close()
				}
				c.seq = middle
			}
			if c.seq == 0 {
				c.seq = middle
			}
			wantCorrupt(t, err, c.seq)
		})
	}
}

func TestPitfall05LostLastSegment(t *testing.T) {
	dir, last := closed(t, smallSegments(), 40, bigEntry)
	firsts, _, _ := listSegments(dir)
	tail := firsts[len(firsts)-1]
	for name, lose := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, dir)
			if err := lose(segmentPath(dir, tail)); err != nil {
				t.Fatal(err)
			}
			for range 2 { // and at every later open
				l, r := mustOpen(t, dir, smallSegments())
				if !r.Blank || r.Last.Seq != tail-1 || r.Mark != last.Seq {
					t.Fatalf("recovery %+v, lost from %d", r, tail)
				}
				mustClose(t, l)
			}
		})
	}

	// The name of a new segment is durable before anything in it is acknowledged.
	l, _ := mustOpen(t, t.TempDir(), smallSegments())
	reign(t, l, 1)
	rolls := 0
	l.syncDir = func(string) error { rolls++; return syscall.EIO }
	put(t, l, 11, bigEntry)
	a, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(12, bigEntry), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(); !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) || rolls != 1 || l.Durable() != 11 {
		t.Fatalf("%d directory syncs, durable %d: %v", rolls, l.Durable(), err)
	}
}

func TestPitfall06ReadBesideRead(t *testing.T) {
	o := smallSegments()
	l, _ := mustOpen(t, t.TempDir(), o)
	reign(t, l, 1)
	put(t, l, 30, bigEntry)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			s, err := l.Scan(themis.Seq(1 + i))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			for want := themis.Seq(1 + i); want <= 60; {
				e, err := s.Next()
				if errors.Is(err, io.EOF) {
					runtime.Gosched()
					continue
				}
				if err != nil || e.Seq != want || !bytes.Equal(e.Payload, payloadOf(want, bigEntry)) {
					t.Errorf("entry %d where %d belongs: %v", e.Seq, want, err)
					return
				}
				want++
			}
		})
	}
	put(t, l, 30, bigEntry)
	all.Wait()
}

func TestPitfall07AfterWriteError(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		fillDisk(t, dir)
		return
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestPitfall07AfterWriteError$", "-test.v")
	child.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: TestPitfall07") {
		t.Fatalf("child: %v\n%s", err, out)
	}

	// A failed fsync: those in the batch don't know, those behind it surely were not written, and nothing is tried again.
	l, _ := mustOpen(t, t.TempDir(), opts())
	reign(t, l, 1)
	put(t, l, 3, 100)
	syncs := 0
	var behind *Append
	l.sync = func(*os.File) error {
		syncs++
		var err error
		if behind, err = l.Begin(themis.KindWrite, themis.Tags{}, nil, 1); err != nil {
			t.Error(err)
		}
		return syscall.EIO
	}
	a, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(); themis.CodeOf(err) != themis.OutcomeUnknown || !errors.Is(err, ErrPoisoned) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("in the batch: %v", err)
	}
	if err := behind.Wait(); themis.CodeOf(err) != themis.ReadOnly || !errors.Is(err, ErrPoisoned) {
		t.Fatalf("behind the batch: %v", err)
	}
	poisoned := map[string]error{}
	_, poisoned["begin"] = l.Begin(themis.KindWrite, themis.Tags{}, nil, 1)
	_, poisoned["append frames"] = l.AppendFrames(AppendFrame(nil, &themis.Entry{Seq: 4}))
	poisoned["set epoch"] = l.SetEpoch(9)
	poisoned["mark"] = l.MarkDurable()
	poisoned["truncate back"] = l.TruncateBack(1)
	poisoned["truncate front"] = l.TruncateFront(1)
	poisoned["reset"] = l.Reset(themis.Position{}, nil)
	poisoned["clear blank"] = l.ClearBlank()
	poisoned["close"] = l.Close()
	for what, err := range poisoned {
		if !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if syncs != 1 || l.Durable() != 3 {
		t.Fatalf("%d fsyncs, durable %d", syncs, l.Durable())
	}
}

// fillDisk runs in a process of its own: it lets a write end short, as on a full disk, then opens the log again.
func fillDisk(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	put(t, l, 50, 1000)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100_000, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	var failed error
	for failed == nil {
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(l.Last().Seq+1, 1000), 1)
		if err != nil {
			t.Fatal(err)
		}
		failed = a.Wait()
	}
	if !errors.Is(failed, ErrPoisoned) || !errors.Is(failed, syscall.EFBIG) {
		t.Fatalf("short write: %v", failed)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	acked := l.Durable()
	if _, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("a write after a failed one: %v", err)
	}
	if len(readAll(t, l, 1, 1000)) != int(acked) {
		t.Fatal("a poisoned log no longer reads what it acknowledged")
	}
	if err := l.Close(); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("close: %v", err)
	}
	l, r := mustOpen(t, dir, opts())
	if r.Last.Seq != acked || r.CutBytes == 0 || r.Blank {
		t.Fatalf("acknowledged %d, recovery %+v", acked, r)
	}
	readAll(t, l, 1, 1000)
}

// A batch is never spread over segments, so that a crash leaves at most one torn end: in the last segment.
func TestPitfall08BatchOverSegmentEnd(t *testing.T) {
	o := smallSegments()
	o.BatchBytes = 4 << 20
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, o)
	reign(t, l, 1)
	put(t, l, 11, bigEntry)
	var batch []*Append
	for seq := themis.Seq(12); seq <= 41; seq++ { // one batch of three segments' size
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(seq, bigEntry), 1)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, a)
	}
	mark, err := os.ReadFile(filepath.Join(dir, markName))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range batch {
		if err := a.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if st := l.Stats(); st.Syncs != 12 || l.Segments() != 2 {
		t.Fatalf("%d syncs, %d segments", st.Syncs, l.Segments())
	}
	readAll(t, l, 1, bigEntry)
	mustClose(t, l)

	// The crash comes anywhere in the batch: what is there is a prefix, and the log opens with it.
	for _, keep := range []int64{-1, 0, recordBytes(minFrameBytes + bigEntry), 150_000} {
		crashed := copyDir(t, dir)
		if keep < 0 {
			os.Remove(segmentPath(crashed, 12))
		} else {
			os.Truncate(segmentPath(crashed, 12), keep)
		}
		_, r := mustOpen(t, copyDir(t, crashed), o)
		if !r.Blank {
			t.Fatalf("cut at %d, acknowledged before: not blank: %+v", keep, r)
		}
		os.WriteFile(filepath.Join(crashed, markName), mark, 0o600) // the crash was before the acknowledgement
		again, r := mustOpen(t, crashed, o)
		if r.Blank || r.Last.Seq < 11 {
			t.Fatalf("cut at %d: %+v", keep, r)
		}
		reign(t, again, 1)
		put(t, again, 1, bigEntry)
		readAll(t, again, 1, bigEntry)
	}
}

func TestPitfall09GaplessIndex(t *testing.T) {
	dir, _ := closed(t, opts(), 10, 100)
	l, _ := mustOpen(t, dir, opts())
	base := themis.Position{Seq: 5000, Epoch: 4, LSN: 1 << 33}
	lineage := []themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 4, Seq: 4000}}
	if err := l.Reset(base, lineage); err != nil {
		t.Fatal(err)
	}
	check := func(r themis.Position) {
		t.Helper()
		if r != base || l.Base() != base || l.First() != 5001 || !slices.Equal(l.Lineage(), lineage) {
			t.Fatalf("last %+v base %+v first %d lineage %v", r, l.Base(), l.First(), l.Lineage())
		}
	}
	check(l.Last())
	if firsts, _, _ := listSegments(dir); !slices.Equal(firsts, []themis.Seq{5001}) {
		t.Fatalf("segments %v", firsts)
	}
	mustClose(t, l)
	l, r := mustOpen(t, dir, opts())
	check(r.Last)
	if r.Blank || r.Mark != 5000 {
		t.Fatalf("recovery %+v", r)
	}
	reign(t, l, 5)
	put(t, l, 3, 100)
	all := readAll(t, l, 5001, 100)
	if len(all) != 3 || all[0].LSN != base.LSN {
		t.Fatalf("%+v", all)
	}
	if _, err := l.Scan(5000); !errors.As(err, new(*TrimmedError)) {
		t.Fatalf("scan below the base: %v", err)
	}
	mustClose(t, l)
	raw, err := rawTidwall(copyDir(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if n, err := raw.LastIndex(); err != nil || n != 5003 {
		t.Fatalf("tidwall's index %d is not the seq: %v", n, err)
	}
}

func TestPitfall10NoLock(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	put(t, l, 3, 100)
	if raw, err := rawTidwall(copyDir(t, dir)); err != nil {
		t.Fatalf("tidwall has learned to lock: %v", err)
	} else {
		raw.Close()
	}
	_, _, err := Open(dir, opts())
	if themis.CodeOf(err) != themis.RefusedUnsafe || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second open: %v", err)
	}
	put(t, l, 3, 100)
	mustClose(t, l)
	mustOpen(t, dir, opts())
}

func TestPitfall11Leftovers(t *testing.T) {
	dir, last := closed(t, smallSegments(), 40, bigEntry)
	firsts, _, _ := listSegments(dir)
	part, _ := os.ReadFile(segmentPath(dir, firsts[1]))
	leave := []string{
		segmentName(firsts[1]) + ".START", segmentName(firsts[1]) + ".START.TEMP",
		segmentName(firsts[2]) + ".END", segmentName(firsts[2]) + ".END.TEMP", "LOG.TEMP",
	}
	for _, name := range leave {
		os.WriteFile(filepath.Join(dir, name), part, 0o600)
	}
	if _, err := rawTidwall(copyDir(t, dir)); !errors.Is(err, tidwall.ErrCorrupt) {
		t.Fatalf("tidwall copes with .START beside .END: %v", err)
	}
	l, r := mustOpen(t, dir, smallSegments())
	if r.Last != last || r.Blank || len(r.Removed) != len(leave) {
		t.Fatalf("recovery %+v", r)
	}
	files := func() (names []string) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	for _, name := range files() {
		if slices.Contains(leave, name) {
			t.Errorf("%s is still there", name)
		}
	}

	// Cutting the front goes segment by segment, rewrites none and leaves nothing behind.
	if err := l.TruncateFront(firsts[2] - 2); err != nil {
		t.Fatal(err)
	}
	if l.First() != firsts[1] {
		t.Fatalf("first %d, want %d: entry %d must stay", l.First(), firsts[1], firsts[2]-1)
	}
	if err := l.TruncateFront(firsts[2] - 1); err != nil || l.First() != firsts[2] {
		t.Fatalf("first %d, want %d: %v", l.First(), firsts[2], err)
	}
	if got, want := len(files()), 3+len(firsts)-2; got != want {
		t.Fatalf("%d files, want %d: %v", got, want, files())
	}
	readAll(t, l, firsts[2], bigEntry)
}

func TestPitfall12Memory(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	l, _ := mustOpen(t, t.TempDir(), smallSegments())
	reign(t, l, 1)
	before := heap()
	put(t, l, 11*8, bigEntry)
	if l.Segments() != 8 {
		t.Fatalf("%d segments", l.Segments())
	}
	if grown := heap() - before; grown > 700<<10 {
		t.Fatalf("the heap grew by %d bytes: segments that are done are still held", grown)
	}
}

// tidwallDefaults are as they were before any test opened a log.
var tidwallDefaults = *tidwall.DefaultOptions

func TestPitfall13OptionsShared(t *testing.T) {
	mine := opts()
	small := smallSegments()
	l1, _ := mustOpen(t, t.TempDir(), mine)
	var held []Batch
	small.Tap = func(b Batch) { held = append(held, b) }
	l2, _ := mustOpen(t, t.TempDir(), small)
	if *tidwall.DefaultOptions != tidwallDefaults {
		t.Fatal("tidwall's defaults were changed")
	}
	if !reflect.DeepEqual(mine, opts()) {
		t.Fatalf("the caller's options were changed: %+v", mine)
	}
	for _, l := range []*Log{l1, l2} {
		reign(t, l, 1)
		put(t, l, 15, bigEntry)
	}
	if l1.Segments() != 1 || l2.Segments() != 2 {
		t.Fatalf("%d and %d segments", l1.Segments(), l2.Segments())
	}
	for i, b := range held { // what a Tap holds is not written again
		e, n, err := DecodeFrame(b.Frames)
		if want := themis.Seq(i + 1); err != nil || n != len(b.Frames) || e.Seq != want || !bytes.Equal(e.Payload, payloadOf(want, bigEntry)) {
			t.Fatalf("batch %d changed in the holder's hand: %v", i, err)
		}
	}
}
