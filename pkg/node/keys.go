package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

const keyRetry = time.Second // between two tries to register a node's key

// keepKeys registers the keys of nodes that were renewed, so that their ballots go on to count. A node's heartbeat says only that
// there is a new one; which it is, its certificate shows in a handshake, where the node proves that it has it.
func (c *controlLoop) keepKeys(ctx context.Context, v cluster.View, tried map[themis.NodeID]time.Time) {
	now := time.Now()
	for _, id := range v.NodeIDs() {
		x := v.Nodes[id]
		hint := v.Alive[id].Key
		_, old := x.WithoutOldKey(now)
		renewed := hint != "" && (len(x.Keys) == 0 || hint != pki.FingerprintKey(x.Keys[len(x.Keys)-1]))
		if !old && !renewed || now.Sub(tried[id]) < keyRetry {
			continue
		}
		tried[id] = now
		c.wg.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			if err := c.keepKey(ctx, x, renewed); err != nil && ctx.Err() == nil {
				c.n.log.Warn("key not registered", "peer", id, "err", err)
			}
			return nil
		})
	}
}

// keepKey writes one node's record anew: with the key that it proves to have, without one whose time is over.
func (c *controlLoop) keepKey(ctx context.Context, x cluster.Node, renewed bool) error {
	next, dropped := x.WithoutOldKey(time.Now())
	added := false
	if renewed {
		leaf, err := c.n.certificateOf(ctx, x)
		if err != nil {
			return err
		}
		next, added = next.WithKey(leaf.RawSubjectPublicKeyInfo, time.Now())
	}
	if !added && !dropped {
		return nil
	}
	_, err := c.m.UpdateNode(ctx, next)
	if errors.Is(err, control.ErrStale) {
		return nil // a shard has just got a copy there: the next view shows the record anew
	}
	if err == nil {
		c.event(cluster.Event{
			Action: "register_key", Subject: string(x.ID), Outcome: "done", Before: asJSON(fingerprints(x)), After: asJSON(fingerprints(next)),
			Reason: map[bool]string{true: "its certificate has a new key; the one before counts for " + cluster.KeyOverlap.String() + " more", false: "the overlap with the key before has ended"}[added],
		})
	}
	return err
}

func fingerprints(x cluster.Node) (out []string) {
	for _, k := range x.Keys {
		out = append(out, pki.FingerprintKey(k))
	}
	return out
}

// certificateOf is the certificate with which the node proves, at its address and now, to be the node.
func (n *Node) certificateOf(ctx context.Context, x cluster.Node) (*x509.Certificate, error) {
	if x.ID == n.id.Node {
		return n.source.Certificate(), nil
	}
	host, _, err := net.SplitHostPort(x.GRPC)
	if err != nil {
		return nil, fmt.Errorf("address of %s: %w", x.ID, err)
	}
	conf := n.source.ClientConfig(x.ID, host)
	conf.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", x.GRPC)
	if err != nil {
		return nil, fmt.Errorf("ask %s at %s for its certificate: %w", x.ID, x.GRPC, err)
	}
	defer func() { _ = conn.Close() }()
	state := conn.(*tls.Conn).ConnectionState() //nolint:forcetypeassert // a tls.Dialer gives nothing else
	return state.PeerCertificates[0], nil
}
