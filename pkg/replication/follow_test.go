package replication

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// script is a primary that says what the test says.
type script struct {
	ships   chan Ship
	replies chan Reply
}

func (s *script) Recv() (Ship, error) {
	m, ok := <-s.ships
	if !ok {
		return Ship{}, io.EOF
	}
	return m, nil
}

func (s *script) Send(r Reply) error { s.replies <- r; return nil }

func runReplica(t *testing.T, dir string, fresh bool) (*Replica, func()) {
	t.Helper()
	r, err := Open(Options{
		Dir: dir, Cluster: "c", Shard: "shard-1", Boot: "b", Fresh: fresh, Self: member("b"), Reigns: func(time.Time) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func framesOf(n int, commit themis.Seq) (out []byte) {
	lsn := themis.LSN(0)
	for i := 1; i <= n; i++ {
		e := themis.Entry{Kind: themis.KindBarrier, Seq: themis.Seq(i), LSN: lsn, Epoch: 2, HLC: themis.HLC(i)}
		if i > 1 {
			e.Kind = themis.KindWrite
			e.Payload = themis.AppendOps(nil, []themis.Op{{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: []byte{0, 0, 0, 1}, Key: "k", Value: []byte("1")}})
			e.Commit = min(commit, e.Seq-1)
		}
		out = wal.AppendFrame(out, &e)
		lsn = themis.LSN(len(out))
	}
	return out
}

func TestFollowerAppliesOnlyWhatIsCommitted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shard-1")
	r, stop := runReplica(t, dir, true)
	h := Hello{Cluster: "c", Shard: "shard-1", Epoch: 2, Primary: member("a"), Follower: member("b").Storage, Lineage: []themis.EpochStart{{Epoch: 2, Seq: 1}}, First: 1, Last: 1}
	w, f, err := r.Accept(t.Context(), h)
	if err != nil || f == nil || !w.Accepted {
		t.Fatalf("%+v, %v", w, err)
	}
	s := &script{ships: make(chan Ship, 4), replies: make(chan Reply, 4)}
	served := make(chan error, 1)
	go func() { served <- f.Serve(s) }()
	s.ships <- Ship{Frames: framesOf(4, 1), Commit: 2}
	if got := <-s.replies; got.Durable != 4 {
		t.Fatalf("reply %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := r.waitApplied(ctx, ctx, 2); err != nil {
		t.Fatal(err)
	}
	applied := func(r *Replica, what string) {
		t.Helper()
		for range 50 {
			if a := r.openStore().Applied().Seq; a > 2 {
				t.Fatalf("%s: applied up to %d, committed is 2", what, a)
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	applied(r, "while following")
	close(s.ships)
	<-served
	stop()
	again, stop := runReplica(t, dir, false)
	defer stop()
	applied(again, "after a restart")
	if last := again.log.Last().Seq; last != 4 {
		t.Fatalf("the log ends at %d", last)
	}
}

func TestAFollowerRefuses(t *testing.T) {
	s := Standing{Cluster: "c", Shard: "shard-1", Self: member("b"), Promised: 5, Last: themis.Position{Seq: 9, Epoch: 4}, Lineage: []themis.EpochStart{{Epoch: 4, Seq: 1}}}
	ok := Hello{Cluster: "c", Shard: "shard-1", Epoch: 5, Primary: member("a"), Follower: member("b").Storage, Lineage: s.Lineage, First: 1, Last: 20}
	for _, c := range []struct {
		name   string
		change func(*Hello)
		want   func(Welcome) bool
	}{
		{"what fits", func(*Hello) {}, func(w Welcome) bool { return w.Accepted && w.Common == 9 }},
		{"another cluster", func(h *Hello) { h.Cluster = "d" }, func(w Welcome) bool { return !w.Accepted && w.Promised == 0 }},
		{"another shard", func(h *Hello) { h.Shard = "shard-2" }, func(w Welcome) bool { return !w.Accepted }},
		{"another disk", func(h *Hello) { h.Follower = "old" }, func(w Welcome) bool { return !w.Accepted }},
		{"an older epoch", func(h *Hello) { h.Epoch = 4 }, func(w Welcome) bool { return !w.Accepted && w.Promised == 5 }},
		{"a log that begins too late", func(h *Hello) { h.First = 11 }, func(w Welcome) bool { return w.Accepted && w.Install }},
	} {
		h := ok
		c.change(&h)
		if w := Receive(s, h); !c.want(w) {
			t.Errorf("%s: %+v", c.name, w)
		}
	}
	s.Applied = 9
	h := ok
	h.Lineage, h.Last = []themis.EpochStart{{Epoch: 4, Seq: 1}, {Epoch: 5, Seq: 8}}, 20
	if w := Receive(s, h); !w.Install {
		t.Errorf("a primary without what was applied here: %+v", w)
	}
}

// The hello of a stream that is over comes late, when a newer stream has brought more: nothing is cut back to what it knew. Nor does
// a hello count whose stream has ended meanwhile.
func TestAFollowerStaysWithTheNewestStream(t *testing.T) {
	r, stop := runReplica(t, filepath.Join(t.TempDir(), "shard-1"), true)
	defer stop()
	h := Hello{
		Cluster: "c", Shard: "shard-1", Epoch: 2, Primary: member("a"), Follower: member("b").Storage, First: 1, Barrier: 1, Stream: 2,
		Lineage: []themis.EpochStart{{Epoch: 2, Seq: 1}}, Last: 1,
	}
	w, f, err := r.Accept(t.Context(), h)
	if err != nil || !w.Accepted {
		t.Fatalf("%+v, %v", w, err)
	}
	if reply, err := f.take(Ship{Frames: framesOf(3, 0)}); err != nil || reply.Durable != 3 {
		t.Fatalf("%+v, %v", reply, err)
	}
	late := h
	late.Stream = 1
	if w, _, err := r.Accept(t.Context(), late); err != nil || w.Accepted || f.ctx.Err() != nil {
		t.Errorf("an older stream: %+v, %v; the newer one: %v", w, err, f.ctx.Err())
	}
	over, end := context.WithCancel(t.Context())
	end()
	next := h
	next.Stream = 3
	if w, _, err := r.Accept(over, next); err == nil || f.ctx.Err() != nil {
		t.Errorf("a stream that is over: %+v, %v; the one before: %v", w, err, f.ctx.Err())
	}
	if got := r.log.Durable(); got != 3 {
		t.Errorf("the log ends at seq %d", got)
	}
	if w, _, err := r.Accept(t.Context(), next); err != nil || !w.Accepted {
		t.Errorf("the next stream: %+v, %v", w, err)
	}
}
