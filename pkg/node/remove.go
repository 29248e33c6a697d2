package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/themis"
)

// removeArgs is what `node remove` asks for.
type removeArgs struct {
	ID     themis.NodeID `json:"id"`
	Force  bool          `json:"force"`            // also while it runs; never while it has copies
	By     string        `json:"by,omitempty"`     // the operator, where a node passes the verb on
	Passed bool          `json:"passed,omitempty"` // a node passed it on: it goes no further
}

// removeResult is what became of it, or what would.
type removeResult struct {
	Node         themis.NodeID   `json:"node"`
	Changed      bool            `json:"changed"` // false: it was no member
	DryRun       bool            `json:"dry_run"` // nothing was changed; the rest is what would be
	ControlNodes []themis.NodeID `json:"control_nodes"`
	Steps        []string        `json:"steps"` // in their order, for people
	Note         string          `json:"note"`
}

// removeNode takes a member out of the cluster: its place in the control plane, then its record. It is refused while a shard's
// record names a copy on the node: the copies of a FAILED node are made anew elsewhere first, by the controller. No such member is
// no error. With dry it says what would be done, or why it may not be, and changes nothing: not even the audit trail.
func (n *Node) removeNode(ctx context.Context, a removeArgs, dry bool) (*removeResult, error) {
	if err := themis.CheckNode(string(a.ID)); err != nil {
		return nil, err
	}
	m, v, err := n.freshView(ctx)
	if err != nil {
		return nil, err
	}
	x, ok := v.Nodes[a.ID]
	if !ok {
		return &removeResult{Node: a.ID, DryRun: dry, ControlNodes: v.ControlNodes(), Steps: []string{}, Note: "it is no member"}, nil
	}
	if err := mayRemove(v, x, a.Force); err != nil {
		if dry {
			return nil, err
		}
		n.event(cluster.Event{Actor: operator(ctx, a.By), Action: "node_remove", Subject: string(a.ID), Outcome: "refused", Reason: err.Error()})
		return nil, err
	}
	who := operator(ctx, a.By)
	if x.Control != nil && n.embedded() && (n.etcd.Load() == nil || a.ID == n.id.Node) {
		if a.Passed {
			return nil, themis.Errorf(themis.StalePlan, "remove %s: %s is no member of the control plane that could do it", a.ID, n.id.Node).Do("run the same command again")
		}
		a.By, a.Passed = who.ID, true
		out := &removeResult{}
		return out, n.passOn(ctx, v, passed{verb: "node.remove", args: a, dry: dry, not: a.ID}, out)
	}
	release, err := n.oneAtATime(dry)
	if err != nil {
		return nil, err
	}
	defer release()
	out := removal(v, x, n.embedded())
	if out.DryRun = dry; dry {
		return out, nil
	}
	if s := n.etcd.Load(); x.Control != nil && s != nil {
		if err := removeControl(ctx, s, x); err != nil {
			return nil, err
		}
	}
	if err := m.RemoveNode(ctx, a.ID); err != nil {
		return nil, err
	}
	n.event(cluster.Event{Actor: who, Action: "node_remove", Subject: string(a.ID), Outcome: "done", Reason: out.Note, Before: asJSON(x), After: asJSON(out)})
	return out, nil
}

// removal is what becomes of the cluster without x.
func removal(v cluster.View, x cluster.Node, embedded bool) *removeResult {
	before := v.ControlNodes()
	left := slices.DeleteFunc(slices.Clone(before), func(id themis.NodeID) bool { return id == x.ID })
	out := &removeResult{Node: x.ID, Changed: true, ControlNodes: left, Note: "a node of this name joins again only with an empty node.data_dir"}
	if x.Control != nil && embedded {
		out.Steps = append(out.Steps, fmt.Sprintf("it leaves the control plane: %s, then %s", quorumText(len(before)), quorumText(len(left))))
	}
	out.Steps = append(out.Steps, fmt.Sprintf("its record is deleted: disk %s, no copies on it", x.Storage))
	if a, alive := v.Alive[x.ID]; alive && a.Storage == x.Storage {
		out.Steps = append(out.Steps, "its process, if it runs, goes on without a cluster")
	}
	if c := len(left); x.Control != nil && c%2 == 0 {
		out.Note += fmt.Sprintf("; the control plane has %d members left and needs %d of them: one more should join", c, c/2+1)
	}
	return out
}

// mayRemove refuses what would cost a copy, the control plane, or a node that works.
func mayRemove(v cluster.View, x cluster.Node, force bool) error {
	if on := v.ShardsOn(x.ID); len(on) > 0 {
		return refuseCopies(v, x, on)
	}
	control := v.ControlNodes()
	if x.Control != nil && len(control) == 1 {
		return themis.Errorf(themis.RefusedUnsafe, "remove %s: it is the only member of the control plane, 0 would be left", x.ID).Do("themis-cli node join ADDR --control yes, with another node")
	}
	if err := keepsQuorum(v, x); err != nil {
		return err
	}
	if a, alive := v.Alive[x.ID]; alive && a.Storage == x.Storage && !force {
		if _, failed := v.Failed[x.ID]; !failed {
			return themis.Errorf(themis.RefusedUnsafe, "remove %s: it is up; its process would go on without a cluster", x.ID).Do("stop it first and wait until it is FAILED, or --force")
		}
	}
	return nil
}

// keepsQuorum refuses where the members of the control plane that would be left and are not FAILED could not agree.
func keepsQuorum(v cluster.View, x cluster.Node) error {
	if x.Control == nil {
		return nil
	}
	var failed []themis.NodeID
	left := 0
	for _, id := range v.ControlNodes() {
		if id == x.ID {
			continue
		}
		left++
		if _, is := v.Failed[id]; is {
			failed = append(failed, id)
		}
	}
	if left-len(failed) >= left/2+1 {
		return nil
	}
	return themis.Errorf(themis.RefusedUnsafe, "remove %s: of the %d members of the control plane that would be left %d must agree, and %s FAILED", x.ID, left, left/2+1, isOrAre(failed)).
		Do("start %s again, or first: themis-cli node remove %s", failed[0], failed[0])
}

// isOrAre is "node-2 is", or "node-2, node-3 are".
func isOrAre(ids []themis.NodeID) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = string(id)
	}
	if len(list) == 1 {
		return list[0] + " is"
	}
	return strings.Join(list, ", ") + " are"
}

// refuseCopies tells the arithmetic: which copies are there, how many are in sync elsewhere, and whether another node can take them.
func refuseCopies(v cluster.View, x cluster.Node, on []themis.ShardID) error {
	var list []string
	free := 0 // nodes that could take the copies
	for id, n := range v.Nodes {
		_, failed := v.Failed[id]
		if id != x.ID && !failed && n.Role != cluster.RoleController {
			free++
		}
	}
	most := 0
	for _, id := range on {
		s := v.Shards[id]
		elsewhere := slices.DeleteFunc(slices.Clone(s.ISR), func(m cluster.Member) bool { return m.Node == x.ID })
		what := "a copy"
		if s.Primary.Node == x.ID {
			what = "the primary"
		}
		list = append(list, fmt.Sprintf("%s: %s, %d of %d copies are in sync elsewhere", id, what, len(elsewhere), s.Want.RF))
		most = max(most, s.Want.RF)
	}
	next := "stop it, and wait until its copies are made anew elsewhere: themis-cli cluster health"
	if _, failed := v.Failed[x.ID]; failed {
		next = "wait until its copies are made anew elsewhere: themis-cli cluster health"
	}
	if free < most {
		next = fmt.Sprintf("join another node first: %d nodes would be left for %d copies", free, most)
	}
	return themis.Errorf(themis.RefusedUnsafe, "remove %s: its copies are needed: %s", x.ID, strings.Join(list, "; ")).Do("%s", next)
}

// removeControl takes the node out of the embedded etcd, through this member.
func removeControl(ctx context.Context, s *control.Server, x cluster.Node) error {
	members, err := s.Members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name == string(x.ID) || m.PeerURL == x.Control.Peer {
			return s.RemoveMember(ctx, m.ID)
		}
	}
	return nil
}
