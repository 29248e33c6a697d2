package cluster

import (
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// Duties are what a node that is to stop should leave first, as far as others can take it over.
type Duties struct {
	Lead  []themis.ShardID // it leads them, and a copy on a node that stays may be elected without a loss
	Count []themis.ShardID // it is in their in-sync set, which is large enough without it
}

// None says that the node may stop without making anybody wait.
func (d Duties) None() bool { return len(d.Lead) == 0 && len(d.Count) == 0 }

// Duties finds the duties of one process of a node. A shard that nobody else can take, such as one with a single copy in sync,
// is none: it waits for the node's return, or for another copy, either way.
func (v View) Duties(node themis.NodeID, boot themis.BootID) (d Duties) {
	for _, id := range v.ShardsOn(node) {
		s := v.Shards[id]
		switch {
		case s.Epoch == 0:
		case s.Primary.Node == node:
			if s.Boot == boot && slices.ContainsFunc(s.Successors(), func(m Member) bool { return v.Stays(m.Node) }) {
				d.Lead = append(d.Lead, id)
			}
		case s.Have.Mode == themis.Sync && v.Stays(s.Primary.Node):
			if r, _ := s.Replica(node); s.InSync(r.Member) && len(s.ISR)-1 >= 1+s.Have.K {
				d.Count = append(d.Count, id)
			}
		}
	}
	return d
}

// Stays says whether the node is up, as the records tell it, and not on its way out.
func (v View) Stays(node themis.NodeID) bool {
	a, alive := v.Alive[node]
	_, failed := v.Failed[node]
	return alive && !failed && a.Stopping == nil
}

// Stopping are the nodes on their way out.
func (v View) Stopping() map[themis.NodeID]bool {
	out := map[themis.NodeID]bool{}
	for id, a := range v.Alive {
		if a.Stopping != nil {
			out[id] = true
		}
	}
	return out
}
