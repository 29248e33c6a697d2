package node

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// localState is what this node alone knows.
func (n *Node) localState(ctx context.Context) health.NodeState {
	used, free := diskUsed(n.cfg.Node.DataDir)
	expires := n.source.Certificate().NotAfter.UTC()
	out := health.NodeState{
		Node: n.id.Node, Storage: n.id.Storage, Boot: n.boot, Version: n.o.Version, Role: cluster.Role(n.cfg.Node.Role), Pid: os.Getpid(),
		UptimeMs: time.Since(n.began).Milliseconds(), Stopping: n.stopping.Load() != nil, DiskUsed: used, DiskFree: free, DiskFull: n.disk.tells(), DiskSlow: n.disk.syncs.tells(n.disk.dir, time.Now()), Disk: diskName(n.cfg.Node.DataDir), CertExpires: &expires, PlainHTTP: n.cfg.HTTP.PlainLoopback,
		Replicas: []health.LocalReplica{}, Warnings: []string{},
	}
	for _, w := range n.cfg.Warnings() {
		out.Warnings = append(out.Warnings, w.Error())
	}
	if s := n.inForce.Load(); s != nil && s.refused != nil {
		out.Warnings = append(out.Warnings, s.refused.Error())
	}
	v, _ := n.latest()
	all := n.shards.all()
	for _, id := range v.ShardsOn(n.id.Node) {
		if r := all[id]; r != nil {
			out.Replicas = append(out.Replicas, localReplica(r.Status()))
		}
	}
	out.Unused, out.DiskAge = n.unused.list(), n.aging.tells(n.disk.dir)
	if s := n.etcd.Load(); s != nil {
		st := s.Status(ctx)
		c := &health.LocalControl{Leader: st.Leader != 0 && st.Leader == st.ID, Learner: st.Learner, HasQuorum: st.Quorum, DBBytes: st.DBBytes, Revision: int64(v.Revision)}
		if c.Leader {
			c.LeaderID = n.id.Node
		}
		out.Control = c
	}
	if !n.embedded() { // an external etcd answers for itself by renewing this node's lease
		out.Control = &health.LocalControl{HasQuorum: n.reigns(time.Now()), Revision: int64(v.Revision)}
	}
	if h := n.holding.Load(); h != nil {
		out.Holding = *h
	}
	if probed := n.probed.Load(); probed != nil {
		out.Heard = map[themis.NodeID]int64{}
		for id, at := range *probed {
			out.Heard[id] = time.Since(at).Milliseconds()
		}
	}
	if term, at := n.heard.last(); term > 0 {
		out.Controller = &health.ControllerHeard{Term: term, AgeMs: time.Since(at).Milliseconds()}
	}
	return out
}

func localReplica(st replication.Status) health.LocalReplica {
	bytes, docs := st.Store.Bytes, st.Store.Documents
	out := health.LocalReplica{
		Shard: st.Shard, Storage: st.Self.Storage, Role: health.Replica, Epoch: st.Promised, Seq: st.Last.Seq, LastEpoch: st.Last.Epoch, Applied: st.Applied, Commit: st.Commit,
		LSN: st.Last.LSN, Bytes: &bytes, Documents: &docs, Blank: st.Blank, Broken: st.Fault, Damage: st.Damage, Followers: []health.Follower{},
		Rescued: int64(st.Rescued), WALBytes: int64(st.LogBytes), WALSegments: st.Segments,
	}
	if st.CutTail != "" {
		out.CutTail = &health.CutTail{Why: st.CutTail}
	}
	out.Resigned = st.Resigned
	rg := st.Reign
	if rg == nil {
		return out
	}
	out.Role, out.State, out.NotServing, out.Lineage = health.Primary, cluster.InSync, rg.NotServing, st.Lineage
	out.ReadOnly, out.Waiting = rg.ReadOnly, rg.Queued
	if rg.NotWriting != "" && rg.NotServing == "" && rg.ReadOnly == "" {
		out.Stalled = &health.Stall{Since: rg.Stalled, Queued: rg.Queued, Waits: rg.NotWriting}
	}
	for _, c := range rg.Copies {
		out.Followers = append(out.Followers, follower(c, st.Last.Seq))
	}
	return out
}

func follower(c replication.CopyStatus, last themis.Seq) health.Follower {
	f := health.Follower{Member: c.Member, Connected: c.Problem == "", Error: c.Problem}
	switch {
	case c.Install != nil:
		f.State = cluster.Bootstrapping
		total := c.Install.Total
		f.Install = &health.Install{Done: c.Install.Sent, Total: &total, Since: c.Install.Began}
		if left := c.Install.Left(time.Now()); left > 0 {
			eta := left.Milliseconds()
			f.Install.ETAMs = &eta
		}
	case c.InSync:
		f.State = cluster.InSync
	case c.Heard.IsZero() || c.Class == cluster.Async:
		f.State = cluster.CatchingUp
	default:
		f.State = cluster.Lagging
	}
	if c.Heard.IsZero() {
		return f
	}
	seq, applied, lsn := c.Durable, c.Applied, c.LSN
	entries, bytes := int64(max(last, seq)-seq), int64(c.LagBytes) //nolint:gosec // a difference of positions
	lag, age := c.Missing.Milliseconds(), time.Since(c.Heard).Milliseconds()
	f.Seq, f.Applied, f.LSN, f.LagEntries, f.LagBytes, f.LagMs, f.AckAgeMs = &seq, &applied, &lsn, &entries, &bytes, &lag, &age
	return f
}

// gatherer asks every node for what it knows, and remembers the newest answers.
type gatherer struct {
	n *Node

	mu    sync.Mutex
	seen  map[themis.NodeID]health.Observed
	at    time.Time
	lost  time.Time     // the quorum of the control plane; zero: it isn't
	doing chan struct{} // closed when the round under way is over
}

const (
	gatherFresh   = 250 * time.Millisecond // an answer this old is as good as a new one
	gatherTimeout = 800 * time.Millisecond
)

func newGatherer(n *Node) *gatherer {
	return &gatherer{n: n, seen: map[themis.NodeID]health.Observed{}}
}

// states are the newest words of all nodes, not older than gatherFresh where they answer. Callers at the same time share a round.
func (g *gatherer) states(ctx context.Context, v cluster.View) map[themis.NodeID]health.Observed {
	g.mu.Lock()
	for {
		if time.Since(g.at) < gatherFresh {
			break
		}
		if g.doing == nil {
			done := make(chan struct{})
			g.doing = done
			g.mu.Unlock()
			got := g.round(context.WithoutCancel(ctx), v)
			g.mu.Lock()
			g.take(v, got)
			g.at, g.doing = time.Now(), nil
			close(done)
			break
		}
		done := g.doing
		g.mu.Unlock()
		<-done
		g.mu.Lock()
	}
	defer g.mu.Unlock()
	out := map[themis.NodeID]health.Observed{}
	for id, o := range g.seen {
		out[id] = o
	}
	return out
}

func (g *gatherer) take(v cluster.View, got map[themis.NodeID]health.Observed) {
	for id, o := range got {
		if old := g.seen[id]; o.State == nil {
			o.State, o.At = old.State, old.At
			if o.Since = old.Since; o.Since.IsZero() {
				o.Since = time.Now()
			}
		}
		g.seen[id] = o
	}
	for id := range g.seen {
		if _, ok := v.Nodes[id]; !ok {
			delete(g.seen, id)
		}
	}
}

// quorumLost remembers since when the control plane has been seen without a quorum; zero: it has one, or nobody says.
func (g *gatherer) quorumLost(quorum *bool, now time.Time) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case quorum == nil || *quorum:
		g.lost = time.Time{}
	case g.lost.IsZero():
		g.lost = now
	}
	return g.lost
}

func (g *gatherer) round(ctx context.Context, v cluster.View) map[themis.NodeID]health.Observed {
	ctx, cancel := context.WithTimeout(ctx, gatherTimeout)
	defer cancel()
	var mu sync.Mutex
	out := map[themis.NodeID]health.Observed{}
	var eg errgroup.Group
	for id, node := range v.Nodes {
		eg.Go(func() error {
			o := health.Observed{At: time.Now()}
			if st, err := g.one(ctx, id, node); err != nil {
				o = health.Observed{Err: err.Error(), Refused: rpc.IsRefused(err)}
			} else {
				o.State = st
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = o
			return nil
		})
	}
	_ = eg.Wait()
	return out
}

func (g *gatherer) one(ctx context.Context, id themis.NodeID, node cluster.Node) (*health.NodeState, error) {
	if id == g.n.id.Node {
		st := g.n.localState(ctx)
		return &st, nil
	}
	c, err := g.n.pool.Admin(ctx, node.GRPC, id)
	if err != nil {
		return nil, err
	}
	m, err := c.GetLocalState(ctx, &nodev1.GetLocalStateRequest{})
	if err != nil {
		return nil, err
	}
	var st health.NodeState
	if err := json.Unmarshal(m.GetStateJson(), &st); err != nil {
		return nil, themis.Errorf(themis.Internal, "state of %s: %w", id, err)
	}
	return &st, nil
}

// Report is the cluster's health as this node can tell it.
func (n *Node) Report(ctx context.Context) (health.Report, map[themis.NodeID]health.Observed, error) {
	v, ok := n.latest()
	if !ok {
		return health.Report{}, nil, n.noMap()
	}
	states := n.gather.states(ctx, v)
	control := controlState(v, states, n.cfg.Control.Mode)
	control.Since = n.gather.quorumLost(control.Quorum, time.Now())
	return health.Build(v, states, control, time.Now()), states, nil
}

// controlState puts together what the control members say of themselves.
func controlState(v cluster.View, states map[themis.NodeID]health.Observed, mode string) health.ControlState {
	out := health.ControlState{Mode: mode}
	answered, quorum := false, false
	if mode == "external" {
		for _, id := range v.NodeIDs() {
			o := states[id]
			if o.State == nil || o.Err != "" || o.State.Control == nil {
				continue
			}
			answered, quorum = true, quorum || o.State.Control.HasQuorum
			if len(o.State.Holding) > 0 {
				out.NotDone = o.State.Holding
			}
		}
	}
	for _, id := range v.ControlNodes() {
		m := health.ControlMember{Node: id, State: "down"}
		o := states[id]
		if o.State != nil && o.Err == "" && o.State.Control != nil {
			answered = true
			c := o.State.Control
			m.State = "voter"
			if c.Learner {
				m.State = "learner"
			}
			quorum = quorum || c.HasQuorum
			if c.Leader {
				out.Leader = id
			}
			if len(o.State.Holding) > 0 {
				out.NotDone = o.State.Holding
			}
		}
		out.Members = append(out.Members, m)
	}
	if answered {
		out.Quorum = &quorum
	}
	return out
}
