package replication

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// A follower whose stream has ended neither joins the in-sync set by its last words nor counts as a successor, until it is heard again.
func TestAFollowerWhoseStreamEndedIsLeftOut(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 2)
	heard(r, "c", 1, 0, 2)
	r.Lost(member("c"))
	r.Lost(member("b"))
	if p := r.Next(at(3)); p != nil {
		t.Errorf("proposed %+v", p)
	}
	if r.HasSuccessor(at(3)) {
		t.Error("a successor whose stream has ended")
	}
	heard(r, "b", 1, 3, 4)
	heard(r, "c", 1, 3, 4)
	if !r.HasSuccessor(at(5)) {
		t.Error("no successor, though b was heard again")
	}
	if p := r.Next(at(5)); p == nil || !p.Add || p.Member != member("c") {
		t.Errorf("c was heard again, proposed %+v", p)
	}
}

// The end of a stream is told to the reign.
func TestTheEndOfAStreamIsTold(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	other := map[themis.NodeID]themis.NodeID{"a": "b", "b": "a"}[primary]
	c.stop(other)
	rg := c.node(primary).leading.Load()
	c.eventually("the reign knows that "+string(other)+" is gone", func() bool {
		rg.mu.Lock()
		defer rg.mu.Unlock()
		f := rg.core.peers[cluster.Member{Node: other, Storage: themis.StorageID("disk-" + other)}]
		return f != nil && f.gone
	})
}

// A replica that goes down takes no stream, begins no reign and, as primary, serves nothing that was on its way.
func TestAReplicaThatQuitsBeginsNothing(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	p, other := c.node(primary), map[themis.NodeID]themis.NodeID{"a": "b", "b": "a"}[primary]
	rg := p.leading.Load()
	c.eventually("a confirmed reign, which retires", func() bool {
		rg.mu.Lock()
		defer rg.mu.Unlock()
		at, _ := rg.core.ConfirmedSince()
		if !at.IsZero() {
			rg.core.Retire()
		}
		return !at.IsZero()
	})
	if _, ok := rg.mayRead(time.Time{}.Add(1)); ok {
		t.Error("a read by a round of confirmations")
	}
	brief, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	w := put("k", "2")
	if _, _, _, err := rg.begin(brief, w, themis.AppendOps(nil, []themis.Op{w.Changes[0].Op})); themis.CodeOf(err) != themis.NoPrimary {
		t.Errorf("a write that was admitted before: %v", err)
	}

	f := c.node(other)
	f.mu.Lock()
	f.quitting = true
	f.mu.Unlock()
	c.mu.Lock()
	record := c.record
	c.mu.Unlock()
	hello := Hello{Cluster: "c", Shard: "shard-1", Epoch: record.Epoch, Primary: record.Primary, Follower: themis.StorageID("disk-" + other), First: 1, Last: 1, Barrier: 1}
	if got, _, err := f.Accept(t.Context(), hello); err != nil || got.Accepted || !strings.Contains(got.Refused, "going down") {
		t.Errorf("a stream: %+v, %v", got, err)
	}
	next, err := record.Crown(cluster.Member{Node: other, Storage: themis.StorageID("disk-" + other)}, f.o.Boot, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	next.Revision++
	f.Learn(next, nil, nil)
	for range 40 {
		if f.leading.Load() != nil {
			t.Fatal("a reign has begun")
		}
		<-time.After(5 * time.Millisecond)
	}
}

// The epoch of a reign that the record gives to this boot of a copy, and that is over or can't begin, is told; no other.
func TestWhichReignsAreOver(t *testing.T) {
	self := member("a")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		primary  cluster.Member
		boot     themis.BootID
		last     themis.Epoch // the newest reign that it began
		promised themis.Epoch
		reign    context.Context // of the reign that it has; nil: none
		want     themis.Epoch
	}{
		"it will begin":                        {self, "boot", 2, 3, nil, 0},
		"it goes on":                           {self, "boot", 3, 3, t.Context(), 0},
		"it has ended":                         {self, "boot", 3, 3, nil, 3},
		"it is just ending":                    {self, "boot", 3, 3, ended, 3},
		"a later epoch was promised before it": {self, "boot", 2, 4, nil, 3},
		"a later epoch was promised under it":  {self, "boot", 3, 4, nil, 3},
		"it is another's":                      {member("b"), "boot", 2, 4, nil, 0},
		"it is an earlier boot's":              {self, "other", 2, 4, nil, 0},
	} {
		r := &Replica{o: Options{Self: self, Boot: "boot"}, last: c.last}
		r.Learn(cluster.Shard{Epoch: 3, Primary: c.primary, Boot: c.boot}, nil, nil)
		r.promise.Promised = c.promised
		if c.reign != nil {
			r.reign = &reigning{epoch: 3, ctx: c.reign}
		}
		if got := r.Fitness().Resigned; got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		if got := r.LastFitness().Resigned; got != c.want {
			t.Errorf("%s, asked without waiting: %d, want %d", name, got, c.want)
		}
		r.mu.Lock() // a disk hangs under it
		if got := r.LastFitness().Resigned; got != c.want {
			t.Errorf("%s, while a disk hangs: %d, want %d", name, got, c.want)
		}
		r.mu.Unlock()
	}
}
