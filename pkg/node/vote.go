package node

import (
	"context"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// shardService answers probes and gives ballots. The rpcs that no part of this version serves answer UNIMPLEMENTED.
type shardService struct {
	sharding.UnimplementedShardServiceServer
	n *Node
}

const (
	stateUp  = "UP"
	stateCut = "CONTROL_CUT" // this node can't renew its lease
)

// HealthCheck implements the service. Of a node it tells who answers; a controller's probe is its heartbeat.
func (s *shardService) HealthCheck(ctx context.Context, req *sharding.HealthRequest) (*sharding.HealthResponse, error) {
	n := s.n
	if t := themis.Term(req.GetControllerTerm()); t > 0 {
		v, _ := n.latest()
		p, _ := rpc.Peer(ctx)
		if r := controllerIs(v, n.embedded(), p, themis.NodeID(req.GetControllerId()), t); r == nil {
			n.heard.from(t, time.Now())
		} else {
			n.metrics.beatsRefused.WithLabelValues(r.reason).Inc()
			n.log.Warn("controller's heartbeat refused", "peer", p.Name(), "serial", p.Serial, "reason", r.reason, "why", r.text)
		}
	}
	out := &sharding.HealthResponse{Healthy: true, State: stateUp, NodeId: string(n.id.Node), StorageId: string(n.id.Storage), BootId: string(n.boot)}
	if n.joined() != nil && !n.reigns(time.Now()) {
		out.State, out.Reason = stateCut, "the lease in the control plane is not confirmed"
	}
	out.UnfitShards, out.ResignedEpochs = map[string]string{}, map[string]uint64{}
	unfit, resigned := n.shards.fitness((*replication.Replica).Fitness)
	for id, why := range unfit {
		out.UnfitShards[string(id)] = why
	}
	for id, e := range resigned {
		out.ResignedEpochs[string(id)] = uint64(e)
	}
	if id := req.GetShardId(); id != "" {
		r, err := n.shards.get(themis.ShardID(id))
		if err != nil {
			return nil, err
		}
		st := r.Status()
		out.Epoch, out.LastSeq = uint64(st.Promised), uint64(st.Last.Seq)
		out.Healthy, out.Reason = st.Fault == "" && st.Blank == "", st.Fault+st.Blank
	}
	return out, nil
}

// GetShardStatus implements the service.
func (s *shardService) GetShardStatus(_ context.Context, req *sharding.StatusRequest) (*sharding.StatusResponse, error) {
	v, ok := s.n.latest()
	if !ok {
		return nil, s.n.noMap()
	}
	id := themis.ShardID(req.GetShardId())
	if id == "" {
		for _, have := range v.ShardsOn(s.n.id.Node) {
			id = have
			break
		}
	}
	r, err := s.n.shards.get(id)
	if err != nil {
		return nil, err
	}
	st := r.Status()
	out := &sharding.StatusResponse{ShardId: string(id), State: "active"}
	if st.Reign == nil || st.Reign.NotWriting != "" {
		out.State = "readonly"
	}
	if ranges := v.Routing.RangesOf(id); len(ranges) > 0 {
		out.TokenRangeStart, out.TokenRangeEnd = uint64(ranges[0].From), uint64(ranges[len(ranges)-1].To)
	}
	if req.GetIncludeMetrics() {
		out.Metrics = &sharding.ShardMetrics{EntityCount: uint64(st.Store.Documents), StorageSizeBytes: uint64(st.Store.DiskBytes)} //nolint:gosec // never negative
	}
	return out, nil
}

// RequestVote implements the service: a ballot, durable before it is sent, signed with the node's key.
func (s *shardService) RequestVote(ctx context.Context, req *sharding.VoteRequest) (*sharding.VoteResponse, error) {
	n := s.n
	p, _ := rpc.Peer(ctx)
	no := func(r *refusal) (*sharding.VoteResponse, error) {
		n.metrics.votesRejected.WithLabelValues(r.reason).Inc()
		n.log.Warn("ballot not given", "peer", p.Name(), "serial", p.Serial, "shard", req.GetShardId(), "epoch", req.GetTerm(), "reason", r.reason, "why", r.text)
		return &sharding.VoteResponse{Term: req.GetTerm(), VoterId: string(n.id.Node), Reason: r.text, Nonce: req.GetNonce()}, nil
	}
	v, ok := n.latest()
	if !ok {
		return no(refuseFor("no_map", "%s knows no cluster map yet", n.id.Node))
	}
	if r := mayAskBallot(v, n.embedded(), v.Meta.ID, p, req); r != nil {
		return no(r)
	}
	r, err := n.shards.get(themis.ShardID(req.GetShardId()))
	if err != nil {
		return no(refuseFor("no_copy", "%v", err))
	}
	b, err := r.Vote(themis.Epoch(req.GetTerm()))
	if err != nil {
		return no(refuseFor("not_given", "%v", err))
	}
	b.Nonce = req.GetNonce()
	// The lease is signed in whole milliseconds, rounded up: a voter never promises less than it gave.
	b.LeaseRemaining = (b.LeaseRemaining + time.Millisecond - 1).Truncate(time.Millisecond)
	sig, err := n.source.Sign(b.Signed())
	if err != nil {
		return nil, err
	}
	return &sharding.VoteResponse{
		Term: uint64(b.Epoch), VoteGranted: true, VoterId: string(b.Voter.Node), Nonce: b.Nonce, Signature: sig,
		LastEpoch: uint64(b.Last.Epoch), LastSeq: uint64(b.Last.Seq), LastLsn: uint64(b.Last.LSN),
		StorageId: string(b.Voter.Storage), BootId: string(b.Boot), LeaseRemainingMs: uint64(b.LeaseRemaining.Milliseconds()), //nolint:gosec // never negative
		ResignedEpoch: uint64(b.Resigned),
	}, nil
}

// ballotOf reads a ballot back into the form that was signed.
func ballotOf(c themis.ClusterID, shard themis.ShardID, m *sharding.VoteResponse) election.Ballot {
	return election.Ballot{
		Cluster: c, Shard: shard, Voter: cluster.Member{Node: themis.NodeID(m.GetVoterId()), Storage: themis.StorageID(m.GetStorageId())},
		Boot: themis.BootID(m.GetBootId()), Epoch: themis.Epoch(m.GetTerm()), Nonce: m.GetNonce(), Resigned: themis.Epoch(m.GetResignedEpoch()),
		Last:           themis.Position{Seq: themis.Seq(m.GetLastSeq()), Epoch: themis.Epoch(m.GetLastEpoch()), LSN: themis.LSN(m.GetLastLsn())},
		LeaseRemaining: time.Duration(m.GetLeaseRemainingMs()) * time.Millisecond, //nolint:gosec // a few seconds
	}
}
