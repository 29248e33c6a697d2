package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// Who may ask for a ballot, whose ballot counts, and who may ship. A certificate says which node speaks; the map says what that
// node is. Every refusal has a reason of one word, which its metric counts.

// refusal is why something that came was not taken.
type refusal struct {
	reason string // label of the metric
	text   string
}

func refuseFor(reason, format string, args ...any) *refusal {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// controllerIs says why who may not speak as the controller of that term. A term that the map here doesn't show yet is believed of
// those who may become controllers.
func controllerIs(v cluster.View, embedded bool, who pki.Info, claimed themis.NodeID, term themis.Term) *refusal {
	member, known := v.Nodes[who.Node]
	switch {
	case term < v.Controller.Term:
		return refuseFor("old_term", "a controller of term %d, which is over: it is term %d", term, v.Controller.Term)
	case !guard.On(guard.BallotAsker):
		return nil
	case who.Node != claimed:
		return refuseFor("wrong_certificate", "the certificate is of %s, the question of %s", who.Name(), claimed)
	case term == v.Controller.Term && who.Node != v.Controller.Node:
		return refuseFor("not_controller", "the controller of term %d is %s, not %s", term, v.Controller.Node, who.Node)
	case term > v.Controller.Term && (!known || embedded && member.Control == nil):
		return refuseFor("not_controller", "%s can't be the controller of term %d", who.Node, term)
	}
	return nil
}

// mayAskBallot says why a ballot is not given to who asks.
func mayAskBallot(v cluster.View, embedded bool, own themis.ClusterID, who pki.Info, req *sharding.VoteRequest) *refusal {
	if themis.ClusterID(req.GetClusterId()) != own {
		return refuseFor("other_cluster", "asked for cluster %.64q, this one is %s", req.GetClusterId(), own)
	}
	if r := controllerIs(v, embedded, who, themis.NodeID(req.GetCandidateId()), themis.Term(req.GetControllerTerm())); r != nil {
		return r
	}
	if len(req.GetNonce()) < 16 {
		return refuseFor("nonce", "nonce: want at least 16 bytes")
	}
	return nil
}

// readBallot reads the answer to a question into the ballot that was signed, or says why it doesn't count.
func readBallot(v cluster.View, voter cluster.Member, req *sharding.VoteRequest, m *sharding.VoteResponse) (election.Ballot, *refusal) {
	b := ballotOf(themis.ClusterID(req.GetClusterId()), themis.ShardID(req.GetShardId()), m)
	switch {
	case !bytes.Equal(m.GetNonce(), req.GetNonce()) && guard.On(guard.BallotNonce):
		return b, refuseFor("replayed", "a ballot for another question")
	case b.Voter.Node != voter.Node:
		return b, refuseFor("wrong_voter", "a ballot of %s, asked was %s", b.Voter.Node, voter.Node)
	case uint64(b.Epoch) != req.GetTerm() && guard.On(guard.BallotEpoch):
		return b, refuseFor("wrong_epoch", "a ballot for epoch %d, asked was %d", b.Epoch, req.GetTerm())
	}
	var err error = themis.Errorf(themis.Unauthenticated, "no key is registered")
	for _, key := range v.Nodes[voter.Node].Keys {
		if err = pki.Verify(key, b.Signed(), m.GetSignature()); err == nil {
			return b, nil
		}
	}
	if !guard.On(guard.BallotSignature) {
		return b, nil
	}
	return b, refuseFor("signature", "its signature is not by a key that %s registered: %v", voter.Node, err)
}

// speaksFor says why a stream that comes under that certificate is not that primary's.
func speaksFor(who pki.Info, h replication.Hello) *refusal {
	if who.Node != h.Primary.Node && guard.On(guard.StreamCertificate) {
		return refuseFor("wrong_certificate", "a certificate of %s can't speak for %s", who.Name(), h.Primary.Node)
	}
	return nil
}

const mapCatchUp = time.Second // for the map here to show a reign that somebody says has begun

// mayShip says why a primary's stream is refused by what the map says. A reign that the map here doesn't show yet is waited for;
// while the control plane can't be heard, epochs alone decide.
func (n *Node) mayShip(ctx context.Context, who pki.Info, h replication.Hello) *refusal {
	if r := speaksFor(who, h); r != nil {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, mapCatchUp)
	defer cancel()
	for {
		changed := n.changed.next()
		v, ok := n.latest()
		s := v.Shards[h.Shard]
		switch {
		case !ok || h.Cluster != v.Meta.ID || !guard.On(guard.StreamPrimary):
			return nil // the replica tells
		case h.Epoch == s.Epoch && h.Primary != s.Primary:
			return refuseFor("not_primary", "%s with storage %s leads epoch %d of %s, not %s with %s", s.Primary.Node, s.Primary.Storage, s.Epoch, h.Shard, h.Primary.Node, h.Primary.Storage)
		case h.Epoch == s.Epoch:
			return nil
		case h.Epoch < s.Epoch: // the replica refuses it, too, and says what it has promised, so that the old primary ends its reign
			n.metrics.streamsRefused.WithLabelValues("old_epoch").Inc()
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !n.reigns(time.Now()) {
				return nil
			}
			return refuseFor("unknown_epoch", "nobody leads epoch %d of %s: the map has epoch %d", h.Epoch, h.Shard, s.Epoch)
		}
	}
}

// checkStream counts and logs a stream that is not taken; the error is what is answered.
func (n *Node) checkStream(ctx context.Context, h replication.Hello) error {
	who, _ := rpc.Peer(ctx)
	r := n.mayShip(ctx, who, h)
	if r == nil {
		return nil
	}
	n.metrics.streamsRefused.WithLabelValues(r.reason).Inc()
	n.log.Warn("stream refused", "peer", who.Name(), "serial", who.Serial, "shard", h.Shard, "epoch", h.Epoch, "reason", r.reason, "why", r.text)
	return themis.Errorf(themis.PermissionDenied, "%s", r.text).In(h.Shard)
}

// refusedByControl counts a connection that the embedded etcd refused; etcd's own line in the log has the address and the error.
func (n *Node) refusedByControl(port string, err error) {
	reason := pki.Invalid
	text := fmt.Sprint(err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case unknown:
		reason = pki.UnknownCA
	case isInvalid && invalid.Reason == x509.Expired:
		reason = pki.Expired
	case isInvalid && invalid.Reason == x509.IncompatibleUsage:
		reason = pki.WrongUsage
	case strings.Contains(text, "didn't provide a certificate"):
		reason = pki.NoCertificate
	case strings.Contains(text, "client certificate authentication failed"): // etcd's words: of our CA, without the name of nodes of this cluster
		reason = "not_a_node"
	}
	n.metrics.peersRefused.WithLabelValues(port, string(pki.ServerSide), string(reason)).Inc()
}
