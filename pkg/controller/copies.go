package controller

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// isJoining says whether the copy is on its way to become a voter. A cascade's copy, with an upstream, never does.
func isJoining(r cluster.Replica) bool { return r.Class == cluster.Async && r.Upstream == "" }

// grace is how long a FAILED node keeps its copies of the shard.
func (t *step) grace(s cluster.Shard) time.Duration {
	if s.Have.Mode == themis.Async {
		return t.c.Grace
	}
	members := s.ISR
	if s.Have.Mode == themis.SemiSync {
		members = s.Voters()
	}
	live := 0
	for _, m := range members {
		if _, failed := t.failedFor(m.Node); !failed {
			live++
		}
	}
	if live < 1+s.Have.K {
		return t.c.GraceStalled
	}
	return t.c.Grace
}

// lost says why the voter's copy must be made anew elsewhere, or nothing.
func (t *step) lost(s cluster.Shard, m cluster.Member) string {
	n, member := t.View.Nodes[m.Node]
	since, failed := t.failedFor(m.Node)
	switch {
	case !member:
		return fmt.Sprintf("%s is no longer a member", m.Node)
	case failed && since >= t.grace(s) && guard.On(guard.FailedReplaced):
		return fmt.Sprintf("%s is FAILED", m.Node)
	case !failed && n.Draining:
		return fmt.Sprintf("%s is being drained", m.Node)
	case !failed && t.View.Broken(s.ID, m) != "" && guard.On(guard.BrokenReplaced):
		return fmt.Sprintf("the copy on %s has stopped for good: %s", m.Node, t.View.Broken(s.ID, m))
	}
	return ""
}

// drop ends a joining copy that no longer serves its purpose.
func (t *step) drop(s cluster.Shard) bool {
	if t.Paused != "" {
		return false
	}
	for _, r := range s.Replicas {
		if !isJoining(r) {
			continue
		}
		why := t.needless(s, r)
		if why == "" {
			continue
		}
		n := t.View.Nodes[r.Node]
		if _, failed := t.failedFor(r.Node); !failed && n.Role == cluster.RoleHotSpare {
			t.do(StandDown{s.ID, r.Member, why})
		} else {
			t.do(Drop{s.ID, r.Member, why})
		}
		return true
	}
	return false
}

// needless says why a joining copy is no longer wanted, or nothing.
func (t *step) needless(s cluster.Shard, r cluster.Replica) string {
	if why := t.View.Broken(s.ID, r.Member); why != "" {
		return "it has stopped for good: " + why
	}
	if since, failed := t.failedFor(r.Node); failed && since >= t.grace(s) {
		if _, member := t.View.Nodes[r.Node]; !member {
			return "its node is no longer a member"
		}
		return "its node is FAILED"
	}
	if t.fullLong(r.Member) && guard.On(guard.FullJoin) {
		return "its own disk is full by now"
	}
	enough := len(s.Voters()) >= s.Want.RF
	if r.Replaces == nil {
		if enough {
			return fmt.Sprintf("%d of %d copies are there", len(s.Voters()), s.Want.RF)
		}
		return ""
	}
	old := *r.Replaces
	voter, there := s.Replica(old.Node)
	switch {
	case !there || voter.Member != old || voter.Class != cluster.Voter:
		if enough {
			return fmt.Sprintf("%s, which it was to replace, is gone, and %d of %d copies are there", old, len(s.Voters()), s.Want.RF)
		}
	case old == s.Primary:
		return fmt.Sprintf("%s, which it was to replace, is the primary again", old)
	case s.InSync(old) && t.up(old.Node) && !t.View.Nodes[old.Node].Draining && t.View.Broken(s.ID, old) == "" && !t.full(old):
		return fmt.Sprintf("%s, which it was to replace, is in sync again", old)
	}
	return ""
}

// join begins one copy where one is lost or missing. It waits for a primary to copy from, for the copy that joins
// already, and until this controller knows who is up.
func (t *step) join(s cluster.Shard) {
	if !t.looked() || slices.ContainsFunc(s.Replicas, isJoining) || !t.up(s.Primary.Node) {
		return
	}
	replaces, why := t.wanted(s)
	if why == "" {
		t.joinForFull(s)
		return
	}
	if t.Paused != "" {
		t.not("join", string(s.ID), "paused", "%s; rebuilds are paused: %s", why, t.Paused)
		return
	}
	var reasons []string
	no := func(id themis.NodeID, reason string) { reasons = append(reasons, string(id)+" "+reason) }
	if best := t.choose(s, replaces, no, nil); best == nil {
		t.not("join", string(s.ID), "no-free-node", "%s; %s", why, strings.Join(reasons, ", "))
	} else {
		t.begin(s, *best, replaces, why)
	}
}

func (t *step) begin(s cluster.Shard, c candidate, replaces *cluster.Member, why string) {
	t.copies[c.node.ID]++
	t.joining[c.node.ID]++
	m := cluster.Member{Node: c.node.ID, Storage: c.node.Storage}
	if c.follows {
		t.do(Enlist{s.ID, m, replaces, why})
		return
	}
	t.do(Join{s.ID, cluster.Replica{
		Member: m, Class: cluster.Async, Replaces: replaces,
		Region: c.node.Region, Datacenter: c.node.Datacenter, Rack: c.node.Rack,
	}, why})
}

// wanted is the voter that is to be replaced, the longest lost first, or nil for a free place, and why a copy is wanted at all.
func (t *step) wanted(s cluster.Shard) (replaces *cluster.Member, why string) {
	voters := s.Voters()
	slices.SortFunc(voters, func(a, b cluster.Member) int {
		fa, _ := t.failedFor(a.Node)
		fb, _ := t.failedFor(b.Node)
		return cmp.Or(cmp.Compare(fb, fa), cmp.Compare(a.Node, b.Node))
	})
	for _, m := range voters {
		if reason := t.lost(s, m); reason != "" && m != s.Primary {
			return &m, reason
		}
	}
	if len(voters) < s.Want.RF {
		return nil, fmt.Sprintf("it has %d of %d copies", len(voters), s.Want.RF)
	}
	return nil, ""
}

// candidate is a node that could take the copy, with what decides between it and others: the lower number first.
type candidate struct {
	node             cluster.Node
	follows          bool
	seq              themis.Seq
	cramped          bool // it may fill the disk
	sameRack, sameDC int
	copies           int
}

// choose is the best node for the copy, or nil; no hears of each that can't take it, which also says fits where it is given.
func (t *step) choose(s cluster.Shard, replaces *cluster.Member, no func(themis.NodeID, string), fits func(cluster.Shard, cluster.Node) string) *candidate {
	var all []candidate
	for _, id := range t.View.NodeIDs() {
		n := t.View.Nodes[id]
		r, has := s.Replica(id)
		follows := has && r.Class == cluster.Spare && r.Upstream == ""
		reason := t.notFree(n, has && !follows)
		if reason == "" && fits != nil {
			reason = fits(s, n)
		}
		if reason != "" {
			no(id, reason)
			continue
		}
		c := candidate{node: n, follows: follows, cramped: t.cramped(s, n) != "", seq: t.Caught[s.ID][id], copies: t.copies[id]}
		for _, v := range s.Replicas {
			if _, failed := t.failedFor(v.Node); failed || v.Class != cluster.Voter || replaces != nil && v.Member == *replaces {
				continue
			}
			if n.Datacenter == v.Datacenter && n.Datacenter != "" {
				c.sameDC++
			}
			if n.Datacenter == v.Datacenter && n.Rack == v.Rack && n.Rack != "" {
				c.sameRack++
			}
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil
	}
	best := slices.MinFunc(all, compare)
	return &best
}

// compare puts a spare that follows already first, then nodes with room for the copy, then other racks and datacenters than the
// survivors', then hot spares, whose task it is, then whoever has the fewest copies.
func compare(a, b candidate) int {
	return cmp.Or(
		first(a.follows, b.follows),
		first(!a.cramped, !b.cramped),
		cmp.Compare(a.sameRack, b.sameRack),
		cmp.Compare(a.sameDC, b.sameDC),
		cmp.Compare(b.seq, a.seq),
		first(a.node.Role == cluster.RoleHotSpare, b.node.Role == cluster.RoleHotSpare),
		cmp.Compare(a.copies, b.copies),
		cmp.Compare(a.node.ID, b.node.ID),
	)
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// notFree says why the node can't take a copy, or nothing.
func (t *step) notFree(n cluster.Node, has bool) string {
	a, alive := t.View.Alive[n.ID]
	_, failed := t.View.Failed[n.ID]
	switch {
	case has:
		return "has a copy"
	case n.Role != cluster.RoleActive && n.Role != cluster.RoleHotSpare:
		return "is a " + string(n.Role)
	case failed:
		return "is FAILED"
	case n.Draining:
		return "is being drained"
	case t.stopping(n.ID) != nil:
		return "is stopping"
	case !t.up(n.ID):
		return "does not answer"
	case !alive:
		return "has no heartbeat in the control plane"
	case a.Storage != n.Storage:
		return "has another disk than its record says"
	case a.DiskUsed != nil && *a.DiskUsed > t.c.DiskMax:
		return fmt.Sprintf("has a disk more than %.0f %% full", t.c.DiskMax*100)
	case a.DiskFull:
		return "has a full disk"
	case len(a.Broken) > 0:
		return "has a copy that stopped for good, so its disk is not trusted"
	case t.joining[n.ID] >= t.c.JoinsPerNode:
		return fmt.Sprintf("receives %d copies already", t.joining[n.ID])
	}
	return ""
}
