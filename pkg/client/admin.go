package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/recording"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Problem is an error as `-o json` shows it.
type Problem = rpc.Problem

// ProblemOf describes err, which is not nil.
func ProblemOf(err error) Problem { return rpc.ProblemOf(err, "") }

// Report is the state of the cluster as one node tells it. Every number is the server's, so an answer of a newer version is read
// as far as this one knows it.
func (c *Client) Report(ctx context.Context) (health.Report, error) {
	f, err := c.Frame(ctx)
	return f.Report, err
}

// Frame is Report with all that came along.
func (c *Client) Frame(ctx context.Context) (health.Frame, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	got, err := ask(ctx, c, func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.StateFrame, error) {
		return a.GetState(ctx, &nodev1.GetStateRequest{})
	})
	if err != nil {
		return health.Frame{}, err
	}
	return recording.Frame(got)
}

// atNear is how long before the asked moment a frame may be that no other node's is waited for: nodes record one a second.
const atNear = 2 * time.Second

// At is the state at t, as the node recorded it whose last frame not after t is the newest; the frame's HLC tells how long before.
// NOT_FOUND: nobody's recording goes back that far.
func (c *Client) At(ctx context.Context, t themis.HLC) (health.Frame, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	if _, err := c.Frame(ctx); err != nil { // finds a living node
		return health.Frame{}, err
	}
	places := c.places()
	answers := make(chan answer[*nodev1.StateFrame], len(places))
	for _, p := range places {
		c.spawn(func() {
			a := answer[*nodev1.StateFrame]{from: p}
			conn, err := c.pool.Admin(ctx, p.addr, p.node)
			if err == nil {
				a.value, err = conn.GetState(ctx, &nodev1.GetStateRequest{AtHlc: t.String()})
			}
			a.err = err
			answers <- a
		})
	}
	var best health.Frame
	var failed error
	for range places {
		a := <-answers
		if a.err == nil {
			var f health.Frame
			if f, a.err = recording.Frame(a.value); a.err == nil && f.HLC > best.HLC && f.HLC <= t { // an older node tells the present
				best = f
			}
		}
		if a.err != nil && (failed == nil || themis.CodeOf(a.err) == themis.NotFound) {
			failed = a.err
		}
		if best.HLC > 0 && t.Time().Sub(best.HLC.Time()) <= atNear {
			break
		}
	}
	if best.HLC > 0 {
		return best, nil
	}
	return best, failed
}

const (
	rewatchPause = 500 * time.Millisecond
	silentFor    = 5 * time.Second // frames come every second; after this a stream counts as dead
)

// Watch yields a frame at least once a second, and the events behind from (0: only new ones), until ctx ends or the loop is left.
// A lost connection is yielded as an error and made again, also to another node; the loop goes on.
func (c *Client) Watch(ctx context.Context, from themis.HLC) iter.Seq2[health.Frame, error] {
	return func(yield func(health.Frame, error) bool) {
		w := watcher{begin: from}
		for ctx.Err() == nil && c.life.Err() == nil {
			if !c.watchOnce(ctx, &w, yield) {
				return
			}
			select {
			case <-ctx.Done():
			case <-c.life.Done():
			case <-time.After(rewatchPause):
			}
		}
	}
}

// watcher is what one Watch was told over all its streams.
type watcher struct {
	begin themis.HLC // where it began; 0: not yet, with what is new
	last  themis.HLC // of the last frame
	trail cluster.Trail
}

// from is the place from which the next stream tells events: those that are written late come again.
func (w *watcher) from() themis.HLC { return max(w.begin, cluster.TrailFrom(w.last)) }

// news leaves out of a frame what an earlier one had.
func (w *watcher) news(f *health.Frame) {
	if w.begin == 0 {
		w.begin = f.HLC
	}
	w.last = max(w.last, f.HLC)
	f.Events = w.trail.News(f.Events)
	w.trail.Forget(cluster.TrailFrom(w.from()))
}

// watchOnce follows one node, and answers whether the loop goes on.
func (c *Client) watchOnce(ctx context.Context, w *watcher, yield func(health.Frame, error) bool) bool {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silentFor, func() { cancel(errSilent) })
	defer silence.Stop()
	fail := func(err error) bool {
		if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errSilent) {
			return true // the loop's condition ends it
		}
		return yield(health.Frame{}, err)
	}
	start := func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.DescribeResponse, error) {
		return a.Describe(ctx, &nodev1.DescribeRequest{})
	}
	if _, err := ask(ctx, c, start); err != nil { // finds a living node
		return fail(err)
	}
	p := *c.alive.Load()
	conn, err := c.pool.Admin(ctx, p.addr, p.node)
	if err != nil {
		return fail(err)
	}
	req := &nodev1.WatchStateRequest{}
	if from := w.from(); from > 0 {
		req.FromHlc = from.String()
	}
	stream, err := conn.WatchState(ctx, req)
	if err != nil {
		return fail(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return fail(err)
		}
		silence.Reset(silentFor)
		f, err := recording.Frame(m)
		if err != nil {
			return fail(err)
		}
		w.news(&f)
		if !yield(f, nil) {
			return false
		}
	}
}

var errSilent = themis.Errorf(themis.Unreachable, "no frame for %s", silentFor)

// Events is a part of the audit trail, oldest first: from ≤ HLC < to (0: until now), the newest limit of them (0: all).
func (c *Client) Events(ctx context.Context, from, to themis.HLC, limit int) ([]cluster.Event, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	req := &nodev1.ListEventsRequest{Limit: uint64(max(0, limit))} //nolint:gosec // not negative
	if from > 0 {
		req.FromHlc = from.String()
	}
	if to > 0 {
		req.ToHlc = to.String()
	}
	got, err := ask(ctx, c, func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.ListEventsResponse, error) {
		return a.ListEvents(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	return recording.Events(got.GetEventsJson())
}

// Description is how a node describes itself.
type Description struct {
	Node        themis.NodeID    `json:"node_id"`
	Storage     themis.StorageID `json:"storage_id"`
	Boot        themis.BootID    `json:"boot_id"`
	ClusterID   themis.ClusterID `json:"cluster_id"` // empty: it belongs to none
	Cluster     string           `json:"cluster"`
	Version     string           `json:"version"`
	GRPC        string           `json:"grpc_addr"`
	HTTP        string           `json:"http_addr"`
	Metrics     string           `json:"metrics_addr"`
	ControlPeer string           `json:"control_peer_url"`
	Control     string           `json:"control_client_url"`
	Role        cluster.Role     `json:"role"`
	Region      string           `json:"region"`
	Datacenter  string           `json:"datacenter"`
	Rack        string           `json:"rack"`
	Pid         int64            `json:"pid"`
	PublicKey   []byte           `json:"-"`
	Founding    []FoundingValue  `json:"founding"`
}

// FoundingValue is a setting that is fixed when a cluster is made, as a node's own configuration has it.
type FoundingValue struct {
	Key   string `json:"key"`
	Value string `json:"value"` // lists as JSON
	From  string `json:"from"`  // file and line, or the variable
}

// Describe asks the node at that address who it is, whether it belongs to a cluster or not.
func (c *Client) Describe(ctx context.Context, addr string) (Description, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	a, err := c.pool.Admin(ctx, addr, "")
	if err != nil {
		return Description{}, err
	}
	d, err := a.Describe(ctx, &nodev1.DescribeRequest{})
	if err != nil {
		return Description{}, err
	}
	out := Description{
		Node: themis.NodeID(d.GetNodeId()), Storage: themis.StorageID(d.GetStorageId()), Boot: themis.BootID(d.GetBootId()),
		ClusterID: themis.ClusterID(d.GetClusterId()), Cluster: d.GetClusterName(), Version: d.GetVersion(),
		GRPC: d.GetGrpcAddr(), HTTP: d.GetHttpAddr(), Metrics: d.GetMetricsAddr(), ControlPeer: d.GetControlPeerUrl(), Control: d.GetControlClientUrl(),
		Role: cluster.Role(d.GetRole()), Region: d.GetRegion(), Datacenter: d.GetDatacenter(), Rack: d.GetRack(), Pid: d.GetPid(), PublicKey: d.GetPublicKey(),
		Founding: []FoundingValue{},
	}
	for _, v := range d.GetFounding() {
		out.Founding = append(out.Founding, FoundingValue{v.GetKey(), v.GetValue(), v.GetFrom()})
	}
	return out, nil
}

// change sends something that changes the cluster to one node after the other, as long as it surely did not arrive.
func change[T any](ctx context.Context, c *Client, call func(context.Context, nodev1.AdminServiceClient) (T, error)) (T, error) {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	var zero T
	var failed []answer[T]
	places := c.places()
	for _, p := range places {
		a, err := c.pool.Admin(ctx, p.addr, p.node)
		var got T
		if err == nil {
			got, err = call(ctx, a)
		}
		if err == nil {
			c.alive.Store(&p)
			return got, nil
		}
		if code := themis.CodeOf(err); code != themis.Unreachable && code != themis.Unauthenticated && code != themis.NoPrimary || ctx.Err() != nil {
			return zero, err
		}
		failed = append(failed, answer[T]{from: p, err: err})
	}
	return zero, nobody(places, failed, nil)
}

// Applied is what became of a settings file.
type Applied struct {
	Version uint64          // of the settings that are in force now
	Changes json.RawMessage // config.Change, a list
	Applied bool            // false: a dry run, or nothing to change
}

// ApplyConfig validates a settings file, compares it with what is in force and, unless dryRun, applies it. name is the file's, for
// messages. A file with a fault changes nothing.
func (c *Client) ApplyConfig(ctx context.Context, name string, yaml []byte, dryRun bool) (Applied, error) {
	got, err := change(ctx, c, func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.ApplyConfigResponse, error) {
		return a.ApplyConfig(ctx, &nodev1.ApplyConfigRequest{Name: name, Yaml: yaml, DryRun: dryRun})
	})
	if err != nil {
		return Applied{}, err
	}
	return Applied{got.GetVersion(), got.GetChangesJson(), got.GetApplied()}, nil
}

// Act runs one administrative verb with its arguments, and reads its answer into result, unless that is nil.
func (c *Client) Act(ctx context.Context, verb string, args any, dryRun bool, result any) error {
	b, err := json.Marshal(args)
	if err != nil {
		return themis.Errorf(themis.Internal, "%s: %w", verb, err)
	}
	got, err := change(ctx, c, func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.ActResponse, error) {
		return a.Act(ctx, &nodev1.ActRequest{Verb: verb, ArgsJson: b, DryRun: dryRun})
	})
	if err != nil || result == nil {
		return err
	}
	if err := json.Unmarshal(got.GetResultJson(), result); err != nil {
		return themis.Errorf(themis.Internal, "answer of %s: %w", verb, err)
	}
	return nil
}

// InitRequest is what a new cluster should be.
type InitRequest struct {
	Name         string                         `json:"name"`
	Nodes        []string                       `json:"nodes"` // gRPC addresses of nodes that run and belong to no cluster
	Shards       int                            `json:"shards"`
	RF           int                            `json:"replication_factor"`
	K            int                            `json:"min_sync_replicas"`
	ControlNodes int                            `json:"control_nodes"` // 1, 3 or 5; 0: 3 where there are 3 nodes, else 1
	Redundancy   string                         `json:"redundancy"`    // MIRROR, NONE
	Mode         themis.Mode                    `json:"mode"`          // of every shard that Modes doesn't name
	Modes        map[themis.ShardID]themis.Mode `json:"modes,omitempty"`
	VirtualNodes int                            `json:"virtual_nodes"`
}

// InitResult is what was made.
type InitResult struct {
	ClusterID      themis.ClusterID `json:"cluster_id"`
	Cluster        string           `json:"cluster"`
	Nodes          []themis.NodeID  `json:"nodes"`
	Control        []themis.NodeID  `json:"control_nodes"`
	Shards         []cluster.Shard  `json:"shards"`
	RoutingVersion uint64           `json:"routing_version"`
}

// Init makes a cluster; the client's first endpoint carries it out. Repeated after a failure on the way it goes on.
func (c *Client) Init(ctx context.Context, r InitRequest) (InitResult, error) {
	var out InitResult
	err := c.Act(ctx, "cluster.init", r, false, &out)
	return out, err
}
