package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/internal/guard"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// addresses are where this node says it is reached.
func (n *Node) addresses() cluster.Addresses {
	a := cluster.Addresses{GRPC: n.addr.GRPC, HTTP: n.addr.HTTP, Metrics: n.addr.Metrics}
	if s := n.etcd.Load(); s != nil {
		a.Peer, a.Client = s.PeerURL(), s.ClientURL()
	}
	return a
}

// hasMoved says whether the node's heartbeat names another address than its record.
func hasMoved(x cluster.Node, a cluster.Alive) bool {
	if a.At == nil || a.Storage != x.Storage || x.Control != nil && a.At.Peer == "" {
		return false
	}
	_, moved := x.MovedTo(*a.At)
	return moved
}

// keepAddress writes the record of a node that was moved anew, with the addresses that it tells at the new one, and before that tells
// the members of the embedded control plane where it is.
func (c *controlLoop) keepAddress(ctx context.Context, x cluster.Node, a cluster.Alive) error {
	at, err := c.n.whereIs(ctx, x, a)
	if err != nil {
		return err
	}
	next, moved := x.MovedTo(at)
	if !moved {
		return nil
	}
	if s := c.n.etcd.Load(); s != nil && next.Control != nil && next.Control.Peer != x.Control.Peer {
		if err := s.MoveMember(ctx, string(x.ID), next.Control.Peer); err != nil {
			return err
		}
	}
	_, err = c.m.UpdateNode(ctx, next)
	if errors.Is(err, control.ErrStale) {
		return nil // the next view shows the record anew
	}
	if err == nil {
		c.event(cluster.Event{
			Action: "register_address", Subject: string(x.ID), Outcome: "done", Before: asJSON(x.Addresses()), After: asJSON(next.Addresses()),
			Reason: fmt.Sprintf("it answers at %s, under its certificate and with its disk; its record said %s", next.GRPC, x.GRPC),
		})
	}
	return err
}

// whereIs lets the node prove, at the address that its heartbeat names, that it is there: by its certificate, its disk and the boot
// that sent the heartbeat. What it says of itself there counts, not what the heartbeat says.
func (n *Node) whereIs(ctx context.Context, x cluster.Node, a cluster.Alive) (cluster.Addresses, error) {
	if x.ID == n.id.Node {
		return n.addresses(), nil
	}
	if !guard.On(guard.ProvenAddress) {
		return *a.At, nil
	}
	c, err := n.pool.Admin(ctx, a.At.GRPC, x.ID)
	if err != nil {
		return cluster.Addresses{}, err
	}
	d, err := c.Describe(ctx, &nodev1.DescribeRequest{})
	if err != nil {
		return cluster.Addresses{}, fmt.Errorf("ask %s at %s: %w", x.ID, a.At.GRPC, err)
	}
	if themis.NodeID(d.GetNodeId()) != x.ID || themis.StorageID(d.GetStorageId()) != x.Storage || themis.BootID(d.GetBootId()) != a.Boot {
		return cluster.Addresses{}, themis.Errorf(themis.RefusedUnsafe, "%s with disk %s, boot %s answers at %s, not %s with disk %s, boot %s",
			d.GetNodeId(), d.GetStorageId(), d.GetBootId(), a.At.GRPC, x.ID, x.Storage, a.Boot)
	}
	return cluster.Addresses{GRPC: d.GetGrpcAddr(), HTTP: d.GetHttpAddr(), Metrics: d.GetMetricsAddr(), Peer: d.GetControlPeerUrl(), Client: d.GetControlClientUrl()}, nil
}
