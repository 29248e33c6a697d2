package faults

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// The rows of the fault matrix that every run of the tests goes through, each under reads and writes whose history is judged.

const (
	rto  = 20 * time.Second // generous: shared machines; the figures are measured elsewhere
	heal = 60 * time.Second
)

func healthy(r health.Report) bool { return r.Status == health.Healthy }

// Row 1: kill -9 of a primary.
func TestKillPrimary(t *testing.T) {
	h := newHosts(t, setup{shards: 1})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	victim, _ := leads(r, "shard-1")
	h.killAhead(victim)
	w.more(t, 200, rto)
	h.start(victim)
	h.until("all is whole again", heal, healthy)
	w.more(t, 50, rto)
	w.end(t, 400)
}

// Kill -9 of a follower: with two copies writes wait until a third node has been given one, and go on without the follower.
func TestKillFollower(t *testing.T) {
	h := newHosts(t, setup{shards: 1})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	must(t, err)
	primary, others := leads(r, "shard-1")
	h.kill(others[0])
	w.more(t, 200, rto)
	r, err = h.report()
	must(t, err)
	if now, _ := leads(r, "shard-1"); now != primary {
		t.Errorf("%s leads, not %s", now, primary)
	}
	h.start(others[0])
	h.until("all is whole again", heal, healthy)
	if n := h.said("rule=empty-is-blank", h.names...); n > 0 {
		t.Errorf("%d times a copy that begins empty was taken for one that was emptied", n)
	}
	w.more(t, 50, rto)
	w.end(t, 400)
}

// Kill -9 of the controller while etcd's leader lives: another takes over, and gives the shards that it led new primaries.
func TestKillController(t *testing.T) {
	h := newHosts(t, setup{rf: 3})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	must(t, err)
	victim := string(r.Control.Controller)
	h.leadEtcd(t, h.names[(slices.Index(h.names, victim)+1)%len(h.names)])
	h.kill(victim)
	h.until("another is the controller", rto, func(r health.Report) bool {
		return r.Control.Controller != "" && string(r.Control.Controller) != victim
	})
	h.until("the others lead every shard", rto, leadsNone(victim))
	w.more(t, 200, rto)
	h.start(victim)
	h.until("all is whole again", heal, healthy)
	w.end(t, 400)
}

// Row 2: one kill takes the controller, etcd's leader and a primary.
func TestKillPrimaryEtcdLeaderAndController(t *testing.T) {
	h := newHosts(t, setup{rf: 3})
	victim := h.allOnOne(t)
	w := h.work(6)
	w.more(t, 200, rto)
	h.killAhead(victim)
	w.more(t, 200, rto)
	h.until("the others lead every shard", rto, leadsNone(victim))
	h.start(victim)
	h.until("all is whole again", heal, healthy)
	w.end(t, 400)
}

// Row 4: kill -9 of all at once.
func TestKillAll(t *testing.T) {
	h := newHosts(t, setup{})
	w := h.work(6)
	w.more(t, 300, rto)
	h.kill(h.names...)
	for _, n := range h.names {
		h.start(n)
	}
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	w.end(t, 400)
}

// Row 21: a primary is paused for longer than its lease, and wakes: it acknowledges nothing, whenever it was asked.
func TestPausePrimaryPastItsLease(t *testing.T) {
	h := newHosts(t, setup{rf: 3})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	victim, _ := leads(r, "shard-1")
	s := w.sleeper(t, victim)
	h.pause(victim)
	s.ask()
	w.more(t, 100, rto+10*time.Second)
	h.until("the others lead every shard", rto, leadsNone(victim))
	<-time.After(8 * time.Second) // longer than every lease
	h.resume(victim)
	s.answersNothing(t)
	h.until("all is whole again", heal, healthy)
	w.more(t, 100, rto)
	w.end(t, 400)
}

// A follower pauses for a moment just before its primary is killed: it must still be electable, and have everything.
func TestFollowerPausedBeforeItsPrimaryDies(t *testing.T) {
	h := newHosts(t, setup{shards: 1})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	primary, others := leads(r, "shard-1")
	follower := others[0]
	h.pause(follower)
	<-time.After(1500 * time.Millisecond)
	h.kill(primary)
	h.resume(follower)
	w.more(t, 100, rto)
	r, err = h.report()
	if err != nil {
		t.Fatal(err)
	}
	if now, _ := leads(r, "shard-1"); now != follower {
		t.Errorf("%s leads, not %s", now, follower)
	}
	h.start(primary)
	h.until("all is whole again", heal, healthy)
	w.end(t, 300)
}

// An election crowns nobody: the primary is paused, one follower gives its ballot, the other has just restarted and gives none yet.
// Then that one is killed, and the primary goes on. The follower that promised a later epoch takes nothing from it any more, and
// nobody else was crowned: the shard elects again, and takes writes.
func TestAnElectionThatCrownedNobody(t *testing.T) {
	h := newHosts(t, setup{
		names: []string{"node-1", "node-2", "node-3", "witness"}, roles: map[string]string{"witness": "controller"}, control: 1, shards: 1, rf: 3, mode: themis.SemiSync,
	})
	w := h.work(6)
	w.more(t, 200, rto)
	r, err := h.report()
	must(t, err)
	primary, followers := leads(r, "shard-1")
	before := h.epochs(t)["shard-1"]
	late := followers[1]
	inVain := func() int { return h.said("action=elect subject=shard-1 outcome=not_done", "witness") }
	had := inVain() // while the cluster was founded
	h.kill(late)
	h.pause(primary)
	<-time.After(800 * time.Millisecond) // so that the primary is declared FAILED while the other one may not vote yet
	h.start(late)
	for deadline := time.Now().Add(rto); inVain() == had; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no election was held in vain")
		}
	}
	h.kill(late)
	h.resume(primary)
	h.until("a later reign serves", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return s.Epoch > before && s.Writable != nil && *s.Writable
	})
	w.more(t, 100, rto)
	h.start(late)
	h.until("all is whole again", heal, healthy)
	w.end(t, 300)
}

// Row 36 in part: all copies of a node are emptied; its identity, and so its storage id, stays.
func TestEmptiedCopyUnderItsOldName(t *testing.T) {
	h, w, _, others := atWork(t, setup{shards: 2, rf: 3}, 200) // so that no other node can take the copies over
	victim := others[0]
	h.kill(victim)
	for _, part := range []string{"shards", "LOCK"} {
		if err := os.RemoveAll(filepath.Join(h.disk[victim], part)); err != nil {
			t.Fatal(err)
		}
	}
	h.start(victim)
	h.until("both are built anew, and the trail tells why", heal, func(r health.Report) bool {
		for _, s := range []string{"shard-1", "shard-2"} {
			if !h.happened(t, victim, "quarantine", s, "none is here") || !h.tells(t, victim, "msg=installed", "shard="+s) {
				return false
			}
		}
		return healthy(r)
	})
	w.more(t, 100, rto)
	w.end(t, 300)
}

// Rows 34 and 35: a flipped bit inside a log, and a tail torn below what was acknowledged, on a follower.
func TestDamagedFollowerIsRebuilt(t *testing.T) {
	for name, damage := range map[string]func(segment string) error{
		"flipped bit": func(s string) error { return Flip(s, 700) },
		"torn tail":   func(s string) error { return Tear(s, 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			h, w, _, others := atWork(t, setup{shards: 1}, 300)
			victim := others[0]
			h.kill(victim)
			segments, err := filepath.Glob(filepath.Join(h.disk[victim], "shards", "shard-1", "wal", "0*"))
			if err != nil || len(segments) == 0 {
				t.Fatalf("segments: %v, %v", segments, err)
			}
			slices.Sort(segments)
			if err := damage(segments[0]); err != nil {
				t.Fatal(err)
			}
			h.start(victim)
			h.until("all is whole again", heal, healthy)
			w.more(t, 100, rto)
			w.end(t, 400)
		})
	}
}

// Row 34 for a primary: a bit in the middle of its log flips while all are down. It and a follower that lacks writes which were acknowledged
// come back: its copy is known to be damaged, counts for nothing and leads nothing, so the shard stays down until the follower that has
// them all is back, too. That one leads, and the damaged copy is built anew.
func TestDamagedLogOfAStoppedPrimary(t *testing.T) {
	h, w, victim, others := atWork(t, setup{shards: 1, rf: 3, mode: themis.SemiSync}, 200)
	ahead, behind := others[0], others[1]
	h.pause(behind)
	w.more(t, 100, rto)
	before := h.epochs(t)["shard-1"]
	h.kill(h.names...)
	must(t, Flip(h.segment(t, victim, "shard-1"), 700))
	inVain := func() int { return h.said("action=elect subject=shard-1 outcome=not_done", victim, behind) }
	had := inVain()
	h.start(victim)
	h.restart(behind)
	h.until("its copy is known to be blank, and an election was held in vain", rto, func(r health.Report) bool {
		return inVain() > had && finds(r, health.ReplicaBlank, "shard-1/"+victim) && h.happened(t, victim, "quarantine", "shard-1", "wal is damaged and was moved to")
	})
	if now := h.epochs(t)["shard-1"]; now != before {
		t.Errorf("epoch %d began without the copy that has everything", now)
	}
	h.start(ahead)
	h.until("the follower that has everything leads", rto, func(r health.Report) bool {
		now, _ := leads(r, "shard-1")
		return now == ahead
	})
	h.until("the damaged copy is built anew", heal, func(r health.Report) bool { return healthy(r) && h.tells(t, victim, "msg=installed", "shard=shard-1") })
	w.more(t, 100, rto)
	w.end(t, 400)
}

// killAhead kills a node that has entries which no other has: the others stand still for a moment before. What it acknowledged alone would
// be gone with it.
func (h *hosts) killAhead(victim string) {
	h.t.Helper()
	for _, n := range without(h.names, victim) {
		h.pause(n)
	}
	<-time.After(300 * time.Millisecond)
	h.kill(victim)
	for _, n := range without(h.names, victim) {
		h.resume(n)
	}
}
