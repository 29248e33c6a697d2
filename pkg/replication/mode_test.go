package replication

import (
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// changing begins a reign of three voters whose barrier is committed on a, b and c, and whose record wants another policy.
func changing(t *testing.T, from, to themis.Mode, isr ...themis.NodeID) *Reign {
	t.Helper()
	s := shardOf(from, 3, isr...)
	s.Want = cluster.Policy{Mode: to, K: 1, RF: 3}
	r := NewReign(s, 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	heard(r, "c", 1, 0, 1)
	if !r.Ready() {
		t.Fatal("the barrier is not committed")
	}
	return r
}

// grow appends and syncs on the primary.
func grow(r *Reign, to themis.Seq, ms int) {
	r.Appended(to, at(ms))
	r.Durable(to, at(ms))
}

func adopted(t *testing.T, r *Reign, p *Proposal) {
	t.Helper()
	next := p.Next
	next.Revision++
	if err := r.Learn(next, nil, at(50)); err != nil {
		t.Fatal(err)
	}
}

func TestAStrongerModeWaitsForWhatWasCommitted(t *testing.T) {
	r := changing(t, themis.SemiSync, themis.Sync, "a", "b", "c")
	grow(r, 5, 2)
	heard(r, "b", 5, 2, 3)
	heard(r, "c", 2, 2, 3)
	if r.Commit() != 5 {
		t.Fatalf("commit %d", r.Commit())
	}
	if p := r.Next(at(4)); p != nil {
		t.Fatalf("%+v, though c lacks what was committed: it could be elected under SYNC", p)
	}
	heard(r, "c", 5, 4, 5)
	p := r.Next(at(6))
	if p == nil || !p.Policy() || p.Next.Have.Mode != themis.Sync {
		t.Fatalf("%+v", p)
	}
	// Whichever rule is in force by now, it holds.
	grow(r, 8, 7)
	heard(r, "b", 8, 7, 8)
	if r.Commit() != 5 {
		t.Fatalf("commit %d without c, though the record may say SYNC already", r.Commit())
	}
	if since, _ := r.ConfirmedSince(); !since.Equal(at(4)) {
		t.Fatalf("confirmed since %s, though c was heard of %s last", since, at(4))
	}
	heard(r, "c", 8, 8, 9)
	if r.Commit() != 8 {
		t.Fatalf("commit %d on all three", r.Commit())
	}
	r.Refused(r.flying, at(10)) // another change came first: the old rule alone
	grow(r, 9, 11)
	heard(r, "b", 9, 11, 12)
	if r.Commit() != 9 {
		t.Fatalf("commit %d under SEMI_SYNC", r.Commit())
	}
	heard(r, "c", 9, 12, 13)
	adopted(t, r, r.Next(at(14)))
	grow(r, 10, 51)
	heard(r, "b", 10, 51, 52)
	if r.Commit() != 9 {
		t.Fatalf("commit %d without c under SYNC", r.Commit())
	}
	if p := r.Next(at(53)); p != nil {
		t.Fatalf("%+v, though what is wanted is in force", p)
	}
}

// writing appends an entry every millisecond; c acknowledges what is lag old, or nothing once lag is negative. It answers when SYNC was
// proposed, and for how many milliseconds at most no entry was committed.
func writing(r *Reign, from, to, lag int) (proposed, stood int) {
	moved, last := from, r.Commit()
	for ms := from; ms < to; ms++ {
		grow(r, themis.Seq(ms), ms)
		heard(r, "b", themis.Seq(ms), ms, ms)
		if lag >= 0 && ms > lag {
			heard(r, "c", themis.Seq(ms-lag), ms, ms)
		}
		if p := r.Next(at(ms)); p != nil && p.Policy() {
			return ms, max(stood, ms-moved)
		}
		if c := r.Commit(); c > last {
			moved, last = ms, c
		}
		stood = max(stood, ms-moved)
	}
	return 0, stood
}

func TestAStrongerModeComesUnderWrites(t *testing.T) {
	for _, from := range []themis.Mode{themis.Async, themis.SemiSync} {
		r := changing(t, from, themis.Sync, "a", "b", "c")
		proposed, stood := writing(r, 2, 3000, 20)
		if proposed == 0 || proposed > 100 || stood > 50 {
			t.Errorf("from %s: proposed after %d ms, nothing was committed for %d ms; c is 20 ms behind", from, proposed, stood)
		}
		if c := r.Commit(); r.seq(member("c")) < c {
			t.Errorf("from %s: proposed at commit %d, of which c has %d", from, c, r.seq(member("c")))
		}
	}
}

// Where the slowest does not come up in time, the writes go on by the rule in force, and are held up again only much later.
func TestWritesGoOnWhereAStrongerModeDoesNotCome(t *testing.T) {
	s := shardOf(themis.Async, 3, "a", "b")
	s.Want = cluster.Policy{Mode: themis.SemiSync, K: 2, RF: 3} // with c, which has fallen silent
	r := NewReign(s, 0, 1, at(0), DefaultRules())
	r.Durable(1, at(1))
	heard(r, "b", 1, 0, 1)
	heard(r, "c", 1, 0, 1)
	bound := int(r.rules.AckTimeout.Milliseconds())
	held := 0
	for _, span := range [][2]int{{2, holdAgain * bound}, {holdAgain * bound, 2 * holdAgain * bound}} {
		last, still := r.Commit(), 0
		for ms := span[0]; ms < span[1]; ms++ {
			grow(r, themis.Seq(ms), ms)
			heard(r, "b", themis.Seq(ms), ms, ms)
			if p := r.Next(at(ms)); p != nil {
				t.Fatalf("at %d ms %+v", ms, p)
			}
			if c := r.Commit(); c > last {
				last = c
			} else {
				still++
			}
		}
		if still > bound+2 {
			t.Errorf("of the milliseconds %v %d passed without a commit, %d are allowed", span, still, bound)
		}
		held += still
	}
	if held <= bound {
		t.Errorf("held up for %d ms in all: it was not tried again", held)
	}
}

func TestAWeakerModeCountsOnlyOnceItIsInForce(t *testing.T) {
	r := changing(t, themis.Sync, themis.SemiSync, "a", "b", "c")
	p := r.Next(at(2))
	if p == nil || p.Next.Have.Mode != themis.SemiSync {
		t.Fatalf("%+v: all that was committed is on two disks", p)
	}
	grow(r, 4, 3)
	heard(r, "b", 4, 3, 4)
	if r.Commit() != 1 {
		t.Fatalf("commit %d: an election under SYNC could still choose c", r.Commit())
	}
	adopted(t, r, p)
	if r.Commit() != 4 {
		t.Fatalf("commit %d on two disks under SEMI_SYNC", r.Commit())
	}
}

// Under SYNC an in-sync set of one may hold what no other voter has: SEMI_SYNC, which elects without it, must wait.
func TestSemiSyncWaitsForAnInSyncSetOfOne(t *testing.T) {
	s := shardOf(themis.Sync, 3, "a")
	s.Want = cluster.Policy{Mode: themis.SemiSync, K: 1, RF: 3}
	r := NewReign(s, 4, 5, at(0), DefaultRules())
	r.Durable(5, at(1))
	heard(r, "b", 3, 1, 1)
	if !r.Ready() {
		t.Fatal("the barrier needs the in-sync set alone")
	}
	for p := r.Next(at(2)); p != nil; p = r.Next(at(2)) {
		if p.Policy() {
			t.Fatalf("%+v, though b and c lack what was committed", p)
		}
		r.Refused(r.flying, at(2))
	}
	heard(r, "b", 5, 2, 3)
	r.settle()
	if p := r.Next(at(4)); p == nil || !p.Policy() {
		t.Fatalf("%+v", p)
	}
}

func TestSyncBeginsWithAnInSyncSetThatTakesWrites(t *testing.T) {
	r := changing(t, themis.Async, themis.Sync, "a")
	p := r.Next(at(2))
	if p == nil || p.Policy() || !p.Add {
		t.Fatalf("%+v: the in-sync set is below 1 + k, so another member comes first", p)
	}
	adopted(t, r, p)
	if p = r.Next(at(51)); p == nil || !p.Policy() || p.Next.AsyncUntil != 3 {
		t.Fatalf("%+v", p)
	}
}

// What a reign under ASYNC had acknowledged is saved as acknowledged also where the mode was changed before its primary came back.
func TestAsyncTailIsRescuedAfterTheModeWasChanged(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 3}, "node-1", "node-2", "node-3")
	first := c.elect()
	c.mustWrite(first, put("shared", "1"))
	c.converged("node-1", "node-2", "node-3")
	c.net.Cut(first, true)
	c.mustWrite(first, put("alone", "2"))
	c.stop(first)
	c.net.Cut(first, false)
	second := c.elect()
	c.mustWrite(second, put("later", "3"))
	c.mu.Lock()
	c.record.Want = cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}
	c.record.Revision++
	c.mu.Unlock()
	c.publish()
	c.eventually("SYNC", func() bool { return c.now().Have.Mode == themis.Sync })
	c.mustWrite(second, put("later", "4"))
	c.start(first)
	c.converged("node-1", "node-2", "node-3")
	if n := c.node(first).Status().Rescued; n != 1 {
		t.Fatalf("status tells of %d rescued writes", n)
	}
}

// The mode is changed to and fro under writes, on real logs, and nothing that was acknowledged is gone at the end.
func TestModesChangeUnderWrites(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "a", "b", "c")
	primary := c.elect()
	c.mustWrite(primary, put("first", "1")) // its reign has begun
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := c.write(primary, put("k", "1")); err != nil {
				c.t.Error(err)
				return
			}
			n++
		}
	}()
	for _, m := range []themis.Mode{themis.SemiSync, themis.Sync, themis.Async, themis.SemiSync, themis.Async, themis.Sync} {
		c.mu.Lock()
		c.record.Want.Mode = m
		c.record.Revision++
		c.mu.Unlock()
		c.publish()
		c.eventually(string(m), func() bool { s := c.now(); return s.Have == s.Want })
	}
	close(stop)
	if n := <-done; n == 0 {
		t.Error("no write went through")
	}
	c.converged("a", "b", "c")
}
