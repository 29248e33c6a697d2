package wal

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// frames makes the frames of entries that stand behind prev, all of one epoch.
func frames(prev themis.Position, epoch themis.Epoch, n int) ([]byte, themis.Position) {
	var b []byte
	for range n {
		e := themis.Entry{Kind: themis.KindWrite, Seq: prev.Seq + 1, LSN: prev.LSN, Epoch: epoch, Payload: payloadOf(prev.Seq+1, 30)}
		at := len(b)
		b = AppendFrame(b, &e)
		prev = behind(&e, len(b)-at)
	}
	return b, prev
}

func TestAppendFrames(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, opts())
	b, end := frames(themis.Position{}, 2, 3)
	more, last := frames(end, 4, 2)
	pos, err := l.AppendFrames(append(b, more...))
	if err != nil || pos != last || l.Last() != last || l.Stats().Syncs != 1 {
		t.Fatalf("at %+v, want %+v, %d syncs: %v", pos, last, l.Stats().Syncs, err)
	}
	if pos, err := l.AppendFrames(nil); err != nil || pos != last {
		t.Fatalf("nothing: %+v, %v", pos, err)
	}
	edit := func(f func(e *themis.Entry)) []byte {
		e := themis.Entry{Kind: themis.KindWrite, Seq: 6, LSN: last.LSN, Epoch: 4, Commit: 5}
		f(&e)
		return AppendFrame(nil, &e)
	}
	good := edit(func(*themis.Entry) {})
	flipped := bytes.Clone(good)
	flipped[20] ^= 1
	tooMuch := errors.New("INVALID_ARGUMENT")
	for _, c := range []struct {
		name  string
		b     []byte
		field string
		want  error
	}{
		{"gap", edit(func(e *themis.Entry) { e.Seq = 7 }), "seq", nil},
		{"duplicate", edit(func(e *themis.Entry) { e.Seq = 5 }), "seq", nil},
		{"lsn", edit(func(e *themis.Entry) { e.LSN++ }), "lsn", nil},
		{"falling epoch", edit(func(e *themis.Entry) { e.Epoch = 3 }), "epoch", nil},
		{"commit at itself", edit(func(e *themis.Entry) { e.Commit = 6 }), "commit", nil},
		{"second one bad", append(bytes.Clone(good), good...), "seq", nil},
		{"flipped", flipped, "", ErrChecksum},
		{"cut short", good[:len(good)-1], "", ErrFrameShort},
		{"bytes behind", append(bytes.Clone(good), 1, 2), "", ErrFrameShort},
		{"newer version", edit(func(e *themis.Entry) { e.Version = 9 }), "", ErrUpgrade},
		{"too much at once", make([]byte, MaxShipBytes+1), "", tooMuch},
	} {
		before, _ := os.ReadFile(segmentPath(dir, 1))
		pos, err := l.AppendFrames(c.b)
		if c.want == tooMuch && themis.CodeOf(err) == themis.InvalidArgument {
			err = tooMuch
		}
		order, _ := errors.AsType[*OrderError](err)
		if err == nil || pos != last || c.want != nil && !errors.Is(err, c.want) || c.field != "" && (order == nil || order.Field != c.field) {
			t.Errorf("%s: at %+v, error %v", c.name, pos, err)
		}
		if after, _ := os.ReadFile(segmentPath(dir, 1)); !bytes.Equal(before, after) {
			t.Fatalf("%s: something was written", c.name)
		}
	}
	if _, err := l.AppendFrames(good); err != nil {
		t.Fatalf("a refused batch had an effect: %v", err)
	}
	want := []themis.EpochStart{{Epoch: 2, Seq: 1}, {Epoch: 4, Seq: 4}}
	if got := l.Lineage(); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Fatalf("lineage %v, want %v", got, want)
	}
}

func TestChangeOfSides(t *testing.T) {
	l, _ := mustOpen(t, t.TempDir(), opts())
	reign(t, l, 3)
	if err := l.SetEpoch(2); themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("the epoch fell: %v", err)
	}
	put(t, l, 2, 30)
	waiting, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(3, 30), 1) // dethroned before it waits
	if err != nil {
		t.Fatal(err)
	}
	shipped, end := frames(themis.Position{Seq: 3, Epoch: 3, LSN: 3 * (minFrameBytes + 30)}, 5, 2)
	if pos, err := l.AppendFrames(shipped); err != nil || pos != end {
		t.Fatalf("at %+v, want %+v: %v", pos, end, err)
	}
	if err := waiting.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1); !errors.Is(err, ErrNoReign) {
		t.Fatalf("a follower frames entries: %v", err)
	}
	if err := l.SetEpoch(4); themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("an epoch below that of the last entry: %v", err)
	}
	if err := l.SetEpoch(0); themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("epoch 0: %v", err)
	}
	reign(t, l, 6)
	put(t, l, 1, 30)
	if all := readAll(t, l, 1, 30); len(all) != 6 || all[5].Epoch != 6 {
		t.Fatalf("%+v", all)
	}
}

// Entries that a follower has taken over push the clock and the commit seq of its own reign.
func TestClockAndCommitGrow(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, opts())
	op := themis.Op{Code: themis.OpDelete, Type: themis.TypeDocument, Key: "k"}
	e := themis.Entry{Kind: themis.KindWrite, Seq: 1, Epoch: 1, HLC: 1000, Payload: themis.AppendOps(nil, []themis.Op{op, op, op})}
	first := AppendFrame(nil, &e)
	e = themis.Entry{Kind: themis.KindBarrier, Seq: 2, LSN: themis.LSN(len(first)), Epoch: 1, HLC: 900, Commit: 1}
	if _, err := l.AppendFrames(AppendFrame(first, &e)); err != nil {
		t.Fatal(err)
	}
	check := func(l *Log, stamp themis.HLC, ops int, want themis.HLC) {
		t.Helper()
		reign(t, l, 1)
		l.SetClock(func(last themis.HLC, n int) themis.HLC {
			if n != ops {
				t.Errorf("%d timestamps asked for, want %d", n, ops)
			}
			return stamp
		})
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, ops)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Entry(); got.HLC != want || got.Commit != 1 {
			t.Fatalf("hlc %d, want %d; commit %d", got.HLC, want, got.Commit)
		}
		if err := a.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	check(l, 5, 4, 1003)    // a clock that is behind does not turn stamps back
	check(l, 2000, 1, 2000) // one that is ahead counts
	check(l, 2000, 1, 2001) // one that stands still is pushed
	mustClose(t, l)
	l, r := mustOpen(t, dir, opts())
	if r.MaxCommit != 1 {
		t.Fatalf("recovery %+v", r)
	}
	check(l, 0, 1, 2002)
	l.SetCommit(1 << 40) // more than the log has: an entry is never committed before it is framed
	a, err := l.Begin(themis.KindBarrier, themis.Tags{}, nil, 1)
	if err == nil {
		err = a.Wait()
	}
	if got := a.Entry(); err != nil || got.Commit != got.Seq-1 {
		t.Fatalf("commit %d in entry %d: %v", got.Commit, got.Seq, err)
	}
}

func TestOverloaded(t *testing.T) {
	o := opts()
	o.BatchBytes, o.QueueBytes = 8<<10, 16<<10
	l, _ := mustOpen(t, t.TempDir(), o)
	reign(t, l, 1)
	var all []*Append
	for {
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(themis.Seq(len(all)+1), 1000), 1)
		if err != nil {
			if themis.CodeOf(err) != themis.Overloaded {
				t.Fatal(err)
			}
			break
		}
		all = append(all, a)
	}
	if n := len(all); n != (16<<10)/(minFrameBytes+1000) || l.Stats().Waiting == 0 {
		t.Fatalf("%d entries wait", n)
	}
	for i := len(all) - 1; i >= 0; i-- { // in any order; nobody leads the earlier batches but the last one's waiter
		if err := all[i].Wait(); err != nil {
			t.Fatal(err)
		}
	}
	put(t, l, 1, 1000)
	readAll(t, l, 1, 1000)
	big, err := l.Begin(themis.KindWrite, themis.Tags{}, make([]byte, 100<<10), 1) // larger than the queue: alone it may pass
	if err == nil {
		err = big.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCloseMakesWaitersDurable(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	var all sync.WaitGroup
	for range 20 {
		a, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := a.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	mustClose(t, l)
	all.Wait()
	mustClose(t, l)
	if _, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1); !errors.Is(err, ErrClosed) {
		t.Fatalf("begin after close: %v", err)
	}
	if err := l.MarkDurable(); !errors.Is(err, ErrClosed) {
		t.Fatalf("mark after close: %v", err)
	}
	if _, r := mustOpen(t, dir, opts()); r.Last.Seq != 20 {
		t.Fatalf("recovery %+v", r)
	}
}

// The acknowledgement comes after the fsync, and after MARK names the entry; the Tap comes before the write.
func TestOrderOfAcknowledgement(t *testing.T) {
	dir := t.TempDir()
	o := opts()
	var l *Log
	var steps []string
	o.Tap = func(b Batch) {
		steps = append(steps, "tap")
		if st, err := os.Stat(segmentPath(dir, 1)); err != nil || st.Size() != 0 {
			t.Errorf("tapped after the write: %v", err)
		}
	}
	o.OnSync = func(took time.Duration, entries, size int) {
		steps = append(steps, "told")
		if took <= 0 || entries != 1 || size != minFrameBytes+10 {
			t.Errorf("%v %d %d", took, entries, size)
		}
	}
	l, _ = mustOpen(t, dir, o)
	reign(t, l, 1)
	var a *Append
	l.sync = func(f *os.File) error {
		steps = append(steps, "sync")
		if st, err := f.Stat(); err != nil || st.Size() == 0 || a.batch.finished() || l.Durable() != 0 {
			t.Errorf("synced before the write, or acknowledged before the fsync: %v", err)
		}
		if _, mark, _ := readMark(filepath.Join(dir, markName)); mark != 0 {
			t.Errorf("marked %d before the fsync", mark)
		}
		return fdatasync(f)
	}
	a, err := l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(1, 10), 1)
	if err == nil {
		err = a.Wait()
	}
	if err != nil || len(steps) != 3 || steps[0] != "tap" || steps[1] != "sync" {
		t.Fatalf("steps %v: %v", steps, err)
	}
	if _, mark, err := readMark(filepath.Join(dir, markName)); err != nil || mark != 1 {
		t.Fatalf("acknowledged at mark %d: %v", mark, err)
	}
	l.sync = fdatasync // Close gives back the room behind the last entry
}

// What a primary ships counts once it is synced here: before that the follower's answer does not tell of it.
func TestShippedFramesCountOnceTheyAreSynced(t *testing.T) {
	from, _ := mustOpen(t, t.TempDir(), opts())
	reign(t, from, 1)
	put(t, from, 6, 10)
	scan, err := from.Scan(1)
	if err != nil {
		t.Fatal(err)
	}
	defer scan.Close()
	to, _ := mustOpen(t, t.TempDir(), opts())
	for want := themis.Seq(2); want <= 6; want += 2 {
		b, err := scan.NextFrames(nil, 2*(minFrameBytes+10))
		if err != nil || b.Last != want {
			t.Fatalf("frames up to %d: %v", b.Last, err)
		}
		synced, written := 0, to.tailBytes
		to.sync = func(f *os.File) error {
			if f == to.tail {
				if synced++; to.tailBytes <= written || to.Durable() != want-2 {
					t.Errorf("synced %d bytes behind %d, where seq %d counts already", to.tailBytes, written, to.Durable())
				}
			}
			return fdatasync(f)
		}
		if _, err := to.AppendFrames(b.Frames); err != nil || to.Durable() != want || synced != 1 {
			t.Fatalf("seq %d counts after %d syncs: %v", to.Durable(), synced, err)
		}
	}
	to.sync = fdatasync // Close gives back the room behind the last entry
}

// A mark that can't be made durable ends the log, also for a batch that is under way.
func TestMarkSyncFails(t *testing.T) {
	l, _ := mustOpen(t, t.TempDir(), opts())
	reign(t, l, 1)
	l.sync = func(f *os.File) error {
		if f == l.mark.f {
			return syscall.EIO
		}
		if err := l.MarkDurable(); !errors.Is(err, ErrPoisoned) {
			t.Errorf("mark: %v", err)
		}
		return nil
	}
	a, err := l.Begin(themis.KindWrite, themis.Tags{}, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(); themis.CodeOf(err) != themis.OutcomeUnknown || !errors.Is(err, syscall.EIO) {
		t.Fatalf("the batch under way: %v", err)
	}
}

// Writers that come back after each commit share the next one, though none waits for a timer.
func TestLingerJoinsWriters(t *testing.T) {
	o := opts()
	o.Linger = 10 * time.Millisecond
	l, _ := mustOpen(t, t.TempDir(), o)
	reign(t, l, 1)
	sync := l.sync
	l.sync = func(f *os.File) error { // a slow disk: writers have the time to come back
		for start := time.Now(); time.Since(start) < 4*time.Millisecond; {
		}
		return sync(f)
	}
	const writers, each = 8, 40
	left := make(chan struct{}, writers*each)
	for range writers * each {
		left <- struct{}{}
	}
	close(left)
	done, err := appendAll(l, writers, 100, func() bool { _, ok := <-left; return ok })
	if st := l.Stats(); err != nil || done != writers*each || float64(st.Entries)/float64(st.Syncs) < 0.7*writers {
		t.Fatalf("%d entries in %d syncs: %v", st.Entries, st.Syncs, err)
	}
}

func TestNextFrames(t *testing.T) {
	l, _ := mustOpen(t, t.TempDir(), smallSegments())
	reign(t, l, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		put(t, l, 1, rng.IntN(90_000))
	}
	for _, limit := range []int{1, 1000, 100_000, 1 << 20, 1 << 30} {
		follower, _ := mustOpen(t, t.TempDir(), opts())
		s, err := l.Scan(1)
		if err != nil {
			t.Fatal(err)
		}
		var buf []byte
		batches := 0
		for {
			b, err := s.NextFrames(buf, limit)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if b.Entries > 1 && len(b.Frames) > limit || b.Prev != follower.Last() || b.End != s.Pos() ||
				b.First != b.Prev.Seq+1 || b.Last != b.End.Seq || b.Entries != int(b.Last-b.Prev.Seq) {
				t.Fatalf("limit %d: batch %d to %d of %d bytes behind %+v", limit, b.First, b.Last, len(b.Frames), b.Prev)
			}
			if pos, err := follower.AppendFrames(b.Frames); err != nil || pos != b.End {
				t.Fatal(err)
			}
			buf = b.Frames
			batches++
		}
		if follower.Last() != l.Last() || limit == 1 && batches != 60 || limit == 1<<30 && batches != 1 {
			t.Fatalf("limit %d: %d batches, follower at %+v", limit, batches, follower.Last())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	}
	if _, err := l.Scan(62); themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("scan behind the end: %v", err)
	}
}

func TestStoredByANewerVersion(t *testing.T) {
	dir, _ := closed(t, opts(), 2, 10)
	e := themis.Entry{Version: 2, Kind: themis.KindWrite, Seq: 3, LSN: 2 * (minFrameBytes + 10), Epoch: 1}
	frame := AppendFrame(nil, &e)
	change(t, segmentPath(dir, 1), func(b []byte) []byte { return append(append(b, byte(len(frame))), frame...) })
	before, _ := os.ReadFile(segmentPath(dir, 1))
	_, _, err := Open(dir, opts())
	if themis.CodeOf(err) != themis.Unimplemented || !errors.Is(err, ErrUpgrade) {
		t.Fatalf("open: %v", err)
	}
	if after, _ := os.ReadFile(segmentPath(dir, 1)); !bytes.Equal(before, after) {
		t.Fatal("an entry of a newer version was cut")
	}
}

// A whole entry that is out of its order at the end is no torn tail: somebody wrote it.
func TestWholeEntryOutOfOrderIsNotCut(t *testing.T) {
	dir, last := closed(t, opts(), 3, 10)
	for name, e := range map[string]themis.Entry{
		"duplicate":     {Seq: 3, LSN: last.LSN, Epoch: 1},
		"gap":           {Seq: 5, LSN: last.LSN, Epoch: 1},
		"falling epoch": {Seq: 4, LSN: last.LSN},
		"lsn":           {Seq: 4, LSN: last.LSN + 1, Epoch: 1},
	} {
		dir := copyDir(t, dir)
		frame := AppendFrame(nil, &e)
		change(t, segmentPath(dir, 1), func(b []byte) []byte { return append(append(b, byte(len(frame))), frame...) })
		_, _, err := Open(dir, opts())
		if c := wantCorrupt(t, err, 4); !errors.As(c, new(*OrderError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The scanner checks the order of whole entries too, in segments that Open does not read to the end.
func TestScanFindsOrder(t *testing.T) {
	dir, _ := closed(t, smallSegments(), 25, bigEntry)
	change(t, segmentPath(dir, 1), func(b []byte) []byte {
		record := recordBytes(minFrameBytes + bigEntry)
		copy(b[4*record:5*record], b[3*record:4*record]) // entry 4 twice, entry 5 never
		return b
	})
	l, _ := mustOpen(t, dir, smallSegments())
	s, err := l.Scan(1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := s.NextFrames(nil, 1<<30)
	if err != nil || b.Last != 4 {
		t.Fatalf("up to %d: %v", b.Last, err)
	}
	_, err = s.Next()
	if c := wantCorrupt(t, err, 5); !errors.As(c, new(*OrderError)) {
		t.Fatal(err)
	}
}
