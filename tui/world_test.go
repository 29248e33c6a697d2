package tui

import (
	"fmt"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

func member(node themis.NodeID) cluster.Member {
	return cluster.Member{Node: node, Storage: "disk-of-" + themis.StorageID(node)}
}

// world is the input of health.Build while a test prepares it.
type world struct {
	view    cluster.View
	states  map[themis.NodeID]health.Observed
	control health.ControlState
	now     time.Time
}

func (w *world) report() health.Report { return health.Build(w.view, w.states, w.control, w.now) }

func (w *world) state(node themis.NodeID) *health.NodeState { return w.states[node].State }

func (w *world) local(node themis.NodeID, shard themis.ShardID) *health.LocalReplica {
	for i, l := range w.state(node).Replicas {
		if l.Shard == shard {
			return &w.state(node).Replicas[i]
		}
	}
	return nil
}

// empty is three nodes that have just become a cluster: nothing is in it.
func emptyWorld() *world {
	w := &world{
		view: cluster.View{
			Revision: 12, Meta: cluster.Meta{ID: "c", Name: "demo"}, Settings: cluster.Settings{Version: 1},
			Nodes: map[themis.NodeID]cluster.Node{}, Alive: map[themis.NodeID]cluster.Alive{}, Failed: map[themis.NodeID]cluster.Failed{},
			Shards: map[themis.ShardID]cluster.Shard{}, Controller: cluster.Controller{Node: "node-1", Term: 1},
		},
		states:  map[themis.NodeID]health.Observed{},
		control: health.ControlState{Mode: "embedded", Leader: "node-2", Quorum: ptr(true)},
		now:     noon,
	}
	for i, id := range []themis.NodeID{"node-1", "node-2", "node-3"} {
		m := member(id)
		used := 0.38 + 0.02*float64(i)
		w.view.Nodes[id] = cluster.Node{ID: id, Storage: m.Storage, Role: cluster.RoleActive, GRPC: fmt.Sprintf("10.0.0.%d:50051", i+1), Datacenter: "fra", Rack: fmt.Sprintf("r%d", i+1)}
		w.view.Alive[id] = cluster.Alive{Node: id, Storage: m.Storage, Boot: "b", Version: "0.1.0", DiskUsed: &used}
		w.control.Members = append(w.control.Members, health.ControlMember{Node: id, State: health.Voter})
		w.states[id] = health.Observed{At: noon.Add(-120 * time.Millisecond), State: &health.NodeState{
			Node: id, Storage: m.Storage, Boot: "b", Version: "0.1.0", Role: cluster.RoleActive, UptimeMs: 7_830_000, DiskUsed: &used, PlainHTTP: "status",
		}}
	}
	return w
}

// healthyWorld has four shards of two copies.
func healthyWorld() *world {
	w := emptyWorld()
	table, err := routing.First(4, 0)
	if err != nil {
		panic(err)
	}
	w.view.Routing = table
	for i, pair := range [][2]themis.NodeID{{"node-1", "node-2"}, {"node-2", "node-3"}, {"node-3", "node-1"}, {"node-1", "node-3"}} {
		w.shard(themis.ShardID(fmt.Sprintf("shard-%d", i+1)), pair[0], pair[1], int64(i))
	}
	return w
}

func (w *world) shard(id themis.ShardID, primary, follower themis.NodeID, i int64) {
	p := cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}
	w.view.Shards[id] = cluster.Shard{
		ID: id, Epoch: 3, Primary: member(primary), Boot: "b", Have: p, Want: p,
		Replicas: []cluster.Replica{{Member: member(follower), Class: cluster.Voter}, {Member: member(primary), Class: cluster.Voter}},
		ISR:      []cluster.Member{member(primary), member(follower)},
	}
	seq, lsn := themis.Seq(18_204+7*i), themis.LSN(0x5A2F3C40+4096*i) //nolint:gosec // small
	for _, node := range []themis.NodeID{primary, follower} {
		l := health.LocalReplica{
			Shard: id, Storage: member(node).Storage, Role: health.Replica, State: cluster.InSync, Epoch: 3, Seq: seq, Applied: seq, Commit: seq, LSN: lsn,
			Bytes: ptr(themis.Bytes(2_204_000 + 31_000*i)), Documents: ptr(1_254 + 11*i),
		}
		if node == primary {
			l.Role = health.Primary
			l.Followers = []health.Follower{{
				Member: member(follower), State: cluster.InSync, Connected: true, Seq: &seq, Applied: &seq, LSN: &lsn,
				LagEntries: ptr(int64(0)), LagBytes: ptr(int64(0)), LagMs: ptr(2 + i), AckAgeMs: ptr(int64(30)),
			}}
		}
		w.state(node).Replicas = append(w.state(node).Replicas, l)
	}
}

// fail lets node die.
func (w *world) fail(node themis.NodeID, since time.Duration) {
	w.view.Failed[node] = cluster.Failed{Node: node, Since: w.now.Add(-since), Why: "connection refused, silent for 1.2 s"}
	delete(w.view.Alive, node)
	o := w.states[node]
	o.At, o.Err, o.Since = w.now.Add(-since-2*time.Second), "connection refused", w.now.Add(-since-time.Second)
	w.states[node] = o
	for _, o := range w.states {
		for _, l := range o.State.Replicas {
			for i := range l.Followers {
				if l.Followers[i].Node == node {
					l.Followers[i].AckAgeMs = ptr((since + 2*time.Second).Milliseconds())
				}
			}
		}
	}
	for i := range w.control.Members {
		if w.control.Members[i].Node == node {
			w.control.Members[i].State = health.Down
		}
	}
}

func (w *world) edit(shard themis.ShardID, change func(*cluster.Shard)) {
	s := w.view.Shards[shard]
	change(&s)
	w.view.Shards[shard] = s
}

// degradedWorld lost node-3: shard-3 failed over to node-1, a copy of shard-2 is being built there, shard-4 lags.
func degradedWorld() *world {
	w := healthyWorld()
	w.fail("node-3", 42*time.Second)
	dead := member("node-3")
	w.edit("shard-2", func(s *cluster.Shard) {
		s.ISR = []cluster.Member{member("node-2")}
		s.Replicas = append(s.Replicas, cluster.Replica{Member: member("node-1"), Class: cluster.Async, Replaces: &dead})
	})
	l := w.local("node-2", "shard-2")
	l.Stalled = &health.Stall{Since: noon.Add(-40 * time.Second), Queued: 5}
	l.Followers = append(l.Followers, health.Follower{
		Member: member("node-1"), State: cluster.Bootstrapping, Connected: true,
		Install: &health.Install{Done: 771_400, Total: ptr(themis.Bytes(2_204_000)), ETAMs: ptr(int64(28_000)), Since: noon.Add(-15 * time.Second)},
	})
	w.edit("shard-3", func(s *cluster.Shard) {
		s.Epoch, s.Primary, s.ISR = 4, member("node-1"), []cluster.Member{member("node-1")}
	})
	own := w.local("node-1", "shard-3")
	own.Role, own.Epoch = health.Primary, 4
	w.edit("shard-4", func(s *cluster.Shard) { s.ISR = []cluster.Member{member("node-1")} })
	f := &w.local("node-1", "shard-4").Followers[0]
	f.State, f.Connected, f.AckAgeMs, f.LagMs = cluster.Lagging, false, ptr(int64(44_000)), nil
	f = &w.local("node-1", "shard-1").Followers[0]
	f.LagMs, f.LagEntries, f.LagBytes = ptr(int64(640)), ptr(int64(71)), ptr(int64(88_000))
	return w
}

// criticalWorld lost two of three nodes.
func criticalWorld() *world {
	w := healthyWorld()
	w.fail("node-2", 95*time.Second)
	w.fail("node-3", 42*time.Second)
	w.control.Quorum, w.control.Leader, w.control.Since = ptr(false), "", noon.Add(-42*time.Second)
	w.view.Alive = map[themis.NodeID]cluster.Alive{"node-1": w.view.Alive["node-1"]}
	return w
}

// asFrame makes the world a frame of the stream.
func (w *world) asFrame(events ...cluster.Event) health.Frame {
	return health.Frame{HLC: themis.HLCAt(w.now), Report: w.report(), Events: events}
}

func trail() []cluster.Event {
	at := func(ago time.Duration, n int, e cluster.Event) cluster.Event {
		e.Time = noon.Add(-ago)
		e.HLC = themis.HLCAt(e.Time)
		e.ID = fmt.Sprintf("%s-node-1-%d", e.HLC, n)
		return e
	}
	return []cluster.Event{
		at(2*time.Hour, 1, cluster.Event{Action: "cluster_init", Subject: "demo", Outcome: "done"}),
		at(42*time.Second, 2, cluster.Event{Action: "declare_failed", Subject: "node-3", Outcome: "done", Reason: "connection refused, silent for 1.2 s"}),
		at(41*time.Second, 3, cluster.Event{Action: "elect", Subject: "shard-3", Outcome: "done", Epoch: 4, Reason: "node-1 has all that was acknowledged (epoch 3, seq 18218)"}),
		at(40*time.Second, 4, cluster.Event{Action: "add_copy", Subject: "shard-4", Outcome: "not_done", Reason: "no free node: node-1 has a copy, node-3 is FAILED"}),
	}
}

// pastLag is five minutes in which node-2's copy of shard-1 fell behind twice.
func pastLag(now health.Report) *History {
	h, w := &History{}, healthyWorld()
	for i := range 150 {
		ms := int64(3 + i%5)
		switch {
		case i > 40 && i < 70:
			ms = int64(8 * (i - 40))
		case i > 110:
			ms = int64(20 * (i - 110))
		}
		w.local("node-1", "shard-1").Followers[0].LagMs = &ms
		r := w.report()
		if i >= 129 && now.Status != health.Healthy { // the last 42 s
			r = now
		}
		r.Time = noon.Add(-time.Duration(150-i) * 2 * time.Second)
		h.Add(r)
	}
	h.Add(now)
	return h
}

// scenes are the five that every screen is looked at in.
func scenes() map[string]Scene {
	scene := func(w *world, events []cluster.Event) Scene {
		f := w.asFrame(events...)
		return Scene{}.with(f, pastLag(f.Report))
	}
	gone := scene(healthyWorld(), trail()[:1])
	gone.Age, gone.Lost, gone.Problem = 14*time.Second, 12*time.Second, "none of 3 endpoints answers: 10.0.0.1:50051: connection refused; 10.0.0.2:50051: connection refused"
	return map[string]Scene{
		"empty":        Scene{}.with(emptyWorld().asFrame(), &History{}),
		"healthy":      scene(healthyWorld(), trail()[:1]),
		"degraded":     scene(degradedWorld(), trail()),
		"critical":     scene(criticalWorld(), trail()),
		"disconnected": gone,
	}
}
