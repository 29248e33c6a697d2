package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// shards are the copies on this node.
type shards struct {
	n     *Node
	views chan cluster.View // the newest; older ones are dropped

	changing sync.Mutex // held while copies are opened and closed, and while the directory of an unused one is taken away

	mu    sync.Mutex
	open  map[themis.ShardID]*running
	tried map[themis.ShardID]time.Time // when a copy was last opened, or could not be
	broke broadcast                    // a copy stopped for good, or runs again
}

type running struct {
	*replication.Replica
	stop context.CancelFunc
	done chan struct{}
}

const reopenAfter = 2 * time.Second // a copy that stopped, or could not be opened, is tried again no sooner

func newShards(n *Node) *shards {
	return &shards{n: n, views: make(chan cluster.View, 1), open: map[themis.ShardID]*running{}, tried: map[themis.ShardID]time.Time{}}
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

// lastOpened is when the copy of a shard was last opened by this process, or could not be; zero: never.
func (s *shards) lastOpened(id themis.ShardID) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tried[id]
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

// fitness is what the copies here say of themselves as leaders, by shard.
func (s *shards) fitness(of func(*replication.Replica) replication.Fitness) (unfit map[themis.ShardID]string, resigned map[themis.ShardID]themis.Epoch) {
	unfit, resigned = map[themis.ShardID]string{}, map[themis.ShardID]themis.Epoch{}
	v, _ := s.n.latest()
	all := s.all()
	for _, id := range v.ShardsOn(s.n.id.Node) {
		r := all[id]
		if r == nil {
			continue
		}
		f := of(r.Replica)
		if f.Unfit != "" {
			unfit[id] = f.Unfit
		}
		if f.Resigned > 0 {
			resigned[id] = f.Resigned
		}
	}
	return unfit, resigned
}

// broken are the copies here that stopped for good, and why: those that this process will not open again.
func (s *shards) broken() map[themis.ShardID]string {
	out := map[themis.ShardID]string{}
	for id, r := range s.all() {
		if err := r.Fault(); err != nil && !mends(err) {
			out[id] = err.Error()
		}
	}
	return out
}

// sizes is how much of the disk each copy here takes.
func (s *shards) sizes() map[themis.ShardID]themis.Bytes {
	out := map[themis.ShardID]themis.Bytes{}
	for id, r := range s.all() {
		out[id] = r.DiskBytes()
	}
	return out
}

// marks are how far the copies here have come.
func (s *shards) marks() map[themis.ShardID]replication.Mark {
	out := map[themis.ShardID]replication.Mark{}
	for id, r := range s.all() {
		out[id] = r.Mark()
	}
	return out
}

// mends says whether a copy with that fault may be opened again by this process: one that found no room, since nothing it had is in
// doubt, and one that found damage, since it is blank by then and its disk is not known to fail. A failed sync is final, and so is
// a read that the disk refused.
func mends(fault error) bool {
	return wal.NoRoom(fault) || themis.CodeOf(fault) == themis.Corrupt && !errors.Is(fault, syscall.EIO)
}

// run opens and closes copies as the map says, until ctx ends; then it closes them all.
func (s *shards) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		tick := time.NewTicker(reopenAfter / 4)
		defer tick.Stop()
		var v cluster.View
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case v = <-s.views:
			case now := <-tick.C:
				if !s.mend(v, now) {
					continue
				}
			}
			s.changing.Lock()
			s.follow(ctx, g, v)
			s.changing.Unlock()
		}
	})
	return g.Wait()
}

// mend gives up copies that have stopped and may be opened again, and says whether there is one to open.
func (s *shards) mend(v cluster.View, now time.Time) bool {
	found := false
	all := s.all()
	for _, id := range v.ShardsOn(s.n.id.Node) {
		s.mu.Lock()
		late := now.Sub(s.tried[id]) >= reopenAfter
		s.mu.Unlock()
		r := all[id]
		if !late || s.n.disk.full() {
			continue
		}
		if r == nil {
			found = true
			continue
		}
		if fault := r.Fault(); fault == nil || !mends(fault) {
			continue
		}
		select {
		case <-r.done:
			s.n.log.Info("copy is opened again", "shard", id, "after", r.Fault())
			s.mu.Lock()
			delete(s.open, id)
			s.mu.Unlock()
			found = true
		default:
		}
	}
	return found
}

// quit prepares all copies for the end of the process.
func (s *shards) quit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quitWithin)
	defer cancel()
	var all sync.WaitGroup
	for _, r := range s.all() {
		all.Go(func() { r.Quit(ctx) })
	}
	all.Wait()
}

// lost are the nodes whose copy of the shard is gone for its primary: they are FAILED, or said themselves that it has stopped.
func lost(v cluster.View, record cluster.Shard) map[themis.NodeID]bool {
	out := map[themis.NodeID]bool{}
	for id := range v.Failed {
		out[id] = true
	}
	for _, rep := range record.Replicas {
		if v.Broken(record.ID, rep.Member) != "" && guard.On(guard.BrokenLeaves) {
			out[rep.Node] = true
		}
	}
	return out
}

func (s *shards) follow(ctx context.Context, g *errgroup.Group, v cluster.View) {
	full := map[themis.NodeID]bool{}
	for id, a := range v.Alive {
		if a.DiskFull {
			full[id] = true
		}
	}
	stopping, mine := v.Stopping(), map[themis.ShardID]bool{}
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
				s.broke.wake()
				s.n.log.Error("copy can't be opened", "shard", id, "err", err)
				s.n.event(cluster.Event{Actor: s.n.actor(), Action: "open_copy", Subject: string(id), Outcome: "failed", Reason: err.Error()})
				continue
			}
		}
		r.Stopping(stopping)
		r.Learn(record, lost(v, record), full)
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
	id := record.ID
	s.mu.Lock()
	s.tried[id] = time.Now()
	s.mu.Unlock()
	own, _ := record.Replica(n.id.Node)
	r, err := replication.Open(replication.Options{
		Dir: n.dir("shards", string(id)), Cluster: n.joined().ID, Shard: id, Self: n.self(), Boot: n.boot,
		Fresh: record.Epoch == 0 && record.InSync(n.self()), Counted: record.Epoch > 0 && own.Class == cluster.Voter, Epoch: record.Epoch, Room: n.disk.Room,
		Log: wal.Options{
			SegmentBytes: themis.Bytes(n.cfg.WAL.SegmentMB) << 20, BatchBytes: themis.Bytes(n.cfg.WAL.BatchKB) << 10, Linger: time.Duration(n.cfg.WAL.LingerUs) * time.Microsecond,
			OnSync: func(took time.Duration, entries, bytes int) {
				n.metrics.synced(took, entries, bytes)
				n.disk.syncs.took(took, time.Now())
			},
		},
		Store: store.Options{Cache: n.cache, MemTableBytes: themis.Bytes(n.cfg.Store.MemtableMB) << 20},
		Rules: n.rules, Transport: NewTransport(n.pool, n.addressOf), Registry: &registry{n: n}, Reigns: n.reigns,
		Event: func(action, outcome, rule, reason string, e themis.Epoch) {
			n.event(cluster.Event{Actor: n.actor(), Action: action, Subject: string(id), Outcome: outcome, Rule: rule, Reason: reason, Epoch: e})
		},
		Logger: n.log,
		KeepLog: func() themis.Bytes {
			return themis.Bytes(n.conf().WAL.KeepSegments) * themis.Bytes(n.cfg.WAL.SegmentMB) << 20
		},
	})
	if err != nil {
		return nil, err
	}
	rctx, stop := context.WithCancel(ctx)
	run := &running{Replica: r, stop: stop, done: make(chan struct{})}
	g.Go(func() error {
		defer close(run.done)
		if err := r.Run(rctx); err != nil {
			n.log.Error("copy is out", "shard", id, "err", err) // the node lives on: its other copies are whole
		}
		s.broke.wake()
		return nil
	})
	s.mu.Lock()
	s.open[id] = run
	s.mu.Unlock()
	s.broke.wake()
	return run, nil
}

// rules are the numbers that reigns on this node go by now.
func (n *Node) rules() replication.Rules {
	r := replication.DefaultRules()
	if t := n.conf().Replication.Timeout; t > 0 {
		r.AckTimeout = t
	}
	return r
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
