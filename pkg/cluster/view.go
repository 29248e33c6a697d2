package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// View is the whole cluster map at one revision. It is never changed: whoever wants another one makes another one. Readers
// share it without a lock and must not write to its maps or slices.
type View struct {
	Revision   themis.Revision // of the control plane's store when this was the truth
	Meta       Meta
	Settings   Settings // zero until configuration was applied
	Nodes      map[themis.NodeID]Node
	Alive      map[themis.NodeID]Alive
	Failed     map[themis.NodeID]Failed
	Shards     map[themis.ShardID]Shard
	Routing    *routing.Table // nil in a cluster that isn't whole
	Controller Controller     // zero before the first

	Collections       map[themis.CollectionID]Collection
	CollectionsByName map[string]themis.CollectionID
}

// Collection finds a collection by its name.
func (v View) Collection(name string) (Collection, bool) {
	id, ok := v.CollectionsByName[name]
	if !ok {
		return Collection{}, false
	}
	c, ok := v.Collections[id]
	return c, ok
}

// NodeIDs are the members, sorted.
func (v View) NodeIDs() []themis.NodeID { return slices.Sorted(maps.Keys(v.Nodes)) }

// ShardIDs are the shards, by number.
func (v View) ShardIDs() []themis.ShardID {
	return slices.SortedFunc(maps.Keys(v.Shards), compareShardIDs)
}

// ShardList lists them so.
func (v View) ShardList() []Shard {
	var out []Shard
	for _, id := range v.ShardIDs() {
		out = append(out, v.Shards[id])
	}
	return out
}

// compareShardIDs orders shard-2 before shard-10.
func compareShardIDs(a, b themis.ShardID) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(string(a), string(b))
}

// ShardsOn are the shards that have a copy on the node, by number.
func (v View) ShardsOn(node themis.NodeID) []themis.ShardID {
	return v.shardsWhere(func(s Shard) bool { _, ok := s.Replica(node); return ok })
}

// ShardsLedBy are the shards whose primary is on the node, by number.
func (v View) ShardsLedBy(node themis.NodeID) []themis.ShardID {
	return v.shardsWhere(func(s Shard) bool { return s.Primary.Node == node })
}

func (v View) shardsWhere(ok func(Shard) bool) []themis.ShardID {
	var out []themis.ShardID
	for id, s := range v.Shards {
		if ok(s) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, compareShardIDs)
	return out
}

// NodeState is the state as the records tell it: FAILED by the controller's verdict, DRAINING by an operator's word, SUSPECT
// without a heartbeat, else UP. false when there is no such node. Probes know more, and sooner.
func (v View) NodeState(node themis.NodeID) (State, bool) {
	n, ok := v.Nodes[node]
	if !ok {
		return "", false
	}
	_, failed := v.Failed[node]
	_, alive := v.Alive[node]
	switch {
	case failed:
		return FailedState, true
	case !alive:
		return Suspect, true
	case n.Draining:
		return Draining, true
	}
	return Up, true
}

// Broken says why that very copy has stopped for good, in its node's own words; empty: it has not.
func (v View) Broken(shard themis.ShardID, m Member) string {
	a, ok := v.Alive[m.Node]
	if !ok || a.Storage != m.Storage {
		return ""
	}
	return a.Broken[shard]
}

// ControlNodes are the nodes that are members of the embedded etcd, sorted.
func (v View) ControlNodes() []themis.NodeID {
	return slices.DeleteFunc(v.NodeIDs(), func(id themis.NodeID) bool { return v.Nodes[id].Control == nil })
}

// Check lists the broken invariants of the map, sorted by subject; empty when it is sound. It judges only what no moment of
// regular operation may show: a shard without a primary is sound, a primary that is no voter isn't.
func (v View) Check() []error {
	var faults []error
	add := func(subject, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", subject, fmt.Sprintf(format, args...)))
	}
	if v.Meta.ID == "" {
		add("meta", "no cluster record")
	}
	for _, id := range v.NodeIDs() {
		if n := v.Nodes[id]; n.ID != id {
			add("nodes/"+string(id), "the record names %q", n.ID)
		}
	}
	for _, id := range v.ShardIDs() {
		v.checkShard(id, func(format string, args ...any) { add(string(id), format, args...) })
	}
	v.checkRouting(func(format string, args ...any) { add("routing", format, args...) })
	for _, id := range slices.Sorted(maps.Keys(v.Collections)) {
		if c := v.Collections[id]; c.ID != id || v.CollectionsByName[c.Name] != id {
			add(fmt.Sprintf("collections/%d", id), "%q with id %d is not what its name leads to", c.Name, c.ID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.CollectionsByName)) {
		if c, ok := v.Collections[v.CollectionsByName[name]]; !ok || c.Name != name {
			add("collection-names/"+name, "leads to collection %d, which is not it", v.CollectionsByName[name])
		}
	}
	return faults
}

func (v View) checkShard(id themis.ShardID, add func(format string, args ...any)) {
	s := v.Shards[id]
	if s.ID != id {
		add("the record names %q", s.ID)
	}
	for _, r := range s.Replicas {
		if _, ok := v.Nodes[r.Node]; !ok {
			add("a copy on %s, which is no member", r.Node)
		}
	}
	for _, err := range s.Check() {
		add("%v", err)
	}
}

func (v View) checkRouting(add func(format string, args ...any)) {
	if v.Routing == nil {
		add("no routing table")
		return
	}
	if err := routing.Validate(v.Routing.Ranges()); err != nil {
		add("%v", err)
	}
	for _, id := range v.Routing.Shards() {
		if _, ok := v.Shards[id]; !ok {
			add("%s owns tokens, but there is no such shard", id)
		}
	}
}
