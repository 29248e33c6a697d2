package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	tokenTTL     = time.Hour
	tokenTTLMost = 7 * 24 * time.Hour
	namesMost    = 16
)

// tokenArgs is what `node token create` asks for.
type tokenArgs struct {
	TTL string `json:"ttl"` // such as 1h; empty: 1h
}

// tokenResult is a one-time token with what its user must know. The token is told once and kept nowhere. After a dry run there is none.
type tokenResult struct {
	DryRun   bool      `json:"dry_run"` // no token was made
	Token    string    `json:"token"`
	ID       string    `json:"id"` // the part that may be shown
	Expires  time.Time `json:"expires"`
	CAPin    string    `json:"ca_pin"`
	Endpoint string    `json:"endpoint"` // of the node that signs
}

// issuer is the CA that this node may sign with.
func (n *Node) issuer() (*pki.CA, error) {
	p := n.cfg.PKI
	if p.IssuerKey == "" {
		return nil, themis.Errorf(themis.Unimplemented, "%s signs no certificates: pki.issuer_key is not set there", n.id.Node).
			Do("ask a node that has pki.issuer_key, or make the certificate where the CA's key is: themis-cli pki issue --node ID")
	}
	ca, err := pki.LoadCAFiles(p.CA, p.IssuerKey)
	if err != nil {
		return nil, fmt.Errorf("pki.issuer_key: %w", err)
	}
	return ca, nil
}

// createToken makes a one-time token with which a node gets its certificate from this one. With dry it makes none.
func (n *Node) createToken(ctx context.Context, a tokenArgs, dry bool) (*tokenResult, error) {
	ttl := tokenTTL
	if a.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(a.TTL); err != nil || ttl <= 0 || ttl > tokenTTLMost {
			return nil, themis.Errorf(themis.InvalidArgument, "ttl %q: want a time above 0 and at most %s", a.TTL, tokenTTLMost)
		}
	}
	ca, err := n.issuer()
	if err != nil {
		return nil, err
	}
	m, _, err := n.freshView(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	out := &tokenResult{DryRun: dry, Expires: now.Add(ttl), CAPin: pki.Pin(ca.Cert), Endpoint: n.addr.GRPC}
	if dry {
		return out, nil
	}
	token, hash, err := pki.NewJoinToken(nil)
	if err != nil {
		return nil, err
	}
	out.Token = token
	if out.ID, err = pki.TokenID(token); err != nil {
		return nil, err
	}
	if err := m.CreateToken(ctx, cluster.JoinToken{Hash: strings.TrimPrefix(hash, "sha256:"), Expires: out.Expires}, now); err != nil {
		return nil, err
	}
	n.event(cluster.Event{Actor: operator(ctx, ""), Action: "token_create", Subject: out.ID, Outcome: "done", Reason: "valid until " + out.Expires.Format(time.RFC3339)})
	return out, nil
}

// Join implements the service: it signs the key of a newcomer that shows a token. The token is looked up by its hash, so how long
// that takes tells nothing about any token. A request that can't be granted does not use the token up.
func (s *adminService) Join(ctx context.Context, req *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	n := s.n
	id, err := pki.TokenID(req.GetToken())
	if err != nil {
		return nil, err
	}
	ca, err := n.issuer()
	if err != nil {
		return nil, err
	}
	if !n.signing.TryLock() { // whoever has no token yet takes no more than one signature's time at once
		return nil, themis.Errorf(themis.Overloaded, "%s signs another certificate just now", n.id.Node).Do("run the same command again")
	}
	defer n.signing.Unlock()
	m, v, err := n.freshView(ctx)
	if err != nil {
		return nil, err
	}
	r, err := n.joinRequest(v, req)
	if err != nil {
		return nil, err
	}
	issued, err := ca.IssueCSR(req.GetCsrPem(), r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(req.GetToken()))
	hash := hex.EncodeToString(sum[:])
	if !pki.CheckToken(req.GetToken(), "sha256:"+hash) {
		return nil, themis.Errorf(themis.Internal, "join token: hashed in another way than it was made")
	}
	if err := m.ConsumeToken(ctx, hash, req.GetNodeId()+" "+issued.Info.Fingerprint, time.Now()); err != nil {
		if themis.CodeOf(err) == themis.PermissionDenied {
			err = themis.Errorf(themis.PermissionDenied, "%w", err).Do("a new token: themis-cli node token create")
		}
		return nil, err
	}
	n.event(cluster.Event{
		Actor: cluster.Actor{Kind: "node", ID: req.GetNodeId(), Cert: issued.Info.Serial}, Action: "certificate_issue", Subject: req.GetNodeId(), Outcome: "done",
		Reason: "by join token " + id, After: asJSON(issued.Info),
	})
	j := n.joined()
	return &nodev1.JoinResponse{CertPem: issued.CertPEM, CaPem: issued.CAPEM, ClusterId: string(j.ID), ClusterName: j.Name, ControlEndpoints: j.Endpoints}, nil
}

// joinRequest is the certificate that the newcomer may have: of a node that is no member yet, under names that are no member's.
func (n *Node) joinRequest(v cluster.View, req *nodev1.JoinRequest) (pki.Request, error) {
	own := n.source.Info()
	r := pki.Request{
		Node: themis.NodeID(req.GetNodeId()), Cluster: own.Cluster, ClusterID: own.ClusterID, Datacenter: own.Datacenter,
		Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin},
	}
	if err := themis.CheckNode(req.GetNodeId()); err != nil {
		return r, err
	}
	if _, member := v.Nodes[r.Node]; member {
		return r, themis.Errorf(themis.RefusedUnsafe, "node_id %s: a member has this name", r.Node).Do("themis-cli node remove %s, if it is lost; or choose another name", r.Node)
	}
	if len(req.GetNames()) > namesMost {
		return r, themis.Errorf(themis.InvalidArgument, "names: %d, at most %d are allowed", len(req.GetNames()), namesMost)
	}
	for _, name := range req.GetNames() {
		name = strings.ToLower(name)
		if ip, err := netip.ParseAddr(name); err == nil {
			r.IPs = append(r.IPs, ip)
			continue
		}
		_, member := v.Nodes[themis.NodeID(name)]
		if member || strings.HasSuffix(name, ".themis.local") {
			return r, themis.Errorf(themis.PermissionDenied, "names: %q belongs to a member or is made from the node's id", name).Do("name the host as others dial it")
		}
		r.DNS = append(r.DNS, name)
	}
	return r, nil
}
