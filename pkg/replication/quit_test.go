package replication

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// votes says whether the replica would give its ballot for the next epoch now; it gives none.
func (c *trio) votes(id themis.NodeID) bool {
	r := c.node(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, no := Vote(r.standing(), r.promise.Promised+1, time.Now())
	return no == ""
}

// A follower that ends while a lease it promised may hold notes nothing, so that after its next start it gives no ballot for a while.
func TestAnOpenLeaseIsRememberedAcrossARestart(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	c.elect()
	primary := c.record.Primary.Node
	follower := map[themis.NodeID]themis.NodeID{"a": "b", "b": "a"}[primary]
	c.mustWrite(primary, put("k", "1"))
	c.stop(follower)
	c.start(follower)
	if c.votes(follower) {
		t.Fatal("a ballot right after a restart, though a lease may be open")
	}
}

// Replicas that end in order together free each other: after a start nobody waits for leases.
func TestReplicasThatQuitTogetherVoteAtOnce(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	c.elect()
	primary := c.record.Primary.Node
	c.mustWrite(primary, put("k", "1"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var quits sync.WaitGroup
	for _, id := range []themis.NodeID{"a", "b"} {
		quits.Go(func() { c.node(id).Quit(ctx) })
	}
	quits.Wait()
	if ctx.Err() != nil {
		t.Fatal("they did not free each other")
	}
	if _, err := c.read(primary, "k"); themis.CodeOf(err) != themis.NoPrimary {
		t.Errorf("a primary that has freed its followers answers a read: %v", err)
	}
	for _, id := range []themis.NodeID{"a", "b"} {
		c.stop(id)
		c.start(id)
	}
	for _, id := range []themis.NodeID{"a", "b"} {
		if !c.votes(id) {
			t.Errorf("%s gives no ballot", id)
		}
	}
}
