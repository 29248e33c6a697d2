package replication

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// What a write found is told though the store doesn't have what came before it yet.
func TestAWriteTellsWhatItFound(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	p := c.elect()
	c.mustWrite(p, put("warm", "1"))
	deletes := func(key string) Write {
		w := put(key, "")
		w.Changes[0].Code, w.Changes[0].Value = themis.OpDelete, nil
		return w
	}
	both := func(a, b Write) Write { return Write{Changes: append(a.Changes, b.Changes...)} }
	for round := range 20 {
		key := "k" + string(rune('a'+round))
		for i, x := range []struct {
			w    Write
			want []bool
		}{
			{put(key, "1"), []bool{false}},
			{put(key, "2"), []bool{true}},
			{deletes(key), []bool{true}},
			{deletes(key), []bool{false}},
			{both(put(key, "3"), deletes(key)), []bool{false, true}},
			{both(deletes(key), put(key, "4")), []bool{false, false}},
			{both(put(key, "5"), put(key, "6")), []bool{true, true}},
		} {
			got := c.mustWrite(p, x.w)
			var existed []bool
			for j, o := range got.Ops {
				existed = append(existed, o.Existed)
				if o.Version != got.HLC+themis.HLC(j) || o.Collection != 1 || !bytes.Equal(o.Placement, x.w.Changes[j].Placement) {
					t.Fatalf("round %d, write %d: %+v", round, i, got)
				}
			}
			if !slices.Equal(existed, x.want) {
				t.Fatalf("round %d, write %d: it found %v, want %v", round, i, existed, x.want)
			}
		}
		if v, err := c.read(p, key); err != nil || v != "6" {
			t.Fatalf("%q, %v", v, err)
		}
	}
	c.converged("node-1", "node-2")
}

// A primary whose store is too far behind takes no more writes until it has come nearer.
func TestWritesKeepPaceWithTheStore(t *testing.T) {
	r, stop := runReplica(t, filepath.Join(t.TempDir(), "shard-1"), true)
	defer stop()
	for _, rg := range []*reigning{{confirmed: mostUnapplied}, {confirmed: 1, ahead: recentBytes}} {
		rg.r, rg.ctx = r, t.Context()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := rg.keepPace(ctx); themis.CodeOf(err) != themis.Deadline {
			t.Fatalf("%d writes, %d bytes ahead: %v", rg.confirmed, rg.ahead, err)
		}
		done := make(chan error, 1)
		go func() { done <- rg.keepPace(t.Context()) }()
		rg.mu.Lock()
		rg.confirmed, rg.ahead = rg.confirmed-1, 0
		rg.mu.Unlock()
		r.applied.wake()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// What is confirmed counts until it is in the store, and then no more.
func TestWhatIsAheadOfTheStore(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	p := c.elect()
	for i := range 50 {
		c.mustWrite(p, put("k", string(make([]byte, i))))
	}
	rg := c.node(p).leading.Load()
	c.eventually("nothing ahead of the store", func() bool {
		rg.mu.Lock()
		defer rg.mu.Unlock()
		return len(rg.waiting) == 0 && rg.confirmed == 0 && rg.ahead == 0
	})
}

// sink is a follower that is slow to answer.
type sink struct{ got []Ship }

func (s *sink) Send(m Ship) error    { s.got = append(s.got, m); return nil }
func (*sink) Recv() (Reply, error)   { return Reply{}, context.Canceled }
func (s *sink) frames() (out []byte) { return slices.Concat(s.each()...) }
func (s *sink) each() (out [][]byte) {
	for _, m := range s.got {
		out = append(out, m.Frames)
	}
	return out
}

// A follower that owes answers gets no more messages; what came meanwhile goes in one, and nothing twice or not at all.
func TestAFollowerThatOwesAnswers(t *testing.T) {
	r, stop := runReplica(t, filepath.Join(t.TempDir(), "shard-1"), true)
	defer stop()
	record := cluster.Shard{ID: "shard-1", Epoch: 1, Primary: member("b"), ISR: []cluster.Member{member("b")}}
	rg := &reigning{r: r, ctx: t.Context(), began: time.Now(), core: NewReign(record, 0, 1, time.Now(), DefaultRules())}
	to := &sink{}
	s := &shipper{rg: rg, to: member("a"), wake: make(chan struct{}, 1), stream: to, next: 1, abort: func(error) {}}
	var want []byte
	all := make([][]byte, 0, 20)
	for i := themis.Seq(1); i <= 20; i++ {
		frame := wal.AppendFrame(make([]byte, 0, 4096), &themis.Entry{Kind: themis.KindBarrier, Seq: i, Epoch: 1, LSN: themis.LSN(len(want))})
		all, want = append(all, slices.Clone(frame)), append(want, frame...)
		s.offer(wal.Batch{Frames: frame, First: i, Last: i, Entries: 1})
		if i == 1 && len(to.got) != 1 {
			t.Fatal("the first batch waited for the shipper")
		}
		if err := s.ship(); err != nil {
			t.Fatal(err)
		}
	}
	if len(to.got) != openShips || !slices.EqualFunc(to.each(), all[:openShips], bytes.Equal) {
		t.Fatalf("%d messages are not answered", len(to.got))
	}
	s.answered(to.got[0].Sent)
	select {
	case <-s.wake:
	default:
		t.Fatal("the shipper does not go on after an answer")
	}
	if err := s.ship(); err != nil {
		t.Fatal(err)
	}
	if len(to.got) != openShips+1 || !bytes.Equal(to.frames(), want) {
		t.Fatalf("%d messages, %d of %d bytes", len(to.got), len(to.frames()), len(want))
	}
	s.answered(to.got[openShips].Sent)
	if s.busy() || len(s.owed) > 0 {
		t.Fatalf("%d answers are owed", len(s.owed))
	}
	s.owed = []time.Duration{time.Hour}
	s.offer(wal.Batch{Frames: make([]byte, queueBytes+1), First: 21, Last: 21, Entries: 1})
	if frames, last := s.take(s.next); len(frames) != queueBytes+1 || last != 21 {
		t.Errorf("of a batch larger than all that is held usually, %d bytes are held", len(frames))
	}
}

// Who waits for an appended write that is not confirmed is counted once that takes long, together with all who came after.
func TestBegunWritesThatWaitAreCounted(t *testing.T) {
	now := time.Now()
	at := func(ago time.Duration) *pending { return &pending{begun: now.Add(-ago)} }
	for _, c := range []struct {
		what string
		rg   *reigning
		want int
	}{
		{"nothing is under way", &reigning{open: 0}, 0},
		{"all are confirmed, and not in the store yet", &reigning{open: 1, confirmed: 1, waiting: []*pending{at(time.Second)}}, 0},
		{"just begun", &reigning{open: 2, waiting: []*pending{at(time.Millisecond), at(0)}}, 0},
		{"the oldest waits long", &reigning{open: 3, confirmed: 1, waiting: []*pending{at(time.Second), at(slowWrite), at(0), at(0)}}, 3},
		{"its caller has given up", &reigning{open: 0, waiting: []*pending{at(time.Second)}}, 0},
	} {
		if got := c.rg.slow(now); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}
