package control

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

var errFault = errors.New("a fault of the test")

func newMap(t *testing.T, kv KV) *Map {
	t.Helper()
	m, err := NewMap(kv, "c1", Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func member(n int) cluster.Member {
	return cluster.Member{Node: themis.NodeID(fmt.Sprintf("node-%d", n)), Storage: themis.StorageID(fmt.Sprintf("disk-%d", n))}
}

// first is a sound cluster of three nodes; every shard has two voters.
func first(t *testing.T, shards int) First {
	t.Helper()
	table, err := routing.First(shards, 8)
	if err != nil {
		t.Fatal(err)
	}
	f := First{Meta: cluster.Meta{Format: 1, ID: "c1", Name: "demo", Redundancy: "MIRROR"}, Routing: table}
	for i := 1; i <= 3; i++ {
		m := member(i)
		f.Nodes = append(f.Nodes, cluster.Node{Format: 1, ID: m.Node, Storage: m.Storage, Role: cluster.RoleActive})
	}
	for i := range shards {
		a, b := member(1+i%3), member(1+(i+1)%3)
		p := cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}
		f.Shards = append(f.Shards, cluster.Shard{
			Format: 1, ID: routing.ShardAt(i), Want: p, Have: p, ISR: []cluster.Member{a, b},
			Replicas: []cluster.Replica{{Member: a, Class: cluster.Voter}, {Member: b, Class: cluster.Voter}},
		})
	}
	f.Settings = cluster.Settings{Format: 1, Version: 1, Values: map[string]string{"a": "1"}}
	return f
}

// start initialises a cluster and takes controllership.
func start(t *testing.T, kv KV, shards int) (*Map, cluster.View, cluster.Controller) {
	t.Helper()
	m := newMap(t, kv)
	if err := m.Init(t.Context(), first(t, shards)); err != nil {
		t.Fatal(err)
	}
	c, err := m.TakeController(t.Context(), cluster.Controller{}, "node-1", "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	return m, view(t, m), c
}

func view(t *testing.T, m *Map) cluster.View {
	t.Helper()
	v, err := m.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if faults := v.Check(); len(faults) > 0 {
		t.Fatalf("the map is not sound: %v", faults)
	}
	return v
}

func crown(t *testing.T, s cluster.Shard, m cluster.Member, boot themis.BootID) cluster.Shard {
	t.Helper()
	next, err := s.Crown(m, boot, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// bothStores runs a test over both stores: the map is written once, the stores are twins.
func bothStores(t *testing.T, test func(t *testing.T, kv KV)) {
	t.Run("memory", func(t *testing.T) { test(t, memoryStore(t).KV) })
	t.Run("etcd", func(t *testing.T) { test(t, etcdStore(t).KV) })
}

func TestInit(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m := newMap(t, kv)
		if _, err := m.View(t.Context()); themis.CodeOf(err) != themis.NotFound {
			t.Errorf("view of nothing: %v", err)
		}
		f := first(t, 200) // more than one transaction holds
		if err := m.Init(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		v := view(t, m)
		if len(v.Shards) != 200 || len(v.Nodes) != 3 || v.Settings.Version != 1 || v.Routing.Version() != 1 || v.Meta.Name != "demo" {
			t.Errorf("view: %d shards, %d nodes, settings %d", len(v.Shards), len(v.Nodes), v.Settings.Version)
		}
		if s := v.Shards["shard-7"]; s.Revision == 0 {
			t.Error("a shard without its revision")
		}
		if err := m.Init(t.Context(), f); themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("init again: %v", err)
		}
		all, err := Clusters(t.Context(), kv)
		if err != nil || len(all) != 1 || all[0].ID != "c1" {
			t.Errorf("clusters: %v, %v", all, err)
		}
	})
}

// TestInitBreaksOff lets init die at each of its calls: what is left is never a cluster, and the next init makes a whole one.
func TestInitBreaksOff(t *testing.T) {
	for dies := int64(1); ; dies++ {
		mem := memoryStore(t).KV
		var calls atomic.Int64
		fault := func(context.Context, Call) error {
			if calls.Add(1) >= dies {
				return errFault
			}
			return nil
		}
		f := first(t, 200)
		f.Shards[0].Want.RF = 3 // a mark that the next one doesn't leave
		err := newMap(t, &Faulty{KV: mem, Before: fault}).Init(t.Context(), f)
		if err == nil {
			if dies < 6 {
				t.Fatalf("only %d calls", dies)
			}
			return
		}
		m := newMap(t, mem)
		if _, err := m.View(t.Context()); themis.CodeOf(err) != themis.NotFound {
			t.Fatalf("died at call %d, and it looks like a cluster: %v", dies, err)
		}
		if all, err := Clusters(t.Context(), mem); len(all) != 0 || err != nil {
			t.Fatalf("died at call %d: clusters %v, %v", dies, all, err)
		}
		if err := m.Init(t.Context(), first(t, 3)); err != nil {
			t.Fatal(err)
		}
		if v := view(t, m); len(v.Shards) != 3 {
			t.Fatalf("died at call %d: %d shards are left over", dies, len(v.Shards)-3)
		}
	}
}

func TestInitRefusesUnsound(t *testing.T) {
	for name, spoil := range map[string]func(*First){
		"no routing":    func(f *First) { f.Routing = nil },
		"another id":    func(f *First) { f.Meta.ID = "c2" },
		"no such node":  func(f *First) { f.Nodes = f.Nodes[1:] },
		"node twice":    func(f *First) { f.Nodes = append(f.Nodes, f.Nodes[0]) },
		"shard twice":   func(f *First) { f.Shards = append(f.Shards, f.Shards[0]) },
		"isr not voter": func(f *First) { f.Shards[0].ISR = []cluster.Member{{Node: "node-1", Storage: "other"}} },
		"missing shard": func(f *First) { f.Shards = f.Shards[1:] },
		"policy":        func(f *First) { f.Shards[0].Want.K = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			kv := memoryStore(t).KV
			f := first(t, 3)
			spoil(&f)
			if err := newMap(t, kv).Init(t.Context(), f); themis.CodeOf(err) != themis.InvalidArgument {
				t.Errorf("%v", err)
			}
			if left, _, _ := kv.List(t.Context(), Prefix("/")); len(left) > 0 {
				t.Errorf("something was written: %v", left)
			}
		})
	}
}
