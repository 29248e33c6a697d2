package replication

import (
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/themis"
)

func member(n themis.NodeID) cluster.Member {
	return cluster.Member{Node: n, Storage: "disk-" + themis.StorageID(n)}
}

func shardOf(mode themis.Mode, rf int, isr ...themis.NodeID) cluster.Shard {
	s := cluster.Shard{ID: "shard-1", Epoch: 3, Primary: member("a"), Revision: 10, Have: cluster.Policy{Mode: mode, K: 1, RF: rf}}
	s.Want = s.Have
	for _, n := range []themis.NodeID{"a", "b", "c"}[:rf] {
		s.Replicas = append(s.Replicas, cluster.Replica{Member: member(n), Class: cluster.Voter})
	}
	for _, n := range isr {
		s.ISR = append(s.ISR, member(n))
	}
	return s
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func heard(r *Reign, n themis.NodeID, seq themis.Seq, sent, now int) {
	r.Heard(member(n), Ack{Durable: seq, Sent: at(sent)}, at(now))
}

// Raft's figure 8: entries of an older epoch on a majority of disks are not committed by being there.
func TestOlderEntriesWaitForTheBarrier(t *testing.T) {
	r := NewReign(shardOf(themis.SemiSync, 3, "a"), 4, 10, at(0), DefaultRules())
	r.Durable(10, at(1))
	heard(r, "b", 9, 0, 2)
	if r.Commit() != 4 || r.Ready() {
		t.Fatalf("commit %d with the barrier on one disk", r.Commit())
	}
	heard(r, "b", 10, 0, 3)
	if r.Commit() != 10 || !r.Ready() {
		t.Fatalf("commit %d with the barrier on two disks", r.Commit())
	}
}

func TestSyncWaitsForEveryMember(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	if r.Ready() {
		t.Fatal("ready without c")
	}
	heard(r, "c", 1, 0, 2)
	r.Appended(5, at(3))
	r.Durable(5, at(4))
	heard(r, "b", 5, 0, 5)
	heard(r, "c", 3, 0, 5)
	if r.Commit() != 3 {
		t.Fatalf("commit %d, want 3", r.Commit())
	}
	r.Heard(cluster.Member{Node: "c", Storage: "another"}, Ack{Durable: 5}, at(6))
	if r.Commit() != 3 {
		t.Fatal("an unknown disk counted")
	}
}

// Copies elsewhere don't stand in for the primary's own disk, in no mode: its reads would show what it can lose.
func TestThePrimarysOwnDiskIsWaitedFor(t *testing.T) {
	for _, mode := range []themis.Mode{themis.Sync, themis.SemiSync, themis.Async} {
		t.Run(string(mode), func(t *testing.T) {
			r := NewReign(shardOf(mode, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
			r.Durable(1, at(1))
			r.Appended(5, at(2))
			heard(r, "b", 5, 0, 3)
			heard(r, "c", 5, 0, 3)
			if r.Commit() != 1 {
				t.Fatalf("commit %d with seq 1 on the primary's disk", r.Commit())
			}
			r.Durable(4, at(4))
			if r.Commit() != 4 {
				t.Fatalf("commit %d with seq 4 on the primary's disk", r.Commit())
			}
		})
	}
}

// A SYNC primary that hears too few of its in-sync set takes no writes: they would end with an unknown outcome.
func TestNoWriteIsAppendedWithoutFollowersThatAnswer(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 10)
	heard(r, "c", 1, 0, 10)
	if err := r.Writable(at(100)); err != nil {
		t.Fatalf("both answer: %v", err)
	}
	heard(r, "b", 1, 2000, 2010)
	if err := r.Writable(at(4000)); err != nil {
		t.Fatalf("one answers, and the other may leave: %v", err)
	}
	if err := r.Writable(at(6000)); themis.CodeOf(err) != themis.NotEnoughReplicas {
		t.Fatalf("nobody answers: %v", err)
	}
	heard(r, "c", 1, 6000, 6010)
	if err := r.Writable(at(6020)); err != nil {
		t.Fatalf("one answers again: %v", err)
	}
}

// From the proposal of an addition until its outcome is known the newcomer is waited for.
func TestAProposedMemberIsWaitedFor(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	heard(r, "c", 1, 0, 1)
	p := r.Next(at(2))
	if p == nil || !p.Add || p.Member != member("c") || p.Seen.Revision != 10 {
		t.Fatalf("proposal %+v", p)
	}
	r.Appended(2, at(3))
	r.Durable(2, at(3))
	heard(r, "b", 2, 0, 4)
	if r.Commit() != 1 {
		t.Fatal("committed without the proposed member")
	}
	if q := r.Next(at(5)); q != nil {
		t.Fatalf("a second proposal while one is on its way: %+v", q)
	}
	next := p.Next
	next.Revision = 11
	if err := r.Learn(next, nil, at(6)); err != nil {
		t.Fatal(err)
	}
	if r.Commit() != 1 {
		t.Fatal("committed without a member")
	}
	heard(r, "c", 2, 0, 7)
	if r.Commit() != 2 {
		t.Fatal("not committed with all members")
	}
}

func TestALateMemberLeavesOnlyAboveTheFloor(t *testing.T) {
	for _, c := range []struct {
		name   string
		isr    []themis.NodeID
		failed bool
		leaves bool
	}{
		{"three members", []themis.NodeID{"a", "b", "c"}, false, true},
		{"at the floor", []themis.NodeID{"a", "c"}, false, false},
		{"at the floor, declared FAILED", []themis.NodeID{"a", "c"}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReign(shardOf(themis.Sync, 3, c.isr...), 0, 1, at(0), DefaultRules())
			r.Durable(1, at(1))
			for _, n := range c.isr[1:] {
				heard(r, n, 1, 0, 1)
			}
			r.Appended(2, at(10))
			r.Durable(2, at(10))
			if err := r.Learn(r.Shard(), map[themis.NodeID]bool{"c": c.failed}, at(11)); err != nil {
				t.Fatal(err)
			}
			heard(r, "b", 2, 0, 1500)
			p := r.Next(at(1500))
			if got := p != nil && p.Member == member("c") && !p.Add; got != c.leaves {
				t.Fatalf("proposal %+v", p)
			}
			if r.Commit() != 1 {
				t.Fatal("acknowledged before the control plane knew")
			}
		})
	}
}

func TestReadLease(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 100, 120)
	heard(r, "c", 1, 50, 120)
	lease := int((election.ReadLease - election.ReadLeaseMargin).Milliseconds())
	if !r.MayRead(at(50 + lease - 1)) {
		t.Fatal("no read within the lease of the oldest confirmation")
	}
	if r.MayRead(at(50 + lease)) {
		t.Fatal("a read after the lease, counted from when its question was sent")
	}
	alone := NewReign(shardOf(themis.Sync, 2, "a"), 0, 1, at(0), DefaultRules())
	alone.Durable(1, at(1))
	if !alone.MayRead(at(60_000)) {
		t.Fatal("a primary that nobody can replace needs no lease")
	}
	if err := alone.Writable(at(2)); themis.CodeOf(err) != themis.NotEnoughReplicas {
		t.Fatalf("writes with one copy: %v", err)
	}
}

func TestNothingIsCommittedWhileOldLeasesMayHold(t *testing.T) {
	s := shardOf(themis.Sync, 2, "a")
	s.WaitMs = 1500
	r := NewReign(s, 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	r.Tick(at(1499))
	if r.Ready() {
		t.Fatal("ready while a follower may still have promised the old primary its lease")
	}
	r.Tick(at(1500))
	if !r.Ready() {
		t.Fatal("not ready afterwards")
	}
}

// A reign frees its successor from waiting out read leases only once it has waited itself: those before it may still hold.
func TestOnlyAReadyReignFreesItsSuccessor(t *testing.T) {
	s := shardOf(themis.Sync, 3, "a", "b", "c")
	s.WaitMs = 1000
	r := NewReign(s, 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 2)
	heard(r, "c", 1, 0, 2)
	if e := r.Resigned(); e != 0 {
		t.Fatalf("epoch %d resigned while leases of the reign before may hold", e)
	}
	r.Tick(at(1001))
	if e := r.Resigned(); e != s.Epoch {
		t.Fatalf("epoch %d resigned, want %d", e, s.Epoch)
	}
}

func TestAReignIsHandedOverOnceItIsQuiet(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 2)
	heard(r, "c", 1, 0, 2)
	r.Appended(2, at(3))
	r.Freeze(true)
	if err := r.Writable(at(3)); themis.CodeOf(err) != themis.NoPrimary {
		t.Fatalf("a frozen reign takes a write: %v", err)
	}
	for i, step := range []struct {
		do   func()
		want bool
	}{
		{func() {}, false}, // the entry is nowhere
		{func() { r.Durable(2, at(4)) }, false},
		{func() { heard(r, "b", 2, 0, 5) }, false}, // not committed: c has not got it
		{func() { heard(r, "c", 2, 0, 6) }, true},
		{func() { r.Stopping(map[themis.NodeID]bool{"b": true}) }, true}, // c stays
		{func() { r.Stopping(map[themis.NodeID]bool{"b": true, "c": true}) }, false},
		{func() { r.Stopping(nil) }, true},
		{func() { r.Heard(member("b"), Ack{Durable: 2, Mute: true}, at(7)) }, true}, // c votes
		{func() { r.Heard(member("c"), Ack{Durable: 2, Mute: true}, at(7)) }, false},
		{func() { heard(r, "b", 2, 0, 7) }, true},
		{func() { r.Freeze(false) }, false},
	} {
		step.do()
		if got := r.Quiet(at(8)); got != step.want {
			t.Errorf("step %d: quiet %v", i, got)
		}
	}
	if err := r.Writable(at(8)); err != nil {
		t.Errorf("a reign that was kept takes no write: %v", err)
	}
}

// A member on a node that stops leaves the in-sync set where that is large enough without it, and does not come back.
func TestAStoppingMemberLeavesAboveTheFloor(t *testing.T) {
	for _, c := range []struct {
		isr  []themis.NodeID
		want bool
	}{{[]themis.NodeID{"a", "b", "c"}, true}, {[]themis.NodeID{"a", "c"}, false}} {
		r := NewReign(shardOf(themis.Sync, 3, c.isr...), 0, 1, at(0), DefaultRules())
		r.Durable(1, at(1))
		heard(r, "b", 1, 0, 2)
		heard(r, "c", 1, 0, 2)
		stops := map[themis.NodeID]bool{"c": true}
		if len(c.isr) == 2 {
			stops["b"] = true
		}
		r.Stopping(stops)
		p := r.Next(at(4))
		if got := p != nil && !p.Add && p.Member == member("c"); got != c.want || !c.want && p != nil {
			t.Errorf("in-sync set %v: proposed %+v", c.isr, p)
		}
	}
}

func TestVote(t *testing.T) {
	s := Standing{Promised: 5, Last: themis.Position{Seq: 9, Epoch: 4}, Booted: at(0), Leased: at(9000), EverPromised: true}
	if _, no := Vote(s, 6, at(1999)); no == "" {
		t.Fatal("a ballot less than one lease after a restart")
	}
	b, no := Vote(s, 6, at(8000))
	if no != "" || b.Last != s.Last || b.LeaseRemaining != time.Second || b.Epoch != 6 {
		t.Fatalf("%+v %q", b, no)
	}
	if _, no := Vote(s, 4, at(8000)); no == "" {
		t.Fatal("a ballot below the promise")
	}
	s.Blank = "torn"
	if _, no := Vote(s, 6, at(8000)); no == "" {
		t.Fatal("a blank copy voted")
	}
}

func TestCommon(t *testing.T) {
	l := func(pairs ...uint64) (out []themis.EpochStart) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, themis.EpochStart{Epoch: themis.Epoch(pairs[i]), Seq: themis.Seq(pairs[i+1])})
		}
		return out
	}
	for _, c := range []struct {
		name  string
		a     []themis.EpochStart
		lastA themis.Seq
		b     []themis.EpochStart
		lastB themis.Seq
		want  themis.Seq
	}{
		{"both empty", nil, 0, nil, 0, 0},
		{"one behind", l(1, 1), 5, l(1, 1), 9, 5},
		{"tail of an old reign", l(1, 1), 12, l(1, 1, 2, 8), 20, 7},
		{"tail of a reign nobody followed", l(1, 1, 2, 8), 12, l(1, 1, 3, 10), 20, 7},
		{"nothing in common", l(1, 1), 4, l(2, 1), 4, 0},
		{"longer watermark, older reign", l(1, 1, 2, 5), 30, l(1, 1, 2, 5, 3, 12), 14, 11},
	} {
		if got := Common(c.a, c.lastA, c.b, c.lastB); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
		if got := Common(c.b, c.lastB, c.a, c.lastA); got != c.want {
			t.Errorf("%s, the other way round: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestInstalledReadsBack(t *testing.T) {
	in := Installed{Node: "node-2", Bytes: 123456789, Seq: 42, Took: 1500 * time.Millisecond}
	if out, err := ParseInstalled(in.String()); err != nil || out != in {
		t.Fatalf("%q read back as %+v, %v", in, out, err)
	}
	if _, err := ParseInstalled("node-2 got nothing"); err == nil {
		t.Fatal("nonsense was read")
	}
}

// A primary that was crowned beside a member that is FAILED takes it out, or its first entry would wait for ever.
func TestAFailedMemberLeavesBeforeTheBarrier(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	if p := r.Next(at(5000)); p != nil || r.Ready() {
		t.Fatalf("ready %v, proposal %+v: c is only late", r.Ready(), p)
	}
	if err := r.Learn(r.Shard(), map[themis.NodeID]bool{"c": true}, at(5000)); err != nil {
		t.Fatal(err)
	}
	p := r.Next(at(5001))
	if p == nil || p.Add || p.Member != member("c") || r.Ready() {
		t.Fatalf("ready %v, proposal %+v", r.Ready(), p)
	}
	next := p.Next
	next.Revision = 11
	if err := r.Learn(next, nil, at(5002)); err != nil || !r.Ready() {
		t.Fatalf("ready %v, %v", r.Ready(), err)
	}
}

// A primary that told a follower that it is free relies on none of its promises any more, whatever else it hears of it.
func TestAFreedFollowerConfirmsNothing(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 1, 2)
	heard(r, "c", 1, 1, 2)
	if !r.MayRead(at(3)) || r.Free(member("b")) {
		t.Fatal("a reign that serves frees nobody, and reads")
	}
	r.Stopping(map[themis.NodeID]bool{"c": true})
	if r.Free(member("c")) {
		t.Fatal("a member that reads wait for was freed")
	}
	s := r.Shard()
	s.ISR, s.Revision = s.ISR[:2], s.Revision+1
	if err := r.Learn(s, nil, at(3)); err != nil {
		t.Fatal(err)
	}
	if !r.Free(member("c")) || !r.MayRead(at(4)) {
		t.Fatal("a member whose node stops and that no read waits for is freed, and reads go on")
	}
	s.ISR, s.Revision = append(s.ISR, member("c")), s.Revision+1
	if err := r.Learn(s, nil, at(4)); err != nil {
		t.Fatal(err)
	}
	heard(r, "b", 1, 4, 5)
	heard(r, "c", 1, 4, 5)
	if r.MayRead(at(6)) {
		t.Fatal("a read rests on the promise of a follower that was freed")
	}
	r.Reset(member("c"), 1, at(7)) // another stream, perhaps another process
	heard(r, "c", 1, 7, 8)
	if !r.MayRead(at(9)) {
		t.Fatal("a new promise does not count")
	}
	r.Retire()
	if r.MayRead(at(9)) || r.Writable(at(9)) == nil || !r.Free(member("b")) {
		t.Fatal("a retired reign serves nothing, and frees everybody")
	}
}
