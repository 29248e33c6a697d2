package control

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication/registrytest"
	"github.com/themisdb/themis/pkg/themis"
)

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
		if err := m.DeclareFailed(t.Context(), c, cluster.Failed{Format: 1, Node: member(2).Node}); err != nil {
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

// The map is what replication asks of a control plane.
func TestTheMapIsARegistry(t *testing.T) {
	for name, open := range map[string]func(*testing.T) store{"memory": memoryStore, "etcd": etcdStore} {
		t.Run(name, func(t *testing.T) {
			registrytest.Run(t, func(t *testing.T) registrytest.Plane {
				m, v, c := start(t, open(t).KV, 1)
				seen := v.Shards["shard-1"]
				if _, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1")); err != nil {
					t.Fatal(err)
				}
				now := func() cluster.Shard { return view(t, m).Shards[seen.ID] }
				fine := func(err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				return registrytest.Plane{
					Change: m.ChangeShard, Now: now,
					Failed: func(node themis.NodeID, gone bool) {
						if gone {
							fine(m.DeclareFailed(t.Context(), c, cluster.Failed{Format: 1, Node: node}))
						} else {
							fine(m.ClearFailed(t.Context(), c, node))
						}
					},
					Ask: func(mode themis.Mode, k int) {
						was := now()
						next, err := was.Ask(mode, k)
						fine(err)
						fine(m.AskPolicy(t.Context(), []cluster.Shard{was}, []cluster.Shard{next}))
					},
				}
			})
		})
	}
}

// TestBelowTheFloorOnlyByAVerdict: a primary whose view is old proposes that a follower leaves, which is back by now. Its copy would be
// whole, and nobody could elect it.
func TestBelowTheFloorOnlyByAVerdict(t *testing.T) {
	failed := func(n int) func(*testing.T, *Map, cluster.Controller) {
		return func(t *testing.T, m *Map, c cluster.Controller) {
			if err := m.DeclareFailed(t.Context(), c, cluster.Failed{Format: 1, Node: member(n).Node}); err != nil {
				t.Fatal(err)
			}
		}
	}
	says := func(a cluster.Alive) func(*testing.T, *Map, cluster.Controller) {
		return func(t *testing.T, m *Map, _ cluster.Controller) {
			a.Format, a.Node = cluster.Format, member(2).Node
			b, err := cluster.Encode(a)
			if err != nil {
				t.Fatal(err)
			}
			write(t, m.kv, m.keys.alive(a.Node), string(b))
		}
	}
	broken := map[themis.ShardID]string{"shard-1": "a failed fsync"}
	third := func(s *cluster.Shard) {
		s.Want.RF, s.Have.RF = 3, 3
		s.Replicas, s.ISR = append(s.Replicas, cluster.Replica{Member: member(3), Class: cluster.Voter}), append(s.ISR, member(3))
	}
	semi := func(s *cluster.Shard) { s.Want.Mode, s.Have.Mode = themis.SemiSync, themis.SemiSync }
	for name, c := range map[string]struct {
		told   func(*testing.T, *Map, cluster.Controller) // nil: nothing
		back   bool                                       // the verdict is taken back while the change is on its way
		change func(*cluster.Shard)
		want   themis.Code // empty: it is done
	}{
		"no verdict":               {want: themis.RefusedUnsafe},
		"above the floor":          {change: third},
		"no floor":                 {change: semi},
		"FAILED":                   {told: failed(2)},
		"another is FAILED":        {told: failed(3), want: themis.RefusedUnsafe},
		"FAILED until just now":    {told: failed(2), back: true, want: themis.StalePlan},
		"its copy has stopped":     {told: says(cluster.Alive{Storage: member(2).Storage, Broken: broken})},
		"on an earlier disk":       {told: says(cluster.Alive{Storage: "older", Broken: broken}), want: themis.RefusedUnsafe},
		"another copy has stopped": {told: says(cluster.Alive{Storage: member(2).Storage, Broken: map[themis.ShardID]string{"shard-2": "x"}}), want: themis.RefusedUnsafe},
	} {
		t.Run(name, func(t *testing.T) {
			bothStores(t, func(t *testing.T, kv KV) {
				m, v, as := start(t, kv, 2)
				seen := v.Shards["shard-1"]
				if c.change != nil {
					c.change(&seen)
				}
				reign, err := m.Crown(t.Context(), seen, as, crown(t, seen, member(1), "boot-1"))
				if err != nil {
					t.Fatal(err)
				}
				if !reign.InSync(member(2)) { // under SEMI_SYNC it is earned anew
					next, err := reign.AddToISR(member(2))
					if err != nil {
						t.Fatal(err)
					}
					if reign, err = m.ChangeShard(t.Context(), reign, next); err != nil {
						t.Fatal(err)
					}
				}
				without, err := reign.RemoveFromISR(member(2), true)
				if err != nil {
					t.Fatal(err)
				}
				var once sync.Once
				if c.told != nil {
					c.told(t, m, as)
				}
				primary := newMap(t, &Faulty{KV: kv, Before: func(_ context.Context, call Call) (err error) {
					if c.back && call == CallTxn {
						once.Do(func() { err = m.ClearFailed(t.Context(), as, member(2).Node) })
					}
					return err
				}})
				_, err = primary.ChangeShard(t.Context(), reign, without)
				if now := view(t, m).Shards["shard-1"]; themis.CodeOf(err) != c.want || now.InSync(member(2)) != (err != nil) {
					t.Errorf("want %q: %v, in sync %v", c.want, err, now.ISR)
				}
			})
		})
	}
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

// TestPolicyIsAskedForAndAdopted: what is wanted of several shards changes for all or for none, and only their primaries put it in force.
func TestPolicyIsAskedForAndAdopted(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, c := start(t, kv, 2)
		one, err := m.Crown(t.Context(), v.Shards["shard-1"], c, crown(t, v.Shards["shard-1"], member(1), "boot-1"))
		if err != nil {
			t.Fatal(err)
		}
		two := v.Shards["shard-2"]
		ask := func(s cluster.Shard) cluster.Shard {
			next, err := s.Ask(themis.SemiSync, -1)
			if err != nil {
				t.Fatal(err)
			}
			return next
		}
		old := v.Shards["shard-1"]
		if err := m.AskPolicy(t.Context(), []cluster.Shard{two, old}, []cluster.Shard{ask(two), ask(old)}); !errors.Is(err, ErrStale) {
			t.Errorf("one of two from a stale record: %v", err)
		}
		if now := view(t, m).Shards["shard-2"]; now.Want.Mode != themis.Sync {
			t.Errorf("half changed: %+v", now)
		}
		more := ask(one)
		more.Have.Mode = themis.SemiSync
		if err := m.AskPolicy(t.Context(), []cluster.Shard{one}, []cluster.Shard{more}); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("in force by the back door: %v", err)
		}
		if err := m.AskPolicy(t.Context(), []cluster.Shard{one, two}, []cluster.Shard{ask(one), ask(two)}); err != nil {
			t.Fatal(err)
		}
		seen := view(t, m).Shards["shard-1"]
		if seen.Want.Mode != themis.SemiSync || seen.Have.Mode != themis.Sync {
			t.Fatalf("wanted: %+v", seen)
		}
		next, err := seen.Adopt()
		if err != nil {
			t.Fatal(err)
		}
		also := next
		also.ISR = also.ISR[:1]
		if _, err := m.ChangeShard(t.Context(), seen, also); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("the policy and the in-sync set at once: %v", err)
		}
		now, err := m.ChangeShard(t.Context(), seen, next)
		if err != nil || now.Have != now.Want {
			t.Fatal(now, err)
		}
		if _, err := m.ChangeShard(t.Context(), seen, next); !errors.Is(err, ErrStale) {
			t.Errorf("from a stale revision: %v", err)
		}
	})
}
