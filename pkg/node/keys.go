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

const recordRetry = time.Second // between two tries to write a node's record anew

// keepRecords writes the records of nodes anew that have another key, so that their ballots go on to count, or another address, so
// that they are found. A node's heartbeat says only that there is something new; what it is, the node proves by its certificate.
func (c *controlLoop) keepRecords(ctx context.Context, v cluster.View, tried map[themis.NodeID]time.Time) {
	now := time.Now()
	for _, id := range v.NodeIDs() {
		x, a := v.Nodes[id], v.Alive[id]
		_, old := x.WithoutOldKey(now)
		renewed := a.Key != "" && (len(x.Keys) == 0 || a.Key != pki.FingerprintKey(x.Keys[len(x.Keys)-1]))
		moved := hasMoved(x, a)
		if !old && !renewed && !moved || now.Sub(tried[id]) < recordRetry {
			continue
		}
		tried[id] = now
		c.wg.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			var err error
			if moved { // first: a key is asked for where the record says that the node is
				err = c.keepAddress(ctx, x, a)
			} else {
				err = c.keepKey(ctx, x, renewed)
			}
			if err != nil && ctx.Err() == nil {
				c.n.log.Warn("record not written anew", "peer", id, "err", err)
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
