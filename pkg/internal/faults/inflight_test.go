package faults

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// Row 36 while the addition of the disk to the in-sync set is in flight: the control plane stands still when a follower that was away has
// caught up and its primary proposes it. It is killed, its copies are emptied, the addition lands, and the others are killed: the
// emptied copy is now a member of the in-sync set, alone. It is not elected and answers nothing, and nothing is lost.
func TestEmptiedWhileItsAdditionIsInFlight(t *testing.T) {
	const witness = "witness"
	h, w, primary, others := atWork(t, setup{
		names: []string{"node-1", "node-2", "node-3", witness}, roles: map[string]string{witness: "controller"}, control: 1,
		shards: 1, rf: 3, net: true, args: []string{"--control-lease-ttl-ms", "12000"},
	}, 100)
	victim, other := others[0], others[1]
	in := func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		return slices.Contains(s.ISR, themis.NodeID(victim))
	}
	h.leaveAlone(victim)
	h.net.Cut([]string{primary}, []string{victim})
	h.until("it is out of the in-sync set", rto, func(r health.Report) bool { return !in(r) })
	w.more(t, 50, rto)
	h.pause(witness)
	added := h.said("action=isr_add", primary)
	h.net.Heal()
	h.until("it has caught up, and is not a member", rto, func(r health.Report) bool {
		s, _ := r.Shard("shard-1")
		c, _ := s.Replica(themis.NodeID(victim))
		return !in(r) && c.LagMs != nil && *c.LagMs < 100 && c.AgeMs != nil && *c.AgeMs < 1000
	})
	w.more(t, 20, rto) // which it acknowledges: it is counted already
	h.kill(victim)
	if n := h.said("action=isr_add", primary); n != added {
		t.Fatal("the addition was done while the control plane stood still")
	}
	for _, part := range []string{"shards", "LOCK"} {
		must(t, os.RemoveAll(filepath.Join(h.disk[victim], part)))
	}
	h.resume(witness)
	for deadline := time.Now().Add(rto); h.said("action=isr_add", primary) == added; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the addition was not in flight")
		}
	}
	h.kill(primary, other)
	h.restart(victim)
	for began := time.Now(); time.Since(began) < 5*time.Second; <-time.After(50 * time.Millisecond) {
		if status, body := h.request(http.MethodGet, victim, "k1?timeout_ms=500", ""); status == http.StatusOK || status == http.StatusNotFound {
			t.Fatalf("an emptied copy was elected, and answers: %d %s", status, body)
		}
	}
	if r, err := h.report(); err != nil || !in(r) {
		t.Errorf("it is not the member that could be elected: %v %+v", err, r.Shards)
	}
	h.start(primary)
	h.start(other)
	h.until("all is whole again", heal, healthy)
	if !h.tells(t, victim, "msg=installed", "shard=shard-1") {
		t.Errorf("%s counts again without having been filled", victim)
	}
	w.more(t, 50, rto)
	w.end(t, 200)
}

// leaveAlone keeps clients from asking the node, until it is resumed or started anew with restart.
func (h *hosts) leaveAlone(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paused[name] = true
}
