package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// transport carries a primary's words over gRPC. It stands on a channel of its own beside that of calls, so that frames and
// heartbeats don't wait behind documents.
type transport struct {
	pool *rpc.Pool
	addr func(themis.NodeID) (string, error)
}

// NewTransport carries a primary's words over the pool's channels to where addr says that the others are.
func NewTransport(pool *rpc.Pool, addr func(themis.NodeID) (string, error)) replication.Transport {
	return &transport{pool: pool, addr: addr}
}

func (t *transport) client(ctx context.Context, to themis.NodeID, lane string) (nodev1.ReplicationServiceClient, error) {
	addr, err := t.addr(to)
	if err != nil {
		return nil, err
	}
	return t.pool.Replication(ctx, addr, to, rpc.Lane(lane))
}

// addressOf is where the map says that the node is.
func (n *Node) addressOf(to themis.NodeID) (string, error) {
	v, _ := n.latest()
	node, ok := v.Nodes[to]
	if !ok {
		return "", fmt.Errorf("%s is no member", to)
	}
	return node.GRPC, nil
}

// Open implements replication.Transport.
func (t *transport) Open(ctx context.Context, to cluster.Member, h replication.Hello) (replication.Outgoing, replication.Welcome, error) {
	var w replication.Welcome
	c, err := t.client(ctx, to.Node, "ship")
	if err != nil {
		return nil, w, err
	}
	s, err := c.Replicate(ctx)
	if err != nil {
		return nil, w, err
	}
	if err := s.Send(&nodev1.ReplicateRequest{Hello: helloOut(h)}); err != nil && !errors.Is(err, io.EOF) {
		return nil, w, err
	}
	m, err := s.Recv()
	if err != nil {
		return nil, w, err
	}
	w = replication.Welcome{
		Accepted: m.GetAccepted(), Refused: m.GetRefused(), Promised: themis.Epoch(m.GetPromisedEpoch()),
		Common: themis.Seq(m.GetCommonSeq()), Install: m.GetNeedsInstall(),
	}
	if !w.Accepted || w.Install {
		return nil, w, nil // the follower has ended it
	}
	return &outgoing{s}, w, nil
}

func helloOut(h replication.Hello) *nodev1.Hello {
	out := &nodev1.Hello{
		ClusterId: string(h.Cluster), ShardId: string(h.Shard), Epoch: uint64(h.Epoch), PrimaryId: string(h.Primary.Node),
		PrimaryStorageId: string(h.Primary.Storage), FollowerStorageId: string(h.Follower), FirstSeq: uint64(h.First), LastSeq: uint64(h.Last),
		AckedMayVanish: h.AckedAlone > 0, AckedAloneEpoch: uint64(h.AckedAlone), BarrierSeq: uint64(h.Barrier), AckedSeq: uint64(h.Acked), Stream: h.Stream,
	}
	for _, x := range h.Lineage {
		out.Lineage = append(out.Lineage, &nodev1.EpochStart{Epoch: uint64(x.Epoch), Seq: uint64(x.Seq)})
	}
	return out
}

func helloIn(m *nodev1.Hello) replication.Hello {
	h := replication.Hello{
		Cluster: themis.ClusterID(m.GetClusterId()), Shard: themis.ShardID(m.GetShardId()), Epoch: themis.Epoch(m.GetEpoch()),
		Primary:  cluster.Member{Node: themis.NodeID(m.GetPrimaryId()), Storage: themis.StorageID(m.GetPrimaryStorageId())},
		Follower: themis.StorageID(m.GetFollowerStorageId()), First: themis.Seq(m.GetFirstSeq()), Last: themis.Seq(m.GetLastSeq()),
		AckedAlone: themis.Epoch(m.GetAckedAloneEpoch()), Barrier: themis.Seq(m.GetBarrierSeq()), Acked: themis.Seq(m.GetAckedSeq()), Stream: m.GetStream(),
	}
	if m.GetAckedMayVanish() && h.AckedAlone == 0 { // from a version that knows no epoch for it
		h.AckedAlone = h.Epoch
	}
	for _, x := range m.GetLineage() {
		h.Lineage = append(h.Lineage, themis.EpochStart{Epoch: themis.Epoch(x.GetEpoch()), Seq: themis.Seq(x.GetSeq())})
	}
	return h
}

type outgoing struct {
	s grpc.BidiStreamingClient[nodev1.ReplicateRequest, nodev1.ReplicateResponse]
}

// Send implements replication.Outgoing.
func (o *outgoing) Send(m replication.Ship) error {
	return o.s.Send(&nodev1.ReplicateRequest{Frames: m.Frames, CommitSeq: uint64(m.Commit), SentNs: uint64(m.Sent), Whole: m.Whole, Free: m.Free}) //nolint:gosec // never negative
}

// Recv implements replication.Outgoing.
func (o *outgoing) Recv() (replication.Reply, error) {
	m, err := o.s.Recv()
	if err != nil {
		return replication.Reply{}, err
	}
	return replication.Reply{
		Durable: themis.Seq(m.GetDurableSeq()), Applied: themis.Seq(m.GetAppliedSeq()), LSN: themis.LSN(m.GetDurableLsn()), Echo: time.Duration(m.GetEchoNs()), Mute: m.GetMute(), //nolint:gosec // our own clock
		Promised: themis.Epoch(m.GetPromisedEpoch()), Refused: m.GetRefused(),
	}, nil
}

type incoming struct {
	s grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]
}

// Recv implements replication.Incoming.
func (i *incoming) Recv() (replication.Ship, error) {
	m, err := i.s.Recv()
	if err != nil {
		return replication.Ship{}, err
	}
	return replication.Ship{Frames: m.GetFrames(), Commit: themis.Seq(m.GetCommitSeq()), Sent: time.Duration(m.GetSentNs()), Whole: m.GetWhole(), Free: m.GetFree()}, nil //nolint:gosec // an opaque number
}

// Send implements replication.Incoming.
func (i *incoming) Send(m replication.Reply) error {
	return i.s.Send(&nodev1.ReplicateResponse{
		DurableSeq: uint64(m.Durable), AppliedSeq: uint64(m.Applied), DurableLsn: uint64(m.LSN), EchoNs: uint64(m.Echo), PromisedEpoch: uint64(m.Promised), Refused: m.Refused, Mute: m.Mute, //nolint:gosec // an opaque number
	})
}

// replicationService is a follower's side of the stream.
type replicationService struct {
	nodev1.UnimplementedReplicationServiceServer
	get func(themis.ShardID) (*replication.Replica, error)
	dir func(themis.ShardID) string
	may func(context.Context, replication.Hello) error
}

// ServeReplication answers primaries for the copies that get finds. dir is a copy's own directory: what a primary installs is
// received there. may says why a stream is not taken; without it, it must come under the certificate of the node it speaks for.
func ServeReplication(on grpc.ServiceRegistrar, get func(themis.ShardID) (*replication.Replica, error), dir func(themis.ShardID) string, may func(context.Context, replication.Hello) error) {
	if may == nil {
		may = ownCertificate
	}
	nodev1.RegisterReplicationServiceServer(on, &replicationService{get: get, dir: dir, may: may})
}

func ownCertificate(ctx context.Context, h replication.Hello) error {
	who, _ := rpc.Peer(ctx)
	if r := speaksFor(who, h); r != nil {
		return themis.Errorf(themis.PermissionDenied, "%s", r.text)
	}
	return nil
}

// Replicate implements the service.
func (s *replicationService) Replicate(stream grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHello() == nil {
		return themis.Errorf(themis.InvalidArgument, "hello: missing in the first message")
	}
	h := helloIn(first.GetHello())
	if err := s.may(stream.Context(), h); err != nil {
		return err
	}
	r, err := s.get(h.Shard)
	if err != nil {
		return err
	}
	w, f, err := r.Accept(stream.Context(), h)
	if err != nil {
		return err
	}
	err = stream.Send(&nodev1.ReplicateResponse{
		Accepted: w.Accepted, Refused: w.Refused, PromisedEpoch: uint64(w.Promised), CommonSeq: uint64(w.Common), NeedsInstall: w.Install,
	})
	if f != nil { // no install will go on any more
		err = errors.Join(err, dropReceived(s.dir(h.Shard), ""))
	}
	if err != nil || f == nil {
		return err
	}
	return f.Serve(&incoming{stream})
}
