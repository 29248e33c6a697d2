package wal

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// The power is lost in the middle of a write. Of what was not synced any sectors reached the disk, in any order, the others are zero;
// the file is as long as before, as after, or anything between. Whoever wrote, a primary its batches or a follower many of
// them at once: what was acknowledged is there, nothing is called damage, and the log goes on.
func TestLostSectors(t *testing.T) {
	for _, follower := range []bool{false, true} {
		for seed := range uint64(60) {
			c := crashed(t, seed, follower)
			c.reopens(t, seed)
			if t.Failed() {
				t.Fatalf("seed %d, follower %v", seed, follower)
			}
		}
	}
}

// crash is a directory as a loss of power left it.
type crash struct {
	dir     string
	options Options
	acked   themis.Seq
	truth   [][]byte // payloads by seq
}

// image is what the files of a log hold.
func image(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string][]byte{}
	for _, e := range entries {
		if m[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// crashed writes until a sync that never returns, and keeps some of the sectors that were on their way.
func crashed(t *testing.T, seed uint64, follower bool) crash {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	c := crash{options: opts(), truth: [][]byte{nil}}
	c.options.SegmentBytes, c.options.Linger = 1<<20, -1
	var durable, pending map[string][]byte
	dir := filepath.Join(t.TempDir(), "log")
	l, _ := mustOpen(t, dir, c.options)
	left := 1 + rng.IntN(20)
	l.sync = func(*os.File) error {
		if left--; left == 0 {
			pending, c.acked = image(t, dir), l.Durable()
			return errors.New("the power is gone")
		}
		durable = image(t, dir)
		return nil
	}
	write := c.leads
	if follower {
		write = c.follows
	}
	write(t, l, rng)
	_ = l.Close()
	c.dir = filepath.Join(t.TempDir(), "crash")
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := []float64{0.1, 0.5, 0.9, 0.99}[rng.IntN(4)]
	for name, now := range pending {
		if len(name) == segmentNameLen {
			now = some(rng, durable[name], now, kept)
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), now, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// some is a file of which some sectors are as they are now, the others as they were or zero.
func some(rng *rand.Rand, was, now []byte, kept float64) []byte {
	const sector = 512
	size := len(was)
	if more := len(now) - size; more > 0 {
		size += []int{0, more, rng.IntN(more + 1)}[rng.IntN(3)]
	}
	out := make([]byte, size)
	copy(out, was)
	for at := 0; at < size; at += sector {
		if end := min(at+sector, size, len(now)); at < end && rng.Float64() < kept {
			copy(out[at:end], now[at:end])
		}
	}
	return out
}

// payload may be large, and may end in zeros as room does.
func (c *crash) payload(rng *rand.Rand) []byte {
	size := 50 + rng.IntN(3000)
	switch rng.IntN(12) {
	case 0:
		size = 100 << 10
	case 1:
		size = 200 << 10
	}
	p := make([]byte, size)
	if rng.IntN(3) > 0 {
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
	}
	if rng.IntN(3) == 0 {
		clear(p[size/3:])
	}
	c.truth = append(c.truth, p)
	return p
}

// leads appends to l as a primary until it fails.
func (c *crash) leads(t *testing.T, l *Log, rng *rand.Rand) {
	t.Helper()
	reign(t, l, 1)
	for {
		var last *Append
		for range 1 + rng.IntN(5) {
			var err error
			if last, err = l.Begin(themis.KindWrite, themis.Tags{}, c.payload(rng), 1); err != nil {
				t.Fatal(err)
			}
		}
		if last.Wait() != nil {
			return
		}
	}
}

// follows gives l what a primary has, some batches at once, until it fails.
func (c *crash) follows(t *testing.T, l *Log, rng *rand.Rand) {
	t.Helper()
	p, _ := mustOpen(t, filepath.Join(t.TempDir(), "primary"), c.options)
	p.sync = func(*os.File) error { return nil }
	reign(t, p, 1)
	for next := themis.Seq(1); ; next = p.Durable() + 1 {
		for range 1 + rng.IntN(8) {
			a, err := p.Begin(themis.KindWrite, themis.Tags{}, c.payload(rng), 1)
			if err == nil {
				err = a.Wait()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s, err := p.Scan(next)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.NextFrames(nil, 4<<20)
		if err != nil || b.Last != p.Durable() {
			t.Fatalf("up to seq %d, %v; want %d", b.Last, err, p.Durable())
		}
		_ = s.Close()
		if _, err := l.AppendFrames(b.Frames); err != nil {
			return
		}
	}
}

func (c *crash) reopens(t *testing.T, seed uint64) {
	t.Helper()
	in, err := Inspect(c.dir, Identity{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, rec, err := Open(c.dir, c.options)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if rec.Last.Seq < c.acked || rec.Blank {
		t.Fatalf("it ends at seq %d, acknowledged was %d; blank: %v %s", rec.Last.Seq, c.acked, rec.Blank, rec.BlankReason)
	}
	if !in.Sound() || in.Last != rec.Last {
		t.Errorf("inspected: %+v, opened: %+v", in, rec.Last)
	}
	if rec.Last.Seq > 0 {
		s, err := l.Scan(1)
		if err != nil {
			t.Fatal(err)
		}
		for seq := themis.Seq(1); seq <= rec.Last.Seq; seq++ {
			if e, err := s.Next(); err != nil || string(e.Payload) != string(c.truth[seq]) {
				t.Fatalf("seq %d: %v", seq, err)
			}
		}
		_ = s.Close()
	}
	reign(t, l, 2)
	put(t, l, 1, 100)
	mustClose(t, l)
	l, again := mustOpen(t, c.dir, c.options)
	if again.Last.Seq != rec.Last.Seq+1 || again.Blank || again.CutBytes != 0 {
		t.Errorf("opened again: %+v", again)
	}
	mustClose(t, l)
}

// A process ends between a write and its sync: the next one reads what is in memory only. It is synced, and its segment's name, before it
// counts as durable.
func TestWhatOpenCountsIsSynced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	var left string
	l.sync = func(f *os.File) error {
		left = copyDir(t, dir)
		return fdatasync(f)
	}
	a, err := l.Begin(themis.KindWrite, themis.Tags{}, make([]byte, 200<<10), 1) // too large for room behind it
	if err == nil {
		err = a.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	synced := map[string]bool{}
	o := opts()
	o.sync = func(f *os.File) error {
		synced[f.Name()] = true
		return nil
	}
	next, rec := mustOpen(t, left, o)
	if rec.Last.Seq != 1 || next.Durable() != 1 || !synced[segmentPath(left, 1)] {
		t.Errorf("ends at seq %d, durable up to %d; synced: %v", rec.Last.Seq, next.Durable(), synced)
	}
}

// Once MARK can't be synced nothing more is changed, not even room given back.
func TestCloseAfterAFailedMark(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	put(t, l, 1, 100)
	before := image(t, dir)
	if err := l.mark.f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("close: %v", err)
	}
	if after := image(t, dir); len(after[segmentName(1)]) != len(before[segmentName(1)]) {
		t.Errorf("the segment went from %d to %d bytes", len(before[segmentName(1)]), len(after[segmentName(1)]))
	}
}

// Any bytes as a last segment: what is read without an error is what Inspect sees, and opening again finds the same.
func FuzzLastSegment(f *testing.F) {
	seed := func(t *testing.F) []byte {
		dir := filepath.Join(t.TempDir(), "log")
		l, _, err := Open(dir, opts())
		if err == nil {
			err = l.SetEpoch(1)
		}
		for i := range 3 {
			var a *Append
			if err == nil {
				a, err = l.Begin(themis.KindWrite, themis.Tags{}, payloadOf(themis.Seq(i+1), 40), 1)
			}
			if err == nil {
				err = a.Wait()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(segmentPath(dir, 1)) // with room behind it
		if err := errors.Join(err, l.Close()); err != nil {
			t.Fatal(err)
		}
		return b[:1<<10]
	}(f)
	f.Add(seed, uint64(0))
	f.Add(seed, uint64(3))
	f.Add(seed[:200], uint64(2))
	f.Add(append(make([]byte, 100), seed[100:]...), uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, mark uint64) {
		dir := filepath.Join(copyDir(t, t.TempDir()), "log") // in memory: syncs would take most of the time
		o := opts()
		o.sync = func(*os.File) error { return nil }
		l, _, err := Open(dir, o)
		if err == nil {
			err = errors.Join(l.mark.set(themis.Seq(mark)), l.Close())
		}
		if err == nil {
			err = os.WriteFile(segmentPath(dir, 1), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := Inspect(dir, Identity{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		l, rec, err := Open(dir, o)
		if err != nil {
			if in.Sound() {
				t.Errorf("inspected as sound, opened: %v", err)
			}
			return
		}
		if in.Last != rec.Last {
			t.Errorf("inspected up to %+v, opened up to %+v", in.Last, rec.Last)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l, again, err := Open(dir, o)
		if err != nil || again.Last != rec.Last || again.CutBytes != 0 || again.Blank != rec.Blank {
			t.Fatalf("again: %+v, %v; before %+v", again, err, rec)
		}
		_ = l.Close()
	})
}
