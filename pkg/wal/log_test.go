package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/themis"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(m.Run()) // a child of TestPitfall07, which fills its disk
	}
	goleak.VerifyTestMain(m)
}

const childEnv = "WAL_TEST_CHILD"

// opts are the options of a test's log.
func opts() Options {
	return Options{Cluster: "c-1", Shard: "shard-1", Storage: "disk-a"}
}

func mustOpen(t *testing.T, dir string, o Options) (*Log, Recovery) {
	t.Helper()
	l, r, err := Open(dir, o)
	if err != nil {
		t.Fatalf("open %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, ErrPoisoned) {
			t.Errorf("close: %v", err)
		}
	})
	return l, r
}

func mustClose(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func reign(t *testing.T, l *Log, e themis.Epoch) {
	t.Helper()
	if err := l.SetEpoch(e); err != nil {
		t.Fatalf("set epoch %d: %v", e, err)
	}
}

// payloadOf is the payload that tests put into entry seq, so that a wrong entry is seen.
func payloadOf(seq themis.Seq, size int) []byte {
	return bytes.Repeat([]byte{byte(seq), byte(seq >> 8), 0xA5}, size/3+1)[:size]
}

// put appends n entries of size bytes, one batch each.
func put(t *testing.T, l *Log, n, size int) {
	t.Helper()
	for range n {
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(l.Last().Seq+1, size), 1)
		if err != nil {
			t.Fatalf("begin: %v", err)
		}
		if err := a.Wait(); err != nil {
			t.Fatalf("wait: %v", err)
		}
	}
}

// readAll scans the log from an entry to the end and checks every payload.
func readAll(t *testing.T, l *Log, from themis.Seq, size int) []themis.Entry {
	t.Helper()
	s, err := l.Scan(from)
	if err != nil {
		t.Fatalf("scan from %d: %v", from, err)
	}
	defer s.Close()
	var all []themis.Entry
	for {
		e, err := s.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("next behind %d: %v", s.Pos().Seq, err)
		}
		if want := from + themis.Seq(len(all)); e.Seq != want || size >= 0 && !bytes.Equal(e.Payload, payloadOf(want, size)) {
			t.Fatalf("entry %d where %d belongs, or a wrong payload of %d bytes", e.Seq, want, len(e.Payload))
		}
		e.Payload = nil // only lent
		all = append(all, e)
	}
}

// closed makes a log of n entries and closes it.
func closed(t *testing.T, o Options, n, size int) (dir string, last themis.Position) {
	t.Helper()
	dir = t.TempDir()
	l, _ := mustOpen(t, dir, o)
	reign(t, l, 1)
	put(t, l, n, size)
	mustClose(t, l)
	return dir, l.Last()
}

// copyDir copies a log to a file system without a disk, where there is one: a copy is opened to see what becomes of it, and
// does not ask what the disk does.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to, err := os.MkdirTemp("/dev/shm", "wal-test-")
	if err != nil {
		to = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(to) })
	if err := os.CopyFS(filepath.Join(to, "log"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "log")
}

// change edits a file of the log in place.
func change(t *testing.T, path string, edit func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, edit(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantCorrupt(t *testing.T, err error, seq themis.Seq) *CorruptError {
	t.Helper()
	c, ok := errors.AsType[*CorruptError](err)
	if !ok || themis.CodeOf(err) != themis.Corrupt {
		t.Fatalf("error %v, want a CorruptError", err)
	}
	if c.Seq != seq || c.Shard != "shard-1" || c.File == "" || !strings.Contains(err.Error(), c.File) {
		t.Fatalf("%+v, want seq %d", c, seq)
	}
	return c
}

func TestAppendAndReadBack(t *testing.T) {
	dir := t.TempDir()
	l, r := mustOpen(t, dir, opts())
	if !r.Fresh || r.Blank || r.Last != (themis.Position{}) {
		t.Fatalf("recovery of a new log: %+v", r)
	}
	reign(t, l, 3)
	put(t, l, 10, 100)
	l.SetCommit(7)
	put(t, l, 1, 100)
	l.SetCommit(4)
	put(t, l, 1, 100)
	all := readAll(t, l, 1, 100)
	if len(all) != 12 || all[11].Commit != 7 || all[10].Commit != 7 || all[9].Commit != 0 {
		t.Fatalf("entries: %+v", all)
	}
	last := l.Last()
	if want := themis.LSN(12 * (prologueBytes + 1 + 100)); last.Seq != 12 || last.Epoch != 3 || last.LSN != want {
		t.Fatalf("last %+v, want seq 12 epoch 3 lsn %s", last, want)
	}
	mustClose(t, l)

	l, r = mustOpen(t, dir, opts())
	if r.Last != last || r.Blank || r.Fresh || r.CutBytes != 0 || r.MaxCommit != 7 || r.Mark != 12 {
		t.Fatalf("recovery: %+v, want last %+v", r, last)
	}
	if _, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1); !errors.Is(err, ErrNoReign) {
		t.Fatalf("begin without an epoch: %v", err)
	}
	reign(t, l, 4)
	put(t, l, 1, 100)
	want := []themis.EpochStart{{Epoch: 3, Seq: 1}, {Epoch: 4, Seq: 13}}
	if got := l.Lineage(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("lineage %v, want %v", got, want)
	}
}

func TestManyWriters(t *testing.T) {
	o := opts()
	o.SegmentBytes, o.BatchBytes = 1<<20, 64<<10
	var shipped []byte
	var next themis.Seq = 1
	o.Tap = func(b Batch) {
		if b.First != next || b.Last != b.First+themis.Seq(b.Entries)-1 || b.Prev.Seq != b.First-1 {
			t.Errorf("batch %d to %d of %d entries, want from %d", b.First, b.Last, b.Entries, next)
		}
		next = b.Last + 1
		shipped = append(shipped, b.Frames...)
	}
	l, _ := mustOpen(t, t.TempDir(), o)
	reign(t, l, 1)
	const writers, each = 32, 100
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				a, err := l.Begin(themis.KindWrite, themis.Tags{}, make([]byte, 1000), 3)
				if err != nil {
					t.Error(err)
					return
				}
				if err := a.Wait(); err != nil {
					t.Error(err)
					return
				}
				if got := l.Durable(); got < a.Entry().Seq {
					t.Errorf("seq %d acknowledged, durable is %d", a.Entry().Seq, got)
				}
			}
		})
	}
	all.Wait()
	entries := readAll(t, l, 1, -1)
	if len(entries) != writers*each || l.Segments() < 3 {
		t.Fatalf("%d entries in %d segments", len(entries), l.Segments())
	}
	for i := 1; i < len(entries); i++ {
		if entries[i].HLC != entries[i-1].HLC+3 {
			t.Fatalf("hlc %d behind %d", entries[i].HLC, entries[i-1].HLC)
		}
	}
	follower, _ := mustOpen(t, t.TempDir(), opts())
	pos, err := follower.AppendFrames(shipped)
	if err != nil || pos != l.Last() {
		t.Fatalf("follower at %+v, want %+v: %v", pos, l.Last(), err)
	}
	if st := l.Stats(); st.Entries != writers*each || st.Syncs == 0 || st.Syncs >= writers*each || st.Waiting != 0 {
		t.Fatalf("stats %+v", st)
	}
}

func TestCompareWithRaw(t *testing.T) {
	c, err := CompareWithRaw(t.TempDir(), 2, 2, 100, 5*time.Millisecond)
	if err != nil || c.Ratio <= 0 || len(c.Rounds) != 2 {
		t.Fatalf("%+v: %v", c, err)
	}
}

// The segments are in tidwall/wal's format: what stands in the log is what tidwall reads.
func TestTidwallReadsTheSegments(t *testing.T) {
	dir, last := closed(t, smallSegments(), 30, bigEntry)
	raw, err := rawTidwall(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if n, err := raw.LastIndex(); err != nil || n != uint64(last.Seq) {
		t.Fatalf("tidwall ends at %d, the log at %d: %v", n, last.Seq, err)
	}
	for seq := themis.Seq(1); seq <= last.Seq; seq++ {
		frame, err := raw.Read(uint64(seq))
		if err != nil {
			t.Fatal(err)
		}
		if e, n, err := DecodeFrame(frame); err != nil || n != len(frame) || e.Seq != seq || !bytes.Equal(e.Payload, payloadOf(seq, bigEntry)) {
			t.Fatalf("tidwall reads entry %d at %d: %v", e.Seq, seq, err)
		}
	}
}
