package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// soundView has three nodes and twelve shards of two copies; shard-1 has a primary.
func soundView(t *testing.T) View {
	t.Helper()
	table, err := routing.First(12, 4)
	if err != nil {
		t.Fatal(err)
	}
	v := View{
		Meta: Meta{ID: "c1"}, Routing: table, Nodes: map[themis.NodeID]Node{}, Alive: map[themis.NodeID]Alive{}, Failed: map[themis.NodeID]Failed{},
		Shards: map[themis.ShardID]Shard{}, Collections: map[themis.CollectionID]Collection{7: {ID: 7, Name: "a"}}, CollectionsByName: map[string]themis.CollectionID{"a": 7},
	}
	for i := range 3 {
		id := themis.NodeID(fmt.Sprintf("node-%d", i+1))
		v.Nodes[id] = Node{ID: id}
		v.Alive[id] = Alive{Node: id}
	}
	for i := range 12 {
		a, b := viewMember(1+i%3), viewMember(1+(i+1)%3)
		p := Policy{Mode: themis.Sync, K: 1, RF: 2}
		id := routing.ShardAt(i)
		v.Shards[id] = Shard{ID: id, Replicas: []Replica{{Member: a, Class: Voter}, {Member: b, Class: Voter}}, ISR: []Member{a, b}, Want: p, Have: p}
	}
	s := v.Shards["shard-1"]
	s.Epoch, s.Primary, s.Boot = 1, viewMember(1), "b"
	v.Shards["shard-1"] = s
	return v
}

func viewMember(n int) Member {
	return Member{themis.NodeID(fmt.Sprintf("node-%d", n)), themis.StorageID(fmt.Sprintf("disk-%d", n))}
}

func TestViewCheck(t *testing.T) {
	if faults := soundView(t).Check(); len(faults) > 0 {
		t.Fatalf("a sound map: %v", faults)
	}
	shard := func(change func(*Shard)) func(*View) {
		return func(v *View) { s := v.Shards["shard-1"]; change(&s); v.Shards["shard-1"] = s }
	}
	for want, spoil := range map[string]func(*View){
		"meta: no cluster record":                       func(v *View) { v.Meta = Meta{} },
		`nodes/node-1: the record names "x"`:            func(v *View) { v.Nodes["node-1"] = Node{ID: "x"} },
		"shard-1: a copy on node-2, which is no member": func(v *View) { delete(v.Nodes, "node-2") },
		`shard-1: the record names "shard-2"`:           shard(func(s *Shard) { s.ID = "shard-2" }),
		"shard-1: two copies on node-1":                 shard(func(s *Shard) { s.Replicas = append(s.Replicas, Replica{Member: Member{"node-1", "x"}, Class: Async}) }),
		"shard-1: 2 replacements at once": shard(func(s *Shard) {
			s.Replicas[0].Replaces, s.Replicas[1].Replaces = &s.Replicas[1].Member, &s.Replicas[0].Member
		}),
		"shard-1: primary node-1 in epoch 0":                                shard(func(s *Shard) { s.Epoch = 0 }),
		"shard-1: primary node-1 with storage x is not a voter":             shard(func(s *Shard) { s.Primary.Storage = "x" }),
		"shard-1: primary node-1 is not in its own in-sync set":             shard(func(s *Shard) { s.ISR = s.ISR[1:] }),
		"shard-1: in-sync member node-2 with storage disk-2 is not a voter": shard(func(s *Shard) { s.Replicas[1].Class = Async }),
		"shard-1: in-sync member node-2 twice":                              shard(func(s *Shard) { s.ISR = append(s.ISR, s.ISR[1]) }),
		"shard-1: want: replication_factor 0":                               shard(func(s *Shard) { s.Want.RF = 0 }),
		"shard-1: have: min_sync_replicas 0 under sync":                     shard(func(s *Shard) { s.Have.K = 0 }),
		"routing: no routing table":                                         func(v *View) { v.Routing = nil },
		"routing: shard-12 owns tokens, but there is no such shard":         func(v *View) { delete(v.Shards, "shard-12") },
		`collections/7: "b" with id 7 is not what its name leads to`:        func(v *View) { v.Collections[7] = Collection{ID: 7, Name: "b"} },
		"collection-names/z: leads to collection 9, which is not it":        func(v *View) { v.CollectionsByName["z"] = 9 },
	} {
		v := soundView(t)
		spoil(&v)
		if faults := v.Check(); !slices.ContainsFunc(faults, func(err error) bool { return strings.HasPrefix(err.Error(), want) }) {
			t.Errorf("%s: found %v", want, faults)
		}
	}
}

func TestViewQuestions(t *testing.T) {
	v := soundView(t)
	if ids := v.ShardIDs(); ids[1] != "shard-2" || ids[11] != "shard-12" {
		t.Errorf("not by number: %v", ids)
	}
	if on := v.ShardsOn("node-1"); len(on) != 8 || on[0] != "shard-1" || !slices.IsSortedFunc(on, compareShardIDs) {
		t.Errorf("on node-1: %v", on)
	}
	if led := v.ShardsLedBy("node-1"); !slices.Equal(led, []themis.ShardID{"shard-1"}) {
		t.Errorf("led by node-1: %v", led)
	}
	if c, ok := v.Collection("a"); !ok || c.ID != 7 {
		t.Errorf("collection a: %+v", c)
	}
	if _, ok := v.Collection("b"); ok {
		t.Error("there is no b")
	}
	v.Nodes["node-2"] = Node{ID: "node-2", Draining: true, Control: &ControlMember{}}
	delete(v.Alive, "node-3")
	for id, want := range map[themis.NodeID]State{"node-1": Up, "node-2": Draining, "node-3": Suspect} {
		if s, ok := v.NodeState(id); !ok || s != want {
			t.Errorf("%s is %s, want %s", id, s, want)
		}
	}
	v.Failed["node-2"] = Failed{}
	if s, _ := v.NodeState("node-2"); s != FailedState {
		t.Errorf("with a verdict on it: %s", s)
	}
	if _, ok := v.NodeState("node-9"); ok {
		t.Error("there is no node-9")
	}
	if c := v.ControlNodes(); !slices.Equal(c, []themis.NodeID{"node-2"}) || len(v.NodeIDs()) != 3 {
		t.Errorf("control nodes: %v", c)
	}
}
