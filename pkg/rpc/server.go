package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	_ "google.golang.org/grpc/encoding/gzip" // so that callers in other datacenters may compress

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// The limits of both ends of a connection.
const (
	MaxMessageBytes = 24 << 20 // a document of 16 MiB with all that is around it
	MaxFrameBytes   = 1 << 20  // by convention, what one message of a stream carries at most
	windowBytes     = 8 << 20  // in flight per stream and per connection before the receiver must have read
	bufferBytes     = 256 << 10
	maxStreams      = 4096 // calls at once on one connection; further ones wait at the caller

	pingEvery    = 60 * time.Second // on a silent connection
	pingMinimum  = 30 * time.Second // a peer that pings more often is cut off
	pingTimeout  = 10 * time.Second
	defaultDial  = 5 * time.Second
	defaultGrace = 5 * time.Second
)

// ServerOptions of a Server.
type ServerOptions struct {
	Source  *pki.Source // the node's identity; required
	Cluster string      // the cluster's name, told in every error
	Joining bool        // serve Join: connections without a certificate are let in, and only Join is answered on them

	Log     *slog.Logger // default: discarded
	Metrics *Metrics     // default: counted unseen

	ReplayWindow     time.Duration // how far a stamp may be from this clock; default DefaultReplayWindow
	HandshakeTimeout time.Duration // default 5 s
	Grace            time.Duration // how long Run lets calls end before it cuts them; default 5 s
}

// Server is a gRPC server that answers nobody who hasn't the right to ask. Register services on it before Run.
type Server struct {
	*grpc.Server
	opts   ServerOptions
	log    *slog.Logger
	m      *Metrics
	replay *replayGuard
	open   *connections
}

// NewServer makes a server that does not listen yet.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Source == nil {
		return nil, errors.New("rpc server: no certificates: Source is nil")
	}
	if o.ReplayWindow < 0 || o.HandshakeTimeout < 0 || o.Grace < 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "rpc server: replay window %s, handshake timeout %s, grace %s: none may be negative", o.ReplayWindow, o.HandshakeTimeout, o.Grace)
	}
	o.ReplayWindow = or(o.ReplayWindow, DefaultReplayWindow)
	o.HandshakeTimeout = or(o.HandshakeTimeout, defaultDial)
	o.Grace = or(o.Grace, defaultGrace)
	o.Log = or(o.Log, slog.New(slog.DiscardHandler))
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	s := &Server{opts: o, log: o.Log, m: o.Metrics, replay: newReplayGuard(o.ReplayWindow, time.Now()), open: newConnections()}
	config := o.Source.ServerConfig()
	if o.Joining {
		config = o.Source.OptionalServerConfig()
	}
	creds := &transport{
		config: config, metrics: o.Metrics, open: s.open,
		onShake: func(error) {}, onOpen: func(pki.Info) func() { return func() {} },
	}
	s.Server = grpc.NewServer(
		grpc.Creds(creds),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.ChainUnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.stream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingMinimum, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.ConnectionTimeout(o.HandshakeTimeout),
		// No limit on what is sent: gRPC would turn an answer away as if nothing had been done. The caller's own limit does not.
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(windowBytes),
		grpc.ReadBufferSize(bufferBytes), grpc.WriteBufferSize(bufferBytes),
		grpc.WaitForHandlers(true),
	)
	return s, nil
}

// Listen opens the address; host:0 picks a free port. The error names the address.
func Listen(addr string) (net.Listener, error) {
	lis, err := net.Listen("tcp", addr) //nolint:noctx // opening a port does not wait
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return lis, nil
}

// Run serves until ctx ends, then lets running calls end within the grace, cuts the others, and returns when all handlers
// have. It closes lis. A server runs once.
func (s *Server) Run(ctx context.Context, lis net.Listener) error {
	s.log.InfoContext(ctx, fmt.Sprintf("RPC Shard Server listening on %s with mTLS", lis.Addr()), "addr", lis.Addr().String())
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	select {
	case err := <-served:
		s.Stop()
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	wasCut := make(chan struct{})
	cut := time.AfterFunc(s.opts.Grace, func() { s.Stop(); close(wasCut) })
	s.GracefulStop() // returns when the calls have ended, by themselves or by Stop
	if !cut.Stop() {
		<-wasCut
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	}
	return nil
}

// Recheck verifies the peer of every open connection again, closes those of certificates that are no longer good, such as
// revoked ones, and returns how many. It is meant for pki.Options.OnReload.
func (s *Server) Recheck() int {
	return s.open.recheck(func(cs tls.ConnectionState) error { return s.opts.Source.CheckPeer(cs, true) })
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, _ error) {
	err := s.serve(ctx, info.FullMethod, func() (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return s.serve(stream.Context(), info.FullMethod, func() error { return handler(srv, stream) })
}

// serve is the way of every call: may it, run it, count it, and say what went wrong in our words.
func (s *Server) serve(ctx context.Context, full string, run func() error) error {
	row, known := MethodOf(full)
	if !known {
		row.Operation, row.Changes = "unknown", true
	}
	began := time.Now()
	err := s.admit(ctx, full, row, known, began)
	if err == nil {
		err = s.guarded(ctx, full, run)
	}
	s.m.served(ctx, row, began, err)
	if err == nil {
		return nil
	}
	return s.answer(ctx, full, row, err)
}

// refusal is a *themis.Error whose status message is the contract's short text; the detail tells more.
type refusal struct {
	err     *themis.Error
	message string
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// admit answers whether the call may run.
func (s *Server) admit(ctx context.Context, full string, row Method, known bool, now time.Time) error {
	if !known {
		return themis.Errorf(themis.PermissionDenied, "%s is in no row of the capability table, so nobody may call it", full)
	}
	if row.Open {
		return nil
	}
	who, ok := Peer(ctx)
	if !ok {
		return themis.Errorf(themis.Unauthenticated, "Client certificate required").Do("present a certificate of this cluster's CA: --cacert, --cert, --key")
	}
	if !row.allows(who) && guard.On(guard.Capability) {
		have := "none"
		if len(who.Capabilities) > 0 {
			have = strings.Join(who.Capabilities, ",")
		}
		return &refusal{message: row.missing(), err: themis.Errorf(themis.PermissionDenied,
			"%s: %s needs %s, the certificate of %s (serial %s) has %s", row.missing(), methodName(full), strings.Join(row.Needs, " or "), who, who.Serial, have)}
	}
	if !row.Fresh {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return s.replay.check(md, now)
}

// guarded runs a handler; a panic ends the call, not the process.
func (s *Server) guarded(ctx context.Context, full string, run func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.ErrorContext(ctx, "rpc handler panicked", "operation", full, "peer", peerName(ctx), "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = themis.Errorf(themis.Internal, "%s panicked: %v", methodName(full), r)
		}
	}()
	return run()
}

// answer turns a handler's error into the status that is sent, and logs what an operator should hear of.
func (s *Server) answer(ctx context.Context, full string, row Method, err error) error {
	e := asError(err, row.Changes)
	message := e.Detail
	short, refused := errors.AsType[*refusal](err)
	if refused {
		message = short.message
	}
	switch e.Code {
	case themis.Internal:
		s.log.ErrorContext(ctx, "rpc failed", "operation", full, "peer", peerName(ctx), "code", e.Code, "err", err)
	case themis.PermissionDenied, themis.Unauthenticated:
		s.log.WarnContext(ctx, "rpc refused", "operation", full, "peer", peerName(ctx), "code", e.Code, "err", err)
	}
	return statusOf(e, message, s.opts.Cluster, responseWith(full, message)...).Err()
}

// responseWith is the rpc's response with its field error set, where it has one: the contract wants the text there too, and gRPC
// sends no response beside an error, so it travels in the details.
func responseWith(full, text string) []protoadapt.MessageV1 {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(full, "/"), "/", ".")))
	method, ok := found.(protoreflect.MethodDescriptor)
	if err != nil || !ok {
		return nil
	}
	field := method.Output().Fields().ByName("error")
	if field == nil || field.Kind() != protoreflect.StringKind || field.IsList() {
		return nil
	}
	response := dynamicpb.NewMessage(method.Output())
	response.Set(field, protoreflect.ValueOfString(clip(text)))
	return []protoadapt.MessageV1{protoadapt.MessageV1Of(response)}
}

// peerName is for logs: who, and from where.
func peerName(ctx context.Context) string {
	addr := "?"
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		addr = p.Addr.String()
	}
	if who, ok := Peer(ctx); ok {
		return fmt.Sprintf("%s (%s)", who, addr)
	}
	return addr
}

// or is v, or the default where v is zero.
func or[T comparable](v, standard T) T {
	var zero T
	if v == zero {
		return standard
	}
	return v
}
