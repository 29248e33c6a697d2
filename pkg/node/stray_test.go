package node

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// An election that crowned nobody has made a follower, or the primary itself, promise the next epoch. The primary's reign is over
// though nobody else leads; all nodes are up. The shard gets a primary again, and has all that was acknowledged.
func TestAStrayBallotEndsNoShard(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.found(initArgs{Name: "demo", Shards: 1, RF: 3, K: 1, ControlNodes: 1, Redundancy: "MIRROR", Mode: themis.SemiSync})
	r := f.until("node-1", "HEALTHY", isHealthy)
	id, err := openIdentity(f.path("node-1"), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.put("node-1", "a", `{"v":1}`); err != nil {
		t.Fatal(err)
	}
	controller := f.holderOf(f.ca, pki.Request{Node: r.Control.Controller, Datacenter: "dc1", Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}, Loopback: true})
	for _, role := range []health.Copy{health.Replica, health.Primary} {
		r = f.until("node-1", "HEALTHY", isHealthy)
		s, _ := r.Shard("shard-1")
		var voter string
		for _, rep := range s.Replicas {
			if rep.Role == role {
				voter = string(rep.Node)
			}
		}
		c, err := controller.pool.Shards(t.Context(), f.nodes[voter].addr.GRPC, themis.NodeID(voter))
		if err != nil {
			t.Fatal(err)
		}
		ask := &sharding.VoteRequest{
			Term: uint64(s.Epoch) + 1, CandidateId: string(r.Control.Controller), ShardId: "shard-1", Nonce: make([]byte, 16),
			ClusterId: string(id.Joined.ID), ControllerTerm: uint64(clusterTerm(t, f)),
		}
		f.until("node-1", voter+" gives its ballot", func(health.Report) bool { // not in its first second, when an earlier run may have promised a lease
			got, err := c.RequestVote(t.Context(), ask)
			return err == nil && got.GetVoteGranted()
		})
		began := time.Now()
		f.until("node-1", "a reign after the one that ended, which serves", func(r health.Report) bool {
			now, _ := r.Shard("shard-1")
			return now.Epoch > s.Epoch && isHealthy(r)
		})
		t.Logf("a %s's ballot: whole after %s", role, time.Since(began).Round(time.Millisecond))
		if got, err := f.get("node-2", "a"); err != nil || got != `{"v":1}` {
			t.Errorf("%q, %v", got, err)
		}
	}
	events, err := f.admin("node-1").ListEvents(t.Context(), &nodev1.ListEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range events.GetEventsJson() {
		var e cluster.Event
		if err := json.Unmarshal(b, &e); err == nil && e.Action == "elect" && e.Rule == "resigned" && e.Outcome == "done" {
			return
		}
	}
	t.Error("no event tells of an election because a reign was over")
}
