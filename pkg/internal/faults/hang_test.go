package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// The controller's disk hangs, and with it the member of the control plane beside it, through which all its transactions go. Its
// lease is renewed by the others and its probes are answered. Another control node takes over, so that a primary that then falls is
// replaced.
func TestControllersDiskHangs(t *testing.T) {
	disks, dir := ownDisks(t, 700)
	h := newHosts(t, setup{names: []string{"node-1", "node-2", "node-3", "node-4"}, disk: dir, shards: 12})
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	var members []string
	for _, m := range r.Control.Members {
		members = append(members, string(m.Node))
	}
	hung := string(r.Control.Controller)
	victim := h.names[slices.IndexFunc(h.names, func(n string) bool { return !slices.Contains(members, n) })]
	others := without(members, hung)
	fall := h.sharedLead(t, victim, hung)
	h.leadEtcd(t, others[0])
	thaw := disks[hung].Freeze(t)
	h.kill(victim)
	h.ask = others
	began := time.Now()
	h.until("others lead what "+victim+" led", 20*time.Second, func(r health.Report) bool {
		return !slices.ContainsFunc(fall, func(id themis.ShardID) bool {
			s, _ := r.Shard(id)
			return string(s.Primary) == victim || s.Readable == nil || !*s.Readable
		})
	})
	t.Logf("%s is the controller's node and hangs; %v of %s are led by others after %s", hung, fall, victim, time.Since(began).Round(10*time.Millisecond))
	thaw()
	h.start(victim)
	h.ask = nil
	h.until("all is whole again", heal, healthy)
}
