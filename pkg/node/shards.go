package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// shards are the copies on this node.
type shards struct {
	n     *Node
	views chan cluster.View // the newest; older ones are dropped

	mu   sync.Mutex
	open map[themis.ShardID]*running
}

type running struct {
	*replication.Replica
	stop context.CancelFunc
	done chan struct{}
	err  error // once done is closed
}

func newShards(n *Node) *shards {
	return &shards{n: n, views: make(chan cluster.View, 1), open: map[themis.ShardID]*running{}}
}

func (s *shards) learn(v cluster.View) {
	for {
		select {
		case s.views <- v:
			return
		default:
		}
		select {
		case <-s.views:
		default:
		}
	}
}

// get finds the copy of a shard.
func (s *shards) get(id themis.ShardID) (*replication.Replica, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.open[id]; r != nil {
		return r.Replica, nil
	}
	return nil, themis.Errorf(themis.NoPrimary, "%s has no copy of %s", s.n.id.Node, id).In(id)
}

// all are the copies by shard.
func (s *shards) all() map[themis.ShardID]*running {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[themis.ShardID]*running{}
	for id, r := range s.open {
		out[id] = r
	}
	return out
}

// unfit are the copies here that can't lead, and why.
func (s *shards) unfit() map[string]string {
	out := map[string]string{}
	v, _ := s.n.latest()
	all := s.all()
	for _, id := range v.ShardsOn(s.n.id.Node) {
		if r := all[id]; r != nil {
			if why := r.Unfit(); why != "" {
				out[string(id)] = why
			}
		}
	}
	return out
}

// run opens and closes copies as the map says, until ctx ends; then it closes them all.
func (s *shards) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case v := <-s.views:
				s.follow(ctx, g, v)
			}
		}
	})
	return g.Wait()
}

func (s *shards) follow(ctx context.Context, g *errgroup.Group, v cluster.View) {
	failed := map[themis.NodeID]bool{}
	for id := range v.Failed {
		failed[id] = true
	}
	mine := map[themis.ShardID]bool{}
	for id, record := range v.Shards {
		rep, ok := record.Replica(s.n.id.Node)
		if !ok || rep.Storage != s.n.id.Storage {
			continue // not here, or under an older disk: the controller rehouses it first
		}
		mine[id] = true
		r := s.all()[id]
		if r == nil {
			var err error
			if r, err = s.start(ctx, g, record); err != nil {
				s.n.log.Error("copy can't be opened", "shard", id, "err", err)
				s.n.event(cluster.Event{Actor: s.n.actor(), Action: "open_copy", Subject: string(id), Outcome: "failed", Reason: err.Error()})
				continue
			}
		}
		r.Learn(record, failed)
	}
	for id, r := range s.all() {
		if !mine[id] {
			s.n.log.Info("copy is no longer in the map", "shard", id)
			r.stop()
			<-r.done
			s.mu.Lock()
			delete(s.open, id)
			s.mu.Unlock()
		}
	}
}

func (s *shards) start(ctx context.Context, g *errgroup.Group, record cluster.Shard) (*running, error) {
	n := s.n
	rules := replication.DefaultRules()
	if n.cfg.Replication.Timeout > 0 {
		rules.AckTimeout = n.cfg.Replication.Timeout
	}
	id := record.ID
	r, err := replication.Open(replication.Options{
		Dir: n.dir("shards", string(id)), Cluster: n.joined().ID, Shard: id, Self: n.self(), Boot: n.boot,
		Fresh: record.Epoch == 0 && record.InSync(n.self()),
		Log: wal.Options{
			SegmentBytes: themis.Bytes(n.cfg.WAL.SegmentMB) << 20, BatchBytes: themis.Bytes(n.cfg.WAL.BatchKB) << 10, Linger: time.Duration(n.cfg.WAL.LingerUs) * time.Microsecond,
			OnSync: n.metrics.synced,
		},
		Store: store.Options{Cache: n.cache, MemTableBytes: themis.Bytes(n.cfg.Store.MemtableMB) << 20},
		Rules: rules, Transport: NewTransport(n.pool, n.addressOf), Registry: &registry{n: n}, Reigns: n.reigns,
		Event: func(action, outcome, rule, reason string, e themis.Epoch) {
			n.event(cluster.Event{Actor: n.actor(), Action: action, Subject: string(id), Outcome: outcome, Rule: rule, Reason: reason, Epoch: e})
		},
		Logger:  n.log,
		KeepLog: themis.Bytes(n.cfg.WAL.KeepSegments) * themis.Bytes(n.cfg.WAL.SegmentMB) << 20,
	})
	if err != nil {
		return nil, err
	}
	rctx, stop := context.WithCancel(ctx)
	run := &running{Replica: r, stop: stop, done: make(chan struct{})}
	g.Go(func() error {
		defer close(run.done)
		if run.err = r.Run(rctx); run.err != nil {
			n.log.Error("copy is out", "shard", id, "err", run.err) // the node lives on: its other copies are whole
		}
		return nil
	})
	s.mu.Lock()
	s.open[id] = run
	s.mu.Unlock()
	return run, nil
}

func (n *Node) actor() cluster.Actor { return cluster.Actor{Kind: "node", ID: string(n.id.Node)} }

// registry commits what replicas propose.
type registry struct{ n *Node }

// ChangeShard implements replication.Registry.
func (g *registry) ChangeShard(ctx context.Context, seen, next cluster.Shard) (cluster.Shard, error) {
	m := g.n.m.Load()
	if m == nil {
		return cluster.Shard{}, fmt.Errorf("change %s: no control plane", seen.ID)
	}
	return m.ChangeShard(ctx, seen, next)
}
