package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// TestTwoControllers: of many that take the next term, one wins.
func TestTwoControllers(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, seen := start(t, kv, 1)
		var won atomic.Int64
		var racing sync.WaitGroup
		for i := range 8 {
			racing.Go(func() {
				_, err := m.TakeController(t.Context(), seen, member(i).Node, "b")
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrStale):
					t.Error(err)
				}
			})
		}
		racing.Wait()
		if v := view(t, m); won.Load() != 1 || v.Controller.Term != 2 {
			t.Errorf("%d won term %d", won.Load(), v.Controller.Term)
		}
	})
}

func TestCrown(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, c := start(t, kv, 2)
		seen := v.Shards["shard-1"]
		got, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1"))
		if err != nil || got.Epoch != 1 {
			t.Fatal(got, err)
		}
		if now := view(t, m).Shards["shard-1"]; now.Revision != got.Revision || now.Primary != member(1) {
			t.Errorf("in force: %+v, returned: %+v", now, got)
		}
		if _, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(2), "boot-2")); !errors.Is(err, ErrStale) {
			t.Errorf("crown from a stale record: %v", err)
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "boot-2"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Crown(t.Context(), got, c, crown(t, got, member(2), "boot-2")); !errors.Is(err, ErrDeposed) {
			t.Errorf("crown by a deposed controller: %v", err)
		}
		if now := view(t, m).Shards["shard-1"]; now.Epoch != 1 || now.Primary != member(1) {
			t.Errorf("a refused coronation left its mark: %+v", now)
		}
	})
}

func TestCrownRefuses(t *testing.T) {
	m, v, c := start(t, memoryStore(t), 2)
	s := v.Shards["shard-1"]
	good := crown(t, s, member(1), "boot-1")
	for name, spoil := range map[string]func(*cluster.Shard){
		"the same epoch":  func(n *cluster.Shard) { n.Epoch = s.Epoch },
		"a leap":          func(n *cluster.Shard) { n.Epoch += 1 },
		"no primary":      func(n *cluster.Shard) { n.Primary = cluster.Member{} },
		"no boot":         func(n *cluster.Shard) { n.Boot = "" },
		"never seen":      func(*cluster.Shard) { s.Revision = 0 },
		"another shard":   func(n *cluster.Shard) { n.ID = "shard-2" },
		"not in sync":     func(n *cluster.Shard) { n.ISR = []cluster.Member{member(2)} },
		"another storage": func(n *cluster.Shard) { n.Primary.Storage = "new" },
	} {
		bad := good
		bad.Replicas, bad.ISR = append([]cluster.Replica{}, good.Replicas...), append([]cluster.Member{}, good.ISR...)
		s.Revision = v.Shards["shard-1"].Revision
		spoil(&bad)
		if _, err := m.Crown(t.Context(), s, c, bad); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := view(t, m).Shards["shard-1"]; now.Revision != v.Shards["shard-1"].Revision {
		t.Error("something was written")
	}
}

// TestCrownMany: three of 150 have moved on; the other 147 are crowned, and each answer stands in its place.
func TestCrownMany(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, c := start(t, kv, 150)
		moved := map[themis.ShardID]bool{"shard-1": true, "shard-70": true, "shard-150": true}
		for id := range moved {
			s := v.Shards[id]
			if _, err := m.Crown(t.Context(), s, c, crown(t, s, s.ISR[0], "other")); err != nil {
				t.Fatal(err)
			}
		}
		var cs []Coronation
		for _, id := range v.ShardIDs() {
			s := v.Shards[id]
			cs = append(cs, Coronation{s, crown(t, s, s.ISR[1], "boot")})
		}
		out := m.CrownMany(t.Context(), c, cs)
		v = view(t, m)
		for i, got := range out {
			id := cs[i].Seen.ID
			if moved[id] {
				if !errors.Is(got.Err, ErrStale) || v.Shards[id].Boot != "other" {
					t.Errorf("%s: %v", id, got.Err)
				}
				continue
			}
			if got.Err != nil || got.Shard.ID != id || v.Shards[id].Revision != got.Shard.Revision || v.Shards[id].Boot != "boot" {
				t.Errorf("%s: %+v", id, got)
			}
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "boot-2"); err != nil {
			t.Fatal(err)
		}
		for i, got := range m.CrownMany(t.Context(), c, cs[:3]) {
			if !errors.Is(got.Err, ErrDeposed) {
				t.Errorf("%s by a deposed controller: %v", cs[i].Seen.ID, got.Err)
			}
		}
	})
}

func TestChangeShard(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, c := start(t, kv, 1)
		seen := v.Shards["shard-1"]
		reign, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1"))
		if err != nil {
			t.Fatal(err)
		}
		without, err := reign.RemoveFromISR(member(2), true)
		if err != nil {
			t.Fatal(err)
		}
		now, err := m.ChangeShard(t.Context(), reign, without)
		if err != nil || len(now.ISR) != 1 {
			t.Fatal(now, err)
		}
		if _, err := m.ChangeShard(t.Context(), reign, without); !errors.Is(err, ErrStale) {
			t.Errorf("from a stale revision: %v", err)
		}
		lies := now // the right revision with another epoch
		lies.Epoch++
		if _, err := m.ChangeShard(t.Context(), lies, lies); !errors.Is(err, ErrStale) {
			t.Errorf("in another epoch: %v", err)
		}
		back, err := now.AddToISR(member(2))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ChangeShard(t.Context(), now, back); err != nil {
			t.Fatal(err)
		}
		if s := view(t, m).Shards["shard-1"]; len(s.ISR) != 2 || s.Epoch != 1 {
			t.Errorf("in force: %+v", s)
		}
	})
}

func TestPrimaryMayNot(t *testing.T) {
	m, v, c := start(t, memoryStore(t), 2)
	s := v.Shards["shard-1"]
	s, err := m.Crown(t.Context(), s, c, crown(t, s, member(1), "boot-1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*cluster.Shard){
		"lead another epoch": func(n *cluster.Shard) { n.Epoch++ },
		"hand on":            func(n *cluster.Shard) { n.Primary = member(2) },
		"another boot":       func(n *cluster.Shard) { n.Boot = "x" },
		"wait less":          func(n *cluster.Shard) { n.WaitMs++ },
		"want":               func(n *cluster.Shard) { n.Want.RF = 3 },
		"have":               func(n *cluster.Shard) { n.Have.Mode = themis.Async },
		"add a copy": func(n *cluster.Shard) {
			n.Replicas = append(n.Replicas, cluster.Replica{Member: member(3), Class: cluster.Async})
		},
		"another disk": func(n *cluster.Shard) { n.Replicas[1].Storage = "x"; n.ISR = n.ISR[:1] },
	} {
		next := s
		next.Replicas, next.ISR = append([]cluster.Replica{}, s.Replicas...), append([]cluster.Member{}, s.ISR...)
		spoil(&next)
		if _, err := m.ChangeShard(t.Context(), s, next); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChangeShardAs(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, c := start(t, kv, 1)
		seen := v.Shards["shard-1"]
		joined, err := seen.Join(cluster.Replica{Member: member(3)})
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := seen.Join(cluster.Replica{Member: member(9)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ChangeShardAs(t.Context(), c, seen, stranger); themis.CodeOf(err) != themis.NotFound {
			t.Errorf("a copy on a stranger: %v", err)
		}
		now, err := m.ChangeShardAs(t.Context(), c, seen, joined)
		if err != nil || len(now.Replicas) != 3 {
			t.Fatal(now, err)
		}
		if _, err := m.ChangeShardAs(t.Context(), c, seen, joined); !errors.Is(err, ErrStale) {
			t.Errorf("from a stale record: %v", err)
		}
		if _, err := m.ChangeShardAs(t.Context(), c, now, crown(t, now, member(1), "b")); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("a coronation by the back door: %v", err)
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "boot-2"); err != nil {
			t.Fatal(err)
		}
		dropped, err := now.Drop(member(3))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.ChangeShardAs(t.Context(), c, now, dropped); !errors.Is(err, ErrDeposed) {
			t.Errorf("by a deposed controller: %v", err)
		}
	})
}

// TestRemoveNodeAgainstJoin: a node is removed while a shard gets a copy on it; never both.
func TestRemoveNodeAgainstJoin(t *testing.T) {
	for range 50 {
		m, v, c := start(t, memoryStore(t), 1)
		seen := v.Shards["shard-1"]
		joined, err := seen.Join(cluster.Replica{Member: member(3)})
		if err != nil {
			t.Fatal(err)
		}
		var racing sync.WaitGroup
		var join, remove error
		racing.Go(func() { _, join = m.ChangeShardAs(t.Context(), c, seen, joined) })
		racing.Go(func() { remove = m.RemoveNode(t.Context(), "node-3") })
		racing.Wait()
		if (join == nil) == (remove == nil) {
			t.Fatalf("join: %v, remove: %v", join, remove)
		}
		view(t, m)
	}
}

// TestRemoveNodeSeesJoin: the join comes between the removal's reading and its writing.
func TestRemoveNodeSeesJoin(t *testing.T) {
	mem := memoryStore(t).KV
	m, v, c := start(t, mem, 1)
	seen := v.Shards["shard-1"]
	joined, err := seen.Join(cluster.Replica{Member: member(3)})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	between := &Faulty{KV: mem, Before: func(_ context.Context, call Call) error {
		if call == CallTxn {
			once.Do(func() {
				if _, err := m.ChangeShardAs(t.Context(), c, seen, joined); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	}}
	if err := newMap(t, between).RemoveNode(t.Context(), "node-3"); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Errorf("removed under a copy: %v", err)
	}
	view(t, m)
}

func TestNodes(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, _ := start(t, kv, 1)
		n, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-4", Storage: "disk-4", Role: cluster.RoleActive})
		if err != nil || n.Revision == 0 {
			t.Fatal(n, err)
		}
		if again, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-4", Storage: "disk-4"}); err != nil || again.Revision != n.Revision || again.Role != n.Role {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-4", Storage: "other"}); themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("another disk: %v", err)
		}
		if _, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node/4", Storage: "other"}); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("another key: %v", err)
		}
		n.Draining = true
		updated, err := m.UpdateNode(t.Context(), n)
		if err != nil || !view(t, m).Nodes["node-4"].Draining {
			t.Fatal(err)
		}
		if _, err := m.UpdateNode(t.Context(), n); !errors.Is(err, ErrStale) {
			t.Errorf("stale update: %v", err)
		}
		if updated.Revision == n.Revision {
			t.Error("the old revision was returned")
		}
		if err := m.RemoveNode(t.Context(), "node-1"); themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("removed with copies: %v", err)
		}
		if err := errors.Join(m.RemoveNode(t.Context(), "node-4"), m.RemoveNode(t.Context(), "node-4")); err != nil {
			t.Error(err)
		}
	})
}

func TestVerdicts(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, c := start(t, kv, 1)
		f := cluster.Failed{Format: 1, Node: "node-2", Boot: "boot-2", Why: "refused the connection", Since: time.Unix(1, 0)}
		later := f
		later.Since = time.Unix(2, 0)
		if err := errors.Join(m.DeclareFailed(t.Context(), c, f), m.DeclareFailed(t.Context(), c, later)); err != nil {
			t.Fatal(err)
		}
		v := view(t, m)
		if got := v.Failed["node-2"]; got.Term != c.Term || !got.Since.Equal(f.Since) {
			t.Errorf("verdict: %+v", got)
		}
		if s, _ := v.NodeState("node-2"); s != cluster.FailedState {
			t.Errorf("state %s", s)
		}
		if err := errors.Join(m.ClearFailed(t.Context(), c, "node-2"), m.ClearFailed(t.Context(), c, "node-2")); err != nil {
			t.Fatal(err)
		}
		if v := view(t, m); len(v.Failed) != 0 {
			t.Errorf("still failed: %v", v.Failed)
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "boot-2"); err != nil {
			t.Fatal(err)
		}
		if err := m.DeclareFailed(t.Context(), c, f); !errors.Is(err, ErrDeposed) {
			t.Errorf("by a deposed controller: %v", err)
		}
	})
}

func TestEnsureCollection(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, _ := start(t, kv, 1)
		var asking sync.WaitGroup
		var mu sync.Mutex
		ids := map[string]map[themis.CollectionID]bool{}
		for i := range 9 {
			name := fmt.Sprintf("orders%d", i%3)
			asking.Go(func() {
				c, err := m.EnsureCollection(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if ids[name] == nil {
					ids[name] = map[themis.CollectionID]bool{}
				}
				ids[name][c.ID] = true
			})
		}
		asking.Wait()
		v := view(t, m)
		if len(v.Collections) != 3 {
			t.Errorf("%d collections", len(v.Collections))
		}
		for name, of := range ids {
			if c, ok := v.Collection(name); !ok || len(of) != 1 || !of[c.ID] {
				t.Errorf("%s has %v, the map says %d", name, of, c.ID)
			}
		}
		if _, err := m.EnsureCollection(t.Context(), "_system"); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("a name of the system's: %v", err)
		}
	})
}

func TestApplySettings(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, _ := start(t, kv, 1)
		s := cluster.Settings{Values: map[string]string{"a": "2"}, Who: "ops"}
		got, err := m.ApplySettings(t.Context(), v.Settings.Version, s)
		if err != nil || got.Version != 2 {
			t.Fatal(got, err)
		}
		if again, err := m.ApplySettings(t.Context(), 2, s); err != nil || again.Version != 2 {
			t.Errorf("the same again: %+v, %v", again, err)
		}
		if _, err := m.ApplySettings(t.Context(), 1, cluster.Settings{Values: map[string]string{"a": "3"}}); !errors.Is(err, ErrStale) {
			t.Errorf("from a stale version: %v", err)
		}
		if now := view(t, m).Settings; now.Values["a"] != "2" || now.Who != "ops" {
			t.Errorf("in force: %+v", now)
		}
	})
}

func TestEvents(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, c := start(t, kv, 1)
		now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		for i := range 10 {
			e := cluster.Event{HLC: themis.HLCAt(now.Add(time.Duration(i-40) * 24 * time.Hour)), Action: fmt.Sprint(i)}
			if _, err := m.AppendEvent(t.Context(), "node-1", e); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 { // all at one timestamp
			if _, err := m.AppendEvent(t.Context(), "node-2", cluster.Event{HLC: themis.HLCAt(now), Action: fmt.Sprint("n", i), Before: []byte(`"` + strings.Repeat("x", evidenceMax) + `"`)}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct {
			from, to themis.HLC
			limit    int
			actions  string
		}{
			{0, 0, 0, "0 1 2 3 4 5 6 7 8 9 n0 n1 n2 n3 n4"},
			{0, 0, 2, "n3 n4"},
			{themis.HLCAt(now), 0, 0, "n0 n1 n2 n3 n4"},
			{0, themis.HLCAt(now), 1, "9"},
			{themis.HLCAt(now) + 1, 0, 0, ""},
		} {
			es, err := m.Events(t.Context(), want.from, want.to, want.limit)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range es {
				got = append(got, e.Action)
				if len(e.Before) > 100 {
					t.Errorf("%s: evidence of %d bytes", e.ID, len(e.Before))
				}
			}
			if g := strings.Join(got, " "); g != want.actions {
				t.Errorf("%v: %q", want, g)
			}
		}
		if n, err := m.TrimEvents(t.Context(), c, now.Add(-2*24*time.Hour)); err != nil || n != 8 {
			t.Errorf("trimmed %d by age, %v", n, err)
		}
		if n, err := m.trimEvents(t.Context(), c, now, 3); err != nil || n != 4 {
			t.Errorf("trimmed %d by number, %v", n, err)
		}
		if es, err := m.Events(t.Context(), 0, 0, 0); err != nil || len(es) != 3 || es[0].Action != "n2" {
			t.Errorf("left: %v, %v", es, err)
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "b"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.trimEvents(t.Context(), c, now, 0); !errors.Is(err, ErrDeposed) {
			t.Errorf("trimmed by a deposed controller: %v", err)
		}
		if _, err := m.AppendEvent(t.Context(), "node-1", cluster.Event{}); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("without a timestamp: %v", err)
		}
	})
}

// TestEventsNeverOverwrite: another run of the process has used the same ids, and an answer is lost.
func TestEventsNeverOverwrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		start(t, mem, 1)
		for run, kv := range []KV{mem, mem, lossy(mem, true, func(n int64) bool { return n < 3 }), lossy(mem, false, func(n int64) bool { return n < 3 })} {
			e, err := newMap(t, kv).AppendEvent(t.Context(), "node-1", cluster.Event{HLC: 77, Action: fmt.Sprint(run)})
			if err != nil || e.ID == "" {
				t.Error(err)
			}
		}
		if es, err := newMap(t, mem).Events(t.Context(), 0, 0, 0); err != nil || len(es) != 4 {
			t.Errorf("%d events, %v", len(es), err)
		}
	})
}

func TestTokens(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, _ := start(t, kv, 1)
		now := time.Unix(1_800_000_000, 0)
		hash := strings.Repeat("ab", 32)
		if err := m.CreateToken(t.Context(), cluster.JoinToken{Hash: hash, Expires: now.Add(time.Hour)}, now); err != nil {
			t.Fatal(err)
		}
		if err := m.CreateToken(t.Context(), cluster.JoinToken{Hash: hash, Expires: now.Add(9 * time.Hour)}, now); err == nil {
			t.Error("a token was made anew")
		}
		if err := m.ConsumeToken(t.Context(), hash, "disk-9", now.Add(time.Hour)); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("expired: %v", err)
		}
		var won atomic.Int64
		var racing sync.WaitGroup
		for i := range 8 {
			racing.Go(func() {
				switch err := m.ConsumeToken(t.Context(), hash, fmt.Sprint("disk-", i), now); {
				case err == nil:
					won.Add(1)
				case themis.CodeOf(err) != themis.PermissionDenied:
					t.Error(err)
				}
			})
		}
		racing.Wait()
		if won.Load() != 1 {
			t.Errorf("used %d times", won.Load())
		}
		for _, h := range []string{strings.Repeat("cd", 32), "../meta", ""} {
			if err := m.ConsumeToken(t.Context(), h, "x", now); err == nil {
				t.Errorf("token %q was taken", h)
			}
		}
		later := now.Add(26 * time.Hour)
		if err := m.CreateToken(t.Context(), cluster.JoinToken{Hash: strings.Repeat("ef", 32), Expires: later}, later); err != nil {
			t.Fatal(err)
		}
		if left, _, err := kv.List(t.Context(), Prefix(m.keys.of(underTokens))); err != nil || len(left) != 1 {
			t.Errorf("%d tokens are left, %v", len(left), err)
		}
	})
}

// TestRoutingInParts: a table too large for one value comes back whole, and the parts of the one before go.
func TestRoutingInParts(t *testing.T) {
	kv := memoryStore(t).KV
	m, v, c := start(t, kv, 64)
	table := v.Routing
	var ranges []routing.Range
	const n = 60_000
	for i := range uint64(n) {
		from, to := i<<32/n, (i+1)<<32/n-1
		ranges = append(ranges, routing.Range{From: themis.Token(from), To: themis.Token(to), Shard: routing.ShardAt(int(i % 64))})
	}
	for range 2 {
		next, err := routing.NewTable(table.Version()+1, ranges)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.ChangeRouting(t.Context(), c, table); !errors.Is(err, ErrStale) {
			t.Errorf("the same version again: %v", err)
		}
		if err := m.ChangeRouting(t.Context(), c, next); err != nil {
			t.Fatal(err)
		}
		table = next
		if got := view(t, m).Routing; got.Version() != next.Version() || got.Len() != n {
			t.Errorf("version %d with %d ranges", got.Version(), got.Len())
		}
	}
	parts, _, err := kv.List(t.Context(), Prefix(m.keys.of(keyRouting+"/")))
	if err != nil || len(parts) < 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	for _, p := range parts {
		if !strings.Contains(p.Key, fmt.Sprintf("/%020d/", table.Version())) {
			t.Errorf("left over: %s", p.Key)
		}
	}
	if _, err := m.TakeController(t.Context(), c, "node-2", "b"); err != nil {
		t.Fatal(err)
	}
	next, err := routing.NewTable(table.Version()+1, v.Routing.Ranges())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ChangeRouting(t.Context(), c, next); !errors.Is(err, ErrDeposed) {
		t.Errorf("by a deposed controller: %v", err)
	}
}

// lossy loses the answers of the transactions that lose says, counted from 1; with done == false they don't reach the store.
func lossy(kv KV, done bool, lose func(n int64) bool) *Faulty {
	var n atomic.Int64
	fault := func(_ context.Context, c Call) error {
		if c == CallTxn && lose(n.Add(1)) {
			if done {
				return errFault
			}
			return fmt.Errorf("%w: %w", ErrUnknownOutcome, errFault)
		}
		return nil
	}
	if done {
		return &Faulty{KV: kv, After: fault}
	}
	return &Faulty{KV: kv, Before: fault}
}

// TestUnknownOutcome: the answer is lost, whether the transaction was done or not; the change happens once and is known.
func TestUnknownOutcome(t *testing.T) {
	for _, done := range []bool{true, false} {
		for _, lost := range []int64{1, 3} {
			t.Run(fmt.Sprintf("done %v, %d lost", done, lost), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					mem := memoryStore(t).KV
					_, v, c := start(t, mem, 1)
					m := newMap(t, lossy(mem, done, func(n int64) bool { return n <= lost }))
					seen := v.Shards["shard-1"]
					got, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1"))
					if err != nil {
						t.Fatal(err)
					}
					if now := view(t, m).Shards["shard-1"]; now.Epoch != 1 || now.Revision != got.Revision {
						t.Errorf("in force: %+v, returned: %+v", now, got)
					}
				})
			})
		}
	}
}

// TestUnknownOutcomeOverwritten: our coronation was done, its answer was lost, and the new primary has already changed the
// record when it is read back. It still is known to be ours.
func TestUnknownOutcomeOverwritten(t *testing.T) {
	for _, history := range []bool{true, false} {
		t.Run(fmt.Sprintf("history %v", history), func(t *testing.T) {
			mem := NewMemory(nil)
			t.Cleanup(func() { _ = mem.Close() })
			m, v, c := start(t, mem, 1)
			seen := v.Shards["shard-1"]
			next := crown(t, seen, member(1), "boot-1")
			var once sync.Once
			shaky := &Faulty{KV: mem, After: func(_ context.Context, call Call) (err error) {
				if call == CallTxn {
					once.Do(func() {
						now := view(t, m).Shards["shard-1"]
						without, _ := now.RemoveFromISR(member(2), true)
						if _, err := m.ChangeShard(t.Context(), now, without); err != nil {
							t.Error(err)
						}
						if !history {
							mem.Compact(1 << 40)
						}
						err = errFault
					})
				}
				return err
			}}
			_, err := newMap(t, shaky).Crown(t.Context(), seen, c, next)
			if history && err != nil {
				t.Errorf("it was done, the answer is %v", err)
			}
			if !history && (!errors.Is(err, ErrUnknownOutcome) || themis.CodeOf(err) != themis.OutcomeUnknown) {
				t.Errorf("nobody can know, the answer is %v", err)
			}
		})
	}
}

// TestUnknownOutcomeLandsLate: the answer was lost, the record is still as it was when it is read back, and the transaction
// lands just before the second try, which then fails its compare. The change is known to be ours.
func TestUnknownOutcomeLandsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, v, c := start(t, mem, 1)
		seen := v.Shards["shard-1"]
		next := crown(t, seen, member(1), "boot-1")
		tries := 0
		late := &Faulty{KV: mem, Before: func(_ context.Context, call Call) error {
			if call != CallTxn {
				return nil
			}
			if tries++; tries == 1 {
				return ErrUnknownOutcome
			}
			if _, err := m.Crown(t.Context(), seen, c, next); err != nil {
				t.Error(err)
			}
			return nil
		}}
		if got, err := newMap(t, late).Crown(t.Context(), seen, c, next); err != nil || got.Revision != view(t, m).Shards["shard-1"].Revision {
			t.Errorf("it was done, the answer is %v", err)
		}
	})
}

// TestUnknownOutcomeLost: the answer was lost, and another controller crowned someone else in between: ErrStale, not success.
func TestUnknownOutcomeLost(t *testing.T) {
	mem := memoryStore(t).KV
	m, v, c := start(t, mem, 1)
	seen := v.Shards["shard-1"]
	var once sync.Once
	shaky := &Faulty{KV: mem, Before: func(_ context.Context, call Call) (err error) {
		if call == CallTxn {
			once.Do(func() {
				if _, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(2), "boot-2")); err != nil {
					t.Error(err)
				}
				err = ErrUnknownOutcome
			})
		}
		return err
	}}
	if _, err := newMap(t, shaky).Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1")); !errors.Is(err, ErrStale) {
		t.Errorf("%v", err)
	}
	if s := view(t, m).Shards["shard-1"]; s.Primary != member(2) {
		t.Errorf("primary %s", s.Primary)
	}
}

// TestUnknownOutcomeEnds: when nothing answers any more the outcome is unknown, and never called a failure.
func TestUnknownOutcomeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		_, v, c := start(t, mem, 1)
		seen := v.Shards["shard-1"]
		for name, kv := range map[string]KV{
			"answers are always lost": lossy(mem, false, func(int64) bool { return true }),
			"reads fail too": &Faulty{KV: mem, Before: func(_ context.Context, call Call) error {
				if call == CallTxn {
					return ErrUnknownOutcome
				}
				return errFault
			}},
		} {
			_, err := newMap(t, kv).Crown(t.Context(), seen, c, crown(t, seen, member(1), "b"))
			if themis.CodeOf(err) != themis.OutcomeUnknown || !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
