package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/internal/guard"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// A node that is no member of the embedded control plane finds it where its members last were. If they all moved while it was away,
// the nodes that it knew are asked, each under the certificate of that very node; who has the newest map says where the members are. What
// is found there is the control plane only under the name that nodes' certificates alone carry.

const (
	seekAfter  = 5 * time.Second // without the control plane
	seekAsk    = 2 * time.Second // for the answers of all
	seekAtOnce = 8
	knownMost  = 64 // nodes that are remembered
)

// knownNode is where a node was reached.
type knownNode struct {
	Node themis.NodeID `json:"node"`
	GRPC string        `json:"grpc_addr"`
}

// known are the nodes to ask later, by name.
func (n *Node) known(v cluster.View) (out []knownNode) {
	for _, id := range v.NodeIDs() {
		if id != n.id.Node && len(out) < knownMost {
			out = append(out, knownNode{id, v.Nodes[id].GRPC})
		}
	}
	return out
}

// connectOrAsk is control.Connect that asks other nodes again and again while no member answers where it was.
func (n *Node) connectOrAsk(ctx context.Context, d control.Dial) (*control.Etcd, error) {
	if !n.seeks() {
		return control.Connect(ctx, d)
	}
	for {
		try, cancel := context.WithTimeout(ctx, seekAfter)
		kv, err := control.Connect(try, d)
		cancel()
		if err == nil || ctx.Err() != nil || themis.CodeOf(err) != themis.Unreachable {
			return kv, err
		}
		if at := n.askNodes(ctx); len(at) > 0 {
			d.Endpoints = at
		}
	}
}

// seekControl asks other nodes where the control plane is, whenever this one has been without it for a while, until ctx ends.
func (n *Node) seekControl(ctx context.Context, kv *control.Etcd) error {
	tick := time.NewTicker(seekAfter)
	defer tick.Stop()
	for without := false; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			was := without
			if without = !n.reigns(now); !without || !was || !n.seeks() {
				continue
			}
		}
		if at := n.askNodes(ctx); len(at) > 0 {
			kv.SetEndpoints(at)
		}
	}
}

// seeks says whether this node's way to the control plane leads to others.
func (n *Node) seeks() bool {
	return n.embedded() && n.etcd.Load() == nil && guard.On(guard.AskNodes)
}

// askNodes asks the known nodes where the members of the control plane are, and adds where they were; nil: nobody says.
func (n *Node) askNodes(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, seekAsk)
	defer cancel()
	j := n.joined()
	var mu sync.Mutex
	var newest cluster.View
	var who themis.NodeID
	var g errgroup.Group
	g.SetLimit(seekAtOnce)
	for _, k := range j.Nodes {
		g.Go(func() error {
			v, err := n.mapOf(ctx, k, j.ID)
			if err != nil {
				n.log.Debug("asked in vain where the control plane is", "peer", k.Node, "err", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if v.Revision > newest.Revision {
				newest, who = v, k.Node
			}
			return nil
		})
	}
	_ = g.Wait()
	at, before := endpointsOf(controlEndpoints(newest)), endpointsOf(j.Endpoints)
	if len(at) == 0 {
		return nil
	}
	if !slices.Equal(at, before) {
		n.log.Info("the control plane is elsewhere", "peer", who, "endpoints", at)
	}
	for _, e := range before { // whoever was asked may be behind
		if !slices.Contains(at, e) {
			at = append(at, e)
		}
	}
	return at
}

// mapOf is the members of the cluster as another node knows them.
func (n *Node) mapOf(ctx context.Context, k knownNode, id themis.ClusterID) (v cluster.View, err error) {
	c, err := n.pool.Admin(ctx, k.GRPC, k.Node)
	if err != nil {
		return v, err
	}
	resp, err := c.GetMap(ctx, &nodev1.GetMapRequest{})
	if err != nil {
		return v, err
	}
	var told struct {
		ClusterID themis.ClusterID `json:"cluster_id"`
		Members   []cluster.Node   `json:"members"`
	}
	if err := json.Unmarshal(resp.GetMapJson(), &told); err != nil {
		return v, fmt.Errorf("the map of %s: %w", k.Node, err)
	}
	if told.ClusterID != id {
		return v, themis.Errorf(themis.RefusedUnsafe, "%s is of cluster %s, not %s", k.Node, told.ClusterID, id)
	}
	v = cluster.View{Revision: themis.Revision(resp.GetRevision()), Nodes: map[themis.NodeID]cluster.Node{}} //nolint:gosec // revisions are small
	for _, x := range told.Members {
		v.Nodes[x.ID] = x
	}
	return v, nil
}
