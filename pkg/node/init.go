package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/routing"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// initArgs is what `cluster init` asks for.
type initArgs struct {
	Name         string                         `json:"name"`
	Nodes        []string                       `json:"nodes"` // gRPC addresses
	Shards       int                            `json:"shards"`
	RF           int                            `json:"replication_factor"`
	K            int                            `json:"min_sync_replicas"`
	ControlNodes int                            `json:"control_nodes"` // 0: as many of 5, 3, 1 as there are nodes for, at most 3
	Redundancy   string                         `json:"redundancy"`
	Mode         themis.Mode                    `json:"mode"`
	Modes        map[themis.ShardID]themis.Mode `json:"modes"` // under hybrid
	VirtualNodes int                            `json:"virtual_nodes"`
}

// initResult is what it made.
type initResult struct {
	Cluster themis.ClusterID `json:"cluster_id"`
	Name    string           `json:"cluster"`
	Nodes   []themis.NodeID  `json:"nodes"`
	Control []themis.NodeID  `json:"control_nodes"`
	Shards  []cluster.Shard  `json:"shards"`
	Version uint64           `json:"routing_version"`
}

// initCluster makes a cluster out of nodes that run and belong to none. It is run by one of them, for an operator. What can be
// refused is refused before anything is changed; repeated after a failure on the way it goes on, since every step may be.
// With dry it says what would be made, and changes nothing.
func (n *Node) initCluster(ctx context.Context, a initArgs, dry bool) (*initResult, error) {
	members, err := n.describeAll(ctx, a.Nodes)
	if err != nil {
		return nil, err
	}
	first, err := cluster.Found(a.spec(members, n.embedded()))
	if err == nil {
		err = n.mayFound(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	j := n.joined()
	id := themis.ClusterID(randomID())
	if j != nil {
		if err := n.sameControl(j, first.Nodes); err != nil {
			return nil, err
		}
		id = j.ID // an init that broke off is finished under the same id
	}
	first.Meta.ID, first.Meta.Created, first.Meta.VirtualNodes = id, time.Now().UTC(), a.VirtualNodes
	first.Meta.SessionKey = make([]byte, 32)
	_, _ = rand.Read(first.Meta.SessionKey) // never fails
	table, err := routing.First(a.Shards, a.VirtualNodes)
	if err != nil {
		return nil, err
	}
	for i := range first.Nodes {
		first.Nodes[i].Joined = first.Meta.Created
	}
	out := founded(id, a, first, table)
	if dry {
		return out, nil
	}
	if err := n.bootstrapAll(ctx, first, a.Nodes); err != nil {
		return nil, err
	}
	m, err := n.awaitMap(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.Init(ctx, control.First{Meta: first.Meta, Nodes: first.Nodes, Shards: first.Shards, Routing: table}); err != nil {
		return nil, err
	}
	if err := n.awaitAll(ctx, first.Nodes); err != nil {
		return nil, err
	}
	return out, nil
}

// sameControl refuses a foundation that this node has no part in: it belongs to a cluster whose control plane was made of other nodes, so this is
// no init that broke off.
func (n *Node) sameControl(j *joined, nodes []cluster.Node) error {
	asked := map[string]bool{}
	for _, x := range nodes {
		asked[string(x.ID)] = x.Control != nil
	}
	members := slices.Sorted(maps.Keys(j.InitialCluster))
	if !slices.ContainsFunc(members, func(m string) bool { return !asked[m] }) {
		return nil
	}
	return themis.Errorf(themis.RefusedUnsafe, "%s belongs to cluster %s (%s) already, whose control plane was made of %s; it does not answer while most of them are down",
		n.id.Node, j.Name, j.ID, strings.Join(members, ", ")).Do("start those that are down, then themis-cli cluster health")
}

func founded(id themis.ClusterID, a initArgs, f cluster.Founded, table *routing.Table) *initResult {
	out := &initResult{Cluster: id, Name: a.Name, Shards: f.Shards, Version: table.Version()}
	for _, x := range f.Nodes {
		out.Nodes = append(out.Nodes, x.ID)
		if x.Control != nil {
			out.Control = append(out.Control, x.ID)
		}
	}
	return out
}

// mayFound refuses a cluster that this node's certificate or its external etcd rules out.
func (n *Node) mayFound(ctx context.Context, a initArgs) error {
	if own := n.source.Info().Cluster; own != a.Name {
		return themis.Errorf(themis.InvalidArgument, "name %q: the certificates are of cluster %s", a.Name, own).
			Do("--name %s, or issue certificates of cluster %s: themis-cli pki issue --node NODE --cluster %s", own, a.Name, a.Name)
	}
	if n.embedded() {
		return nil
	}
	d, err := n.controlDial(a.Name, nil)
	if err != nil {
		return err
	}
	d.OnWait = nil
	if err := control.Check(ctx, d); err != nil {
		return err
	}
	kv, err := control.Connect(ctx, d)
	if err != nil {
		return err
	}
	defer func() { _ = kv.Close() }()
	held, err := control.Clusters(ctx, kv)
	if err != nil {
		return err
	}
	j := n.joined()
	for _, m := range held {
		if m.Name == a.Name && (j == nil || j.ID != m.ID) {
			return themis.Errorf(themis.RefusedUnsafe, "the control plane at %s holds a cluster named %s already: %s, made %s", strings.Join(n.cfg.Control.Endpoints, ","), m.Name, m.ID, m.Created.Format(time.RFC3339)).
				Do("use another etcd, or remove its records: etcdctl del --prefix /themis/%s/", m.ID)
		}
	}
	return nil
}

// awaitAll waits until every node has announced itself in an external control plane: each dials it by settings of its own, which
// may name another one.
func (n *Node) awaitAll(ctx context.Context, nodes []cluster.Node) error {
	if n.embedded() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	for {
		changed := n.changed.next()
		v, _ := n.latest()
		var missing []string
		for _, x := range nodes {
			if _, ok := v.Alive[x.ID]; !ok {
				missing = append(missing, string(x.ID))
			}
		}
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return themis.Errorf(themis.Deadline, "the map is written, but %s did not announce itself in the etcd that %s uses", strings.Join(missing, ", "), n.id.Node).
				Do("compare control.mode and control.endpoints of %s with those of %s, and see its log", missing[0], n.id.Node)
		case <-changed:
		}
	}
}

func (a initArgs) spec(members []cluster.Node, embedded bool) cluster.Foundation {
	return cluster.Foundation{
		External: !embedded, Name: a.Name, Redundancy: a.Redundancy, Nodes: members, Shards: a.Shards, ControlNodes: a.ControlNodes,
		Policy: cluster.Policy{Mode: a.Mode, K: a.K, RF: a.RF}, Modes: a.Modes,
	}
}

// describeAll asks every node who it is; all faults are told at once.
func (n *Node) describeAll(ctx context.Context, addrs []string) ([]cluster.Node, error) {
	out := make([]cluster.Node, len(addrs))
	faults := make([]error, len(addrs))
	var g errgroup.Group
	for i, addr := range addrs {
		g.Go(func() error {
			d, err := n.describe(ctx, addr)
			if themis.CodeOf(err) == themis.Unreachable { // which would say that this node does not answer
				faults[i] = themis.Errorf(themis.NotFound, "no node answers at %s: %w", addr, err).Do("start themisd there, or correct the address: themis-cli node describe --endpoint %s", addr)
				return nil
			}
			if err != nil {
				faults[i] = fmt.Errorf("node %s: %w", addr, err)
				return nil
			}
			if j := n.joined(); d.GetClusterId() != "" && (j == nil || themis.ClusterID(d.GetClusterId()) != j.ID) {
				faults[i] = themis.Errorf(themis.RefusedUnsafe, "node %s (%s): belongs to cluster %s already", addr, d.GetNodeId(), d.GetClusterName())
				return nil
			}
			out[i] = cluster.Node{
				Format: cluster.Format, ID: themis.NodeID(d.GetNodeId()), Storage: themis.StorageID(d.GetStorageId()), Keys: [][]byte{d.GetPublicKey()},
				GRPC: d.GetGrpcAddr(), HTTP: d.GetHttpAddr(), Metrics: d.GetMetricsAddr(), Region: d.GetRegion(), Datacenter: d.GetDatacenter(), Rack: d.GetRack(),
				Role: cluster.Role(d.GetRole()), Control: &cluster.ControlMember{Peer: d.GetControlPeerUrl(), Client: d.GetControlClientUrl()},
			}
			return nil
		})
	}
	_ = g.Wait()
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return out, nil
}

func (n *Node) describe(ctx context.Context, addr string) (*nodev1.DescribeResponse, error) {
	ctx, cancel := context.WithTimeout(n.withBoot(ctx), 5*time.Second)
	defer cancel()
	c, err := n.pool.Admin(ctx, addr, "")
	if err != nil {
		return nil, err
	}
	return c.Describe(ctx, &nodev1.DescribeRequest{})
}

// bootstrapAll tells every node where it belongs: control members first, since the others need them.
func (n *Node) bootstrapAll(ctx context.Context, f cluster.Founded, addrs []string) error {
	var initial, endpoints []string
	for _, x := range f.Nodes {
		if x.Control != nil {
			initial = append(initial, string(x.ID)+"="+x.Control.Peer)
			endpoints = append(endpoints, x.Control.Client)
		}
	}
	if !n.embedded() {
		endpoints = n.cfg.Control.Endpoints
	}
	var g errgroup.Group
	for i, x := range f.Nodes {
		req := &nodev1.BootstrapRequest{
			ClusterId: string(f.Meta.ID), ClusterName: f.Meta.Name, ControlMember: x.Control != nil, InitialCluster: strings.Join(initial, ","), ControlEndpoints: endpoints,
		}
		if x.ID == n.id.Node {
			if err := n.told(ctx, joinedOf(req)); err != nil {
				return err
			}
			continue
		}
		g.Go(func() error {
			c, err := n.pool.Admin(ctx, addrs[i], x.ID)
			if err == nil {
				_, err = c.Bootstrap(ctx, req)
			}
			if err != nil {
				return fmt.Errorf("bootstrap %s: %w", x.ID, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func joinedOf(req *nodev1.BootstrapRequest) joined {
	j := joined{
		ID: themis.ClusterID(req.GetClusterId()), Name: req.GetClusterName(), ControlMember: req.GetControlMember(), Existing: req.GetExisting(),
		InitialCluster: map[string]string{}, Endpoints: slices.Clone(req.GetControlEndpoints()),
	}
	for part := range strings.SplitSeq(req.GetInitialCluster(), ",") {
		if name, u, ok := strings.Cut(part, "="); ok {
			j.InitialCluster[name] = u
		}
	}
	return j
}

const announceTime = 20 * time.Second

// awaitMap waits until this node's client of the control plane is there.
func (n *Node) awaitMap(ctx context.Context) (*control.Map, error) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if m := n.m.Load(); m != nil && n.lease.Load() != nil {
			return m, nil
		}
		select {
		case <-ctx.Done():
			return nil, themis.Errorf(themis.Deadline, "the control plane did not come up in time: %w", ctx.Err()).Do("run the same command again; see the nodes' logs")
		case <-t.C:
		}
	}
}
