package node

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
)

// documentService is the router over gRPC.
type documentService struct {
	nodev1.UnimplementedDocumentServiceServer
	router *router
}

// Write implements the service.
func (s *documentService) Write(ctx context.Context, req *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	return s.router.Write(ctx, req)
}

// Read implements the service.
func (s *documentService) Read(ctx context.Context, req *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	return s.router.Read(ctx, req)
}

const (
	streamWrites = 512      // of one stream at once
	streamBytes  = 64 << 20 // of these, and one more that was received
	scanBatch    = 256 << 10
)

// WriteStream implements the service: every request is answered, in whatever order they are done.
func (s *documentService) WriteStream(stream grpc.BidiStreamingServer[nodev1.WriteRequest, nodev1.WriteResponse]) error {
	return writeAll(stream, s.one)
}

// writeAll lets one answer every request of a stream, many at once; what is beyond that waits in the stream, and whoever sends it with it.
func writeAll(stream grpc.BidiStreamingServer[nodev1.WriteRequest, nodev1.WriteResponse], one func(context.Context, *nodev1.WriteRequest) *nodev1.WriteResponse) error {
	answers := make(chan *nodev1.WriteResponse, streamWrites)
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var sender errgroup.Group
	sender.Go(func() error {
		for a := range answers {
			if err := stream.Send(a); err != nil {
				cancel()
				for range answers { //nolint:revive // nobody reads them, and those who write them must end
				}
				return err
			}
		}
		return nil
	})
	var g errgroup.Group
	g.SetLimit(streamWrites)
	held := semaphore.NewWeighted(streamBytes)
	for ctx.Err() == nil {
		req, err := stream.Recv()
		if err != nil {
			break
		}
		size := min(int64(proto.Size(req)), streamBytes)
		if held.Acquire(ctx, size) != nil {
			break
		}
		g.Go(func() error {
			defer held.Release(size)
			answers <- one(ctx, req)
			return nil
		})
	}
	_ = g.Wait()
	close(answers)
	return sender.Wait()
}

func (s *documentService) one(ctx context.Context, req *nodev1.WriteRequest) *nodev1.WriteResponse {
	if ms := req.GetTimeoutMs(); ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond) //nolint:gosec // a few seconds
		defer cancel()
	}
	out, err := s.router.Write(ctx, req)
	if err != nil {
		return &nodev1.WriteResponse{Id: req.GetId(), Problem: rpc.ProblemOf(err, s.router.n.clusterName()).JSON()}
	}
	out.Id = req.GetId()
	return out
}

// Scan implements the service.
func (s *documentService) Scan(req *nodev1.ScanRequest, stream grpc.ServerStreamingServer[nodev1.ScanResponse]) error {
	batch, size := &nodev1.ScanResponse{}, 0
	flush := func() error {
		if len(batch.Documents) == 0 {
			return nil
		}
		err := stream.Send(batch)
		batch, size = &nodev1.ScanResponse{}, 0
		return err
	}
	err := s.router.Scan(stream.Context(), req, func(d *nodev1.ScannedDocument) error {
		batch.Documents = append(batch.Documents, d)
		if size += len(d.GetValue()) + len(d.GetKey()) + 64; size >= scanBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

func (n *Node) clusterName() string {
	if j := n.joined(); j != nil {
		return j.Name
	}
	return ""
}
