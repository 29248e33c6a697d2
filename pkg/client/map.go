package client

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Map is the part of the cluster map that clients route by. It never changes.
type Map struct {
	Revision    themis.Revision
	Cluster     string
	ClusterID   themis.ClusterID
	Redundancy  string // NONE or MIRROR; empty: a node of an earlier version doesn't say
	Virtual     int    // points of each shard on the ring that made the first placement; 0: not known
	Members     []cluster.Node
	Shards      []cluster.Shard
	Failed      []cluster.Failed
	Collections []cluster.Collection
	Controller  cluster.Controller
	Settings    cluster.Settings
	Routing     *routing.Table

	nodes  map[themis.NodeID]cluster.Node
	shards map[themis.ShardID]cluster.Shard
}

// wireMap is the JSON of GetMap. Fields that this version doesn't know are passed over.
type wireMap struct {
	Revision    themis.Revision      `json:"revision"`
	Cluster     string               `json:"cluster"`
	ClusterID   themis.ClusterID     `json:"cluster_id"`
	Redundancy  string               `json:"redundancy"`
	Virtual     int                  `json:"virtual_nodes"`
	Members     []cluster.Node       `json:"members"`
	Shards      []cluster.Shard      `json:"shards"`
	Failed      []cluster.Failed     `json:"failed"`
	Collections []cluster.Collection `json:"collections"`
	Controller  cluster.Controller   `json:"controller"`
	Settings    cluster.Settings     `json:"settings"`
	Routing     json.RawMessage      `json:"routing"`
}

// parseMap reads the map_json of GetMap.
func parseMap(b []byte) (*Map, error) {
	var w wireMap
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, themis.Errorf(themis.Internal, "cluster map: %w", err)
	}
	table, err := routing.Decode(w.Routing)
	if err != nil {
		return nil, themis.Errorf(themis.Internal, "cluster map: %w", err)
	}
	m := &Map{
		Revision: w.Revision, Cluster: w.Cluster, ClusterID: w.ClusterID, Redundancy: w.Redundancy, Virtual: w.Virtual, Members: w.Members, Shards: w.Shards, Failed: w.Failed,
		Collections: w.Collections, Controller: w.Controller, Settings: w.Settings, Routing: table,
		nodes: map[themis.NodeID]cluster.Node{}, shards: map[themis.ShardID]cluster.Shard{},
	}
	for _, n := range m.Members {
		m.nodes[n.ID] = n
	}
	for _, s := range m.Shards {
		m.shards[s.ID] = s
	}
	return m, nil
}

// Node finds a member.
func (m *Map) Node(id themis.NodeID) (cluster.Node, bool) { n, ok := m.nodes[id]; return n, ok }

// Shard finds a shard.
func (m *Map) Shard(id themis.ShardID) (cluster.Shard, bool) { s, ok := m.shards[id]; return s, ok }

// ShardOf is where a document with that shard key belongs.
func (m *Map) ShardOf(shardKey string) themis.ShardID { return m.Routing.ShardOfKey(shardKey) }

// Map is the newest map that this client knows; the first call asks for one.
func (c *Client) Map(ctx context.Context) (*Map, error) {
	if m := c.table.Load(); m != nil {
		return m, nil
	}
	ctx, cancel := c.limited(ctx)
	defer cancel()
	return c.refresh(ctx)
}

// Refresh asks for the map now.
func (c *Client) Refresh(ctx context.Context) (*Map, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	return c.refresh(ctx)
}

// keeper is the one goroutine that asks for the map, and those who wait for it.
type keeper struct {
	kick chan struct{} // somebody wants it now

	mu    sync.Mutex
	round uint64        // finished ones
	begun uint64        // begun ones
	err   error         // of the last round
	done  chan struct{} // closed when a round ends
}

func (k *keeper) init() { k.kick, k.done = make(chan struct{}, 1), make(chan struct{}) }

// mapSpacing is the least time between two questions for the map.
const mapSpacing = 20 * time.Millisecond

// moveOn is for how long one node is asked for a map that it does not have: it may be cut off, and never have it.
const moveOn = 500 * time.Millisecond

// keep asks for the map: at once when it is wanted, and from the first time on every Refresh.
func (c *Client) keep() {
	var tick <-chan time.Time
	var since, last time.Time // when a newer map was first wanted that has not come, and last; zero: it is not wanted
	for turn := 0; ; {
		select {
		case <-c.life.Done():
			return
		case <-c.keeper.kick:
			if last = time.Now(); since.IsZero() {
				since = last
			}
		case <-tick:
			if time.Since(last) >= moveOn {
				since = time.Time{}
			}
		}
		c.keeper.begin()
		before := c.table.Load()
		err := c.fetch()
		c.keeper.end(err)
		if c.table.Load() != before {
			since = time.Time{}
		} else if !since.IsZero() && time.Since(since) >= moveOn {
			all := c.known()
			c.alive.Store(&all[turn%len(all)])
			turn, since = turn+1, time.Now()
		}
		tick = time.After(c.o.Refresh)
		select {
		case <-c.life.Done():
			return
		case <-time.After(mapSpacing):
		}
	}
}

func (k *keeper) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.begun++
}

func (k *keeper) end(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.round, k.err = k.begun, err
	close(k.done)
	k.done = make(chan struct{})
}

// refresh waits for a map that was asked for after this call.
func (c *Client) refresh(ctx context.Context) (*Map, error) {
	k := &c.keeper
	k.mu.Lock()
	want := k.begun + 1
	k.mu.Unlock()
	for {
		c.want()
		k.mu.Lock()
		round, err, done := k.round, k.err, k.done
		k.mu.Unlock()
		if round >= want {
			if m := c.table.Load(); m != nil && err == nil {
				return m, nil
			}
			return nil, err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, themis.Errorf(themis.Deadline, "the cluster map was not had in time: %w", ctx.Err())
		case <-c.life.Done():
			return nil, errClosed
		}
	}
}

func (c *Client) fetch() error {
	ctx, cancel := context.WithTimeout(c.life, findWithin)
	defer cancel()
	var known uint64
	old := c.table.Load()
	if old != nil {
		known = uint64(old.Revision) //nolint:gosec // positive
	}
	got, err := ask(ctx, c, func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.GetMapResponse, error) {
		return a.GetMap(ctx, &nodev1.GetMapRequest{KnownRevision: known})
	})
	if err != nil || len(got.GetMapJson()) == 0 {
		return err
	}
	m, err := parseMap(got.GetMapJson())
	if err != nil {
		return err
	}
	if old != nil && m.ClusterID == old.ClusterID && m.Revision <= old.Revision {
		return nil
	}
	c.table.Store(m)
	c.reigns.follow(m)
	return nil
}

// reigns holds a context for each shard's present reign, so that attempts at a primary end with it.
type reigns struct {
	mu      sync.Mutex
	current map[themis.ShardID]*reign
}

type reign struct {
	node  themis.NodeID
	epoch themis.Epoch
	ctx   context.Context //nolint:containedctx // it ends with the reign
	end   context.CancelFunc
}

// follow ends the reigns that the map no longer names.
func (r *reigns) follow(m *Map) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, old := range r.current {
		if s, ok := m.shards[id]; !ok || s.Primary.Node != old.node || s.Epoch != old.epoch {
			old.end()
			delete(r.current, id)
		}
	}
}

// of is the context of the reign that m names; one that is over already has ended.
func (r *reigns) of(s cluster.Shard) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		r.current = map[themis.ShardID]*reign{}
	}
	if have := r.current[s.ID]; have != nil {
		if have.epoch == s.Epoch && have.node == s.Primary.Node {
			return have.ctx
		}
		if have.epoch > s.Epoch {
			over, end := context.WithCancel(context.Background())
			end()
			return over
		}
		have.end()
	}
	now := &reign{node: s.Primary.Node, epoch: s.Epoch}
	now.ctx, now.end = context.WithCancel(context.Background())
	r.current[s.ID] = now
	return now.ctx
}

func (r *reigns) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, x := range r.current {
		x.end()
		delete(r.current, id)
	}
}

// want asks for the map without waiting for it.
func (c *Client) want() {
	select {
	case c.keeper.kick <- struct{}{}:
	default: // it has been wanted already
	}
}
