package node

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/web"
)

// source is what the HTTP face asks of the node.
type source struct{ n *Node }

// Report implements web.Source.
func (s source) Report(ctx context.Context) (health.Report, error) {
	r, _, err := s.n.Report(ctx)
	return r, err
}

// Ready implements web.Source: it serves once it belongs to a cluster, every copy here is open and not out, and the shards that it leads
// may be read.
func (s source) Ready() error {
	if s.n.stopping.Load() != nil {
		return themis.Errorf(themis.NoPrimary, "this node stops: send requests to another")
	}
	v, ok := s.n.latest()
	if !ok {
		return s.n.noMap()
	}
	all := s.n.shards.all()
	for _, id := range v.ShardsOn(s.n.id.Node) {
		r := all[id]
		if r == nil {
			return themis.Errorf(themis.NoPrimary, "the copy of %s is not open", id).In(id)
		}
		if err := serves(v.Shards[id], r.Status()); err != nil {
			return err
		}
	}
	return nil
}

// serves says why the copy answers nothing that it should answer; nil: it does. Only the primary need: others are asked where it can't.
func serves(s cluster.Shard, st replication.Status) error {
	switch {
	case st.Fault != "":
		return themis.Errorf(themis.ReadOnly, "the copy of %s is out: %s", s.ID, st.Fault).In(s.ID)
	case st.Self != s.Primary:
		return nil
	case st.Reign == nil:
		return themis.Errorf(themis.NoPrimary, "%s is led by %s, which does not act as its primary", s.ID, s.Primary.Node).In(s.ID)
	case st.Reign.NotServing != "":
		return themis.Errorf(themis.NoPrimary, "%s: %s", s.ID, st.Reign.NotServing).In(s.ID)
	}
	return nil
}

func (n *Node) serveHTTP(ctx context.Context, l net.Listener, r *router) error {
	return web.Serve(ctx, l, web.Options{
		Documents: r, Source: source{n}, Metrics: n.metrics.handler(), TLS: n.source.OptionalServerConfig(), PlainLoopback: n.cfg.HTTP.PlainLoopback,
		CheckPeer: func(cs tls.ConnectionState) error { return n.source.CheckPeer(cs, true) }, CheckBearer: n.source.CheckBearer,
		Cluster: n.clusterName, Shards: n.shardIDs, Logger: n.log, CrossShard: n.metrics.crossShard.Inc,
	})
}

func (n *Node) shardIDs() []themis.ShardID {
	v, _ := n.latest()
	return v.ShardIDs()
}
