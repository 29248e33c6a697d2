package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// failureLines are the log lines of the contract, for the calls that have one.
var failureLines = map[string]func(message string, code themis.Code) string{
	sharding.ShardService_ReplicateData_FullMethodName: func(message string, code themis.Code) string {
		return fmt.Sprintf("ReplicateData RPC failed: %s (%s)", message, code)
	},
	sharding.ShardService_ReplicateDataStream_FullMethodName: func(message string, _ themis.Code) string {
		return "ReplicateDataStream RPC failed: " + message
	},
	sharding.ShardService_GetShardStatus_FullMethodName: func(message string, _ themis.Code) string {
		return "GetShardStatus RPC failed: " + message
	},
}

// evidence is how far a unary call got, as the transport saw it.
type evidence struct {
	sent    atomic.Bool // the request was handed to the transport
	headers atomic.Bool // an answer began
	turned  atomic.Bool // the other side ended the call without beginning an answer
}

type evidenceKey struct{}

// evidenceHandler fills in the evidence of the calls that carry one.
type evidenceHandler struct{}

func (evidenceHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (evidenceHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (evidenceHandler) HandleConn(context.Context, stats.ConnStats)                       {}

func (evidenceHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	e, ok := ctx.Value(evidenceKey{}).(*evidence)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.Begin: // again, where the first attempt surely wasn't processed
		e.sent.Store(false)
		e.headers.Store(false)
		e.turned.Store(false)
	case *stats.OutPayload:
		e.sent.Store(true)
	case *stats.InHeader:
		e.headers.Store(true)
	case *stats.InTrailer:
		e.turned.Store(!e.headers.Load())
	}
}

func (e *evidence) fate() Fate {
	switch {
	case !e.sent.Load():
		return NotSent
	case e.turned.Load():
		return Turned
	}
	return Lost
}

// known is the row of a method; one that isn't in the table is taken for a change.
func known(method string) Method {
	row, ok := MethodOf(method)
	if !ok {
		return Method{Operation: "unknown", Changes: true}
	}
	return row
}

func (t *target) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	row := known(method)
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.pool.opts.RequestTimeout)
		defer cancel()
	}
	if row.Changes {
		ctx = stamp(ctx)
	}
	e := &evidence{}
	err := invoke(context.WithValue(ctx, evidenceKey{}, e), method, req, reply, cc, opts...)
	if err == nil {
		return nil
	}
	return t.failed(ctx, method, row, e.fate(), err)
}

// failed turns the error of a call into ours, and logs the lines of the contract.
func (t *target) failed(ctx context.Context, method string, row Method, fate Fate, err error) error {
	err = Call{Peer: t.name(), Method: method, Changes: row.Changes, Fate: fate, Conn: t.why(), Ctx: ctx.Err()}.Error(err)
	if line, ok := failureLines[method]; ok {
		code := themis.CodeOf(err)
		t.pool.opts.Log.WarnContext(ctx, line(err.Error(), code), "peer", t.name(), "operation", row.Operation, "code", code)
	}
	return err
}

func (t *target) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	row := known(method)
	if row.Changes {
		ctx = stamp(ctx)
	}
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, t.failed(ctx, method, row, NotSent, err)
	}
	return &clientStream{ClientStream: s, t: t, method: method, row: row}, nil
}

// clientStream is a stream whose errors are ours.
type clientStream struct {
	grpc.ClientStream
	t      *target
	method string
	row    Method
	sent   atomic.Uint64 // messages handed over
}

func (s *clientStream) SendMsg(m any) error {
	n := s.sent.Add(1) - 1 // before it is sent: another goroutine may learn of the end while this one is still here
	err := s.ClientStream.SendMsg(m)
	if err != nil && s.method == sharding.ShardService_ReplicateDataStream_FullMethodName {
		s.t.pool.opts.Log.WarnContext(s.Context(), fmt.Sprintf("Failed to write chunk %d", n), "peer", s.t.name(), "operation", s.row.Operation)
	}
	return s.ours(err)
}

func (s *clientStream) RecvMsg(m any) error { return s.ours(s.ClientStream.RecvMsg(m)) }

func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, s.ours(err)
}

// ours leaves nil and io.EOF as they are: the one is no error, the other says to ask RecvMsg.
func (s *clientStream) ours(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	fate := Lost
	if s.sent.Load() == 0 {
		fate = NotSent
	}
	return s.t.failed(s.Context(), s.method, s.row, fate, err)
}
