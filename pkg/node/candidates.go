package node

import (
	"context"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/controller"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// candidatesArgs is what `shard failover candidates` asks for.
type candidatesArgs struct {
	Shard themis.ShardID `json:"shard"`
}

// candidates counts as an election would, by what the copies last said of themselves; nobody is asked for a ballot.
func (n *Node) candidates(ctx context.Context, a candidatesArgs, _ bool) (*health.Candidates, error) {
	v, ok := n.latest()
	if !ok {
		return nil, n.noMap()
	}
	s, ok := v.Shards[a.Shard]
	if !ok {
		return nil, themis.Errorf(themis.NotFound, "there is no shard %q", a.Shard).Do("themis-cli shard list")
	}
	return forecast(v, s, n.gather.states(ctx, v), time.Now()), nil
}

func forecast(v cluster.View, s cluster.Shard, states map[themis.NodeID]health.Observed, now time.Time) *health.Candidates {
	out := &health.Candidates{Shard: s.ID, Epoch: s.Epoch, Mode: s.Have.Mode, Primary: s.Primary.Node, Copies: []health.Candidate{}}
	var known []election.Standing
	for _, r := range s.Replicas {
		c, standing := standingOf(v, s.ID, r.Member, states[r.Node], now)
		known = append(known, standing)
		out.Copies = append(out.Copies, c)
	}
	res := election.Forecast(s, known, controller.Loads(v))
	out.Why, out.MayLose, out.Need, out.Got = res.Why, res.MayLose, res.Need, res.Got
	for i := range out.Copies {
		c := &out.Copies[i]
		if w := res.Winner; w != nil && w.Voter.Node == c.Node {
			out.Winner, c.Wins, c.Rule, c.Detail = c.Node, true, res.Rule, "the most advanced of those that count"
		}
		for _, o := range res.Others {
			if o.Node == c.Node {
				c.Rule, c.Detail = o.Rule, o.Detail
			}
		}
	}
	return out
}

// standingOf is what is known of one copy, and what bars its ballot.
func standingOf(v cluster.View, shard themis.ShardID, m cluster.Member, o health.Observed, now time.Time) (health.Candidate, election.Standing) {
	c := health.Candidate{Node: m.Node, Storage: m.Storage}
	st := election.Standing{Member: m}
	var local *health.LocalReplica
	age := now.Sub(o.At).Milliseconds()
	if o.State != nil {
		local = o.State.Replica(m, shard)
	}
	if local != nil {
		c.Seq, c.LastEpoch, c.AgeMs = &local.Seq, &local.LastEpoch, &age
		st.Last = themis.Position{Epoch: local.LastEpoch, Seq: local.Seq, LSN: local.LSN}
	}
	_, member := v.Nodes[m.Node]
	failed, isFailed := v.Failed[m.Node]
	switch {
	case !member:
		st.Bars = "its node is no longer a member"
	case isFailed:
		st.Bars = "its node is FAILED: " + failed.Why
	case o.Err != "":
		st.Bars = "its node does not answer: " + o.Err
	case now.Sub(o.At) > health.FreshFor:
		st.Bars = "its node was not heard of lately"
	case local == nil:
		st.Bars = "its node has no such copy open"
	case local.Broken != "":
		st.Bars = "it has stopped for good: " + local.Broken
	case local.Blank != "":
		st.Bars = "it is blank: " + local.Blank
	}
	return c, st
}
