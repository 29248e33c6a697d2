package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// everyMethod walks the descriptors of our services.
func everyMethod(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var all []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "themis.") {
			for i := range f.Services().Len() {
				for j := range f.Services().Get(i).Methods().Len() {
					all = append(all, f.Services().Get(i).Methods().Get(j))
				}
			}
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("only %d methods found", len(all))
	}
	return all
}

func fullName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func TestTableHasEveryMethod(t *testing.T) {
	operations := map[string]string{}
	seen := map[string]bool{}
	for _, m := range everyMethod(t) {
		full := fullName(m)
		row, ok := MethodOf(full)
		if !ok {
			t.Errorf("%s is not in the capability table", full)
			continue
		}
		seen[full] = true
		if other := operations[row.Operation]; row.Operation == "" || other != "" {
			t.Errorf("%s: operation %q, as %q", full, row.Operation, other)
		}
		operations[row.Operation] = full
		if row.Fresh && !row.Changes {
			t.Errorf("%s asks for a stamp that callers don't add", full)
		}
		if row.Open && full != nodev1.AdminService_Join_FullMethodName {
			t.Errorf("%s asks for no certificate", full)
		}
	}
	for full := range methods {
		if !seen[full] {
			t.Errorf("%s is in the table but no rpc", full)
		}
	}
}

// needed is the contract, written down a second time. What is not here any certificate may call.
var needed = map[string]string{
	"ReplicateData": pki.Replicate, "ReplicateDataStream": pki.Replicate, "RequestVote": pki.Replicate, "AppendEntries": pki.Replicate,
	"Replicate": pki.Replicate, "Install": pki.Replicate, "Held": pki.Replicate,
	"PrepareTransaction": pki.Write, "CommitTransaction": pki.Write, "AbortTransaction": pki.Write,
	"Write": pki.Write, "WriteStream": pki.Write, "Read": pki.Read, "Scan": pki.Read,
	"MigrateData": pki.Admin, "Act": pki.Admin, "ApplyConfig": pki.Admin, "Bootstrap": pki.Admin,
}

// invoke calls any method with an empty message and returns how it ended.
func invoke(ctx context.Context, conn grpc.ClientConnInterface, m protoreflect.MethodDescriptor) error {
	out := dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return conn.Invoke(ctx, fullName(m), &emptypb.Empty{}, out)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: m.IsStreamingServer()}, fullName(m))
	if err != nil {
		return err
	}
	if err := s.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) { // EOF: it has ended, RecvMsg says how
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	return s.RecvMsg(out)
}

// Each certificate with one capability, or none, calls every method.
func TestCapabilities(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{})
	for _, have := range []string{"", pki.Read, pki.Write, pki.Replicate, pki.Admin} {
		var capabilities []string
		if have != "" {
			capabilities = []string{have}
		}
		p := pool(t, PoolOptions{Source: source(t, ca, client("tool", capabilities...))})
		conn := must[*grpc.ClientConn](t)(p.Conn(testContext(t), server.addr, "node-1"))
		for _, m := range everyMethod(t) {
			need := needed[string(m.Name())]
			err := invoke(testContext(t), conn, m)
			code := themis.CodeOf(err)
			if may := need == "" || need == have; may == (code == themis.PermissionDenied) {
				t.Errorf("%s with %q, which needs %q: %v", m.Name(), have, need, err)
				continue
			}
			if code != themis.PermissionDenied {
				continue
			}
			for _, part := range []string{string(m.Name()), " needs " + need, "client tool of cluster demo", " has " + or(have, "none")} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s with %q: %q does not say %q", m.Name(), have, err, part)
				}
			}
		}
	}
}

// rawConn is a connection without what Pool adds.
func rawConn(t *testing.T, addr string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config))))
	t.Cleanup(func() { conn.Close() }) //nolint:errcheck // closing twice is the only fault
	return conn
}

// The exact codes and texts of the contract (RPC-05), as any gRPC client sees them.
func TestContractTexts(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1")), Joining: true}, &services{
		write: func(context.Context, *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
			return nil, errors.New("disk on fire")
		},
	})
	anonymous := rawConn(t, server.addr, must[*tls.Config](t)(pki.PinnedConfig(pki.Pin(ca.Cert), nil)))
	writer := rawConn(t, server.addr, source(t, ca, client("w", pki.Write)).ClientConfig("node-1", ""))
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"no certificate", invokeName(t, anonymous, sharding.ShardService_ReplicateData_FullMethodName), codes.Unauthenticated, "Client certificate required"},
		{"write does not replicate", invokeName(t, writer, sharding.ShardService_ReplicateData_FullMethodName), codes.PermissionDenied, "Shard does not have replication capability"},
		{"no admin", invokeName(t, writer, nodev1.AdminService_Act_FullMethodName), codes.PermissionDenied, "Certificate does not have admin capability"},
		{"internal", invokeName(t, writer, nodev1.DocumentService_Write_FullMethodName), codes.Internal, "disk on fire"},
	} {
		if st := status.Convert(tc.err); st.Code() != tc.code || st.Message() != tc.text {
			t.Errorf("%s: %s %q, want %s %q", tc.name, st.Code(), st.Message(), tc.code, tc.text)
		}
	}
	refused := status.Convert(invokeName(t, writer, sharding.ShardService_ReplicateData_FullMethodName))
	i := slices.IndexFunc(refused.Details(), func(d any) bool { _, ok := d.(*sharding.ReplicateResponse); return ok })
	if i < 0 || refused.Details()[i].(*sharding.ReplicateResponse).GetError() != refused.Message() {
		t.Errorf("response.error does not hold the text: %v", refused.Details())
	}
	if _, err := nodev1.NewAdminServiceClient(anonymous).Join(testContext(t), &nodev1.JoinRequest{}); err != nil {
		t.Errorf("join without a certificate: %v", err)
	}
	if log := server.log.String(); !strings.Contains(log, "rpc refused") || !strings.Contains(log, "client w of cluster demo") {
		t.Errorf("refusals are not logged:\n%s", log)
	}
}

func invokeName(t *testing.T, conn grpc.ClientConnInterface, full string) error {
	t.Helper()
	return conn.Invoke(testContext(t), full, &emptypb.Empty{}, &emptypb.Empty{})
}

// A method that somebody registers without a row in the table is denied, not open.
func TestMethodOutsideTheTableIsDenied(t *testing.T) {
	ca := newCA(t, "demo")
	server := must[*Server](t)(NewServer(ServerOptions{Source: source(t, ca, node("node-1"))}))
	ran := false
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "themis.node.v1.Forgotten", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Do",
		Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			req := &emptypb.Empty{}
			if err := decode(req); err != nil {
				return nil, err
			}
			return intercept(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/themis.node.v1.Forgotten/Do"}, func(context.Context, any) (any, error) {
				ran = true
				return req, nil
			})
		},
	}}}, struct{}{})
	lis := must[net.Listener](t)(Listen("127.0.0.1:0"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, lis) }()
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2"))})
	conn := must[*grpc.ClientConn](t)(p.Conn(testContext(t), lis.Addr().String(), "node-1"))
	if err := invokeName(t, conn, "/themis.node.v1.Forgotten/Do"); themis.CodeOf(err) != themis.PermissionDenied || ran {
		t.Errorf("ran %t, %v", ran, err)
	}
	if err := invokeName(t, conn, "/themis.node.v1.AdminService/FromTheFuture"); themis.CodeOf(err) != themis.Unimplemented {
		t.Errorf("a method that this server doesn't have: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPanicEndsTheCallOnly(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{
		health: func(context.Context) error { panic("boom") },
		replicate: func(grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error {
			panic("boom in a stream")
		},
	})
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2"))})
	shards := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), server.addr, "node-1"))
	_, err := shards.HealthCheck(testContext(t), &sharding.HealthRequest{})
	if themis.CodeOf(err) != themis.Internal || !strings.Contains(err.Error(), "boom") {
		t.Errorf("unary: %v", err)
	}
	stream := must[grpc.BidiStreamingClient[nodev1.ReplicateRequest, nodev1.ReplicateResponse]](t)(
		must[nodev1.ReplicationServiceClient](t)(p.Replication(testContext(t), server.addr, "node-1")).Replicate(testContext(t)))
	if _, err = stream.Recv(); themis.CodeOf(err) != themis.Internal {
		t.Errorf("stream: %v", err)
	}
	if _, err := shards.GossipExchange(testContext(t), &sharding.GossipMessage{}); themis.CodeOf(err) != themis.Unimplemented {
		t.Errorf("afterwards: %v", err)
	}
	if log := server.log.String(); strings.Count(log, "rpc handler panicked") != 2 || !strings.Contains(log, "node node-2 of cluster demo") {
		t.Errorf("log:\n%s", log)
	}
}

func TestPeer(t *testing.T) {
	if _, ok := Peer(t.Context()); ok {
		t.Error("a peer without a call")
	}
	ca := newCA(t, "demo")
	var got pki.Info
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{health: func(ctx context.Context) error {
		who, ok := Peer(ctx)
		if !ok {
			return errors.New("no peer")
		}
		got = who
		return nil
	}})
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2"))})
	if _, err := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), server.addr, "")).HealthCheck(testContext(t), nil); err != nil {
		t.Fatal(err)
	}
	if got.Node != "node-2" || got.Kind != pki.KindNode || !got.Has(pki.Replicate) {
		t.Errorf("peer %+v", got)
	}
}

// Stamps are demanded where nothing else fences a repeat, by any client.
func TestStamps(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{})
	conn := rawConn(t, server.addr, source(t, ca, node("node-2")).ClientConfig("node-1", ""))
	call := func(pairs ...string) themis.Code {
		ctx := metadata.AppendToOutgoingContext(testContext(t), pairs...)
		return themis.CodeOf(Call{Fate: Turned}.Error(invokeCtx(ctx, conn, sharding.ShardService_ReplicateData_FullMethodName)))
	}
	now := func(off time.Duration) string { return fmt.Sprint(time.Now().Add(off).UnixNano()) }
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 32)
	for _, tc := range []struct {
		name  string
		pairs []string
		want  themis.Code
	}{
		{"none", nil, themis.InvalidArgument},
		{"no nonce", []string{TimestampKey, now(0)}, themis.InvalidArgument},
		{"good", []string{TimestampKey, now(0), NonceKey, one}, ""},
		{"again", []string{TimestampKey, now(0), NonceKey, one}, themis.Unauthenticated},
		{"old", []string{TimestampKey, now(-time.Minute), NonceKey, two}, themis.Unauthenticated},
		{"from the future", []string{TimestampKey, now(time.Minute), NonceKey, two}, themis.Unauthenticated},
		{"a little off", []string{TimestampKey, now(-20 * time.Second), NonceKey, two}, ""},
	} {
		if got := call(tc.pairs...); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	// A node whose clock is wrong still follows and votes: those are fenced by epochs.
	if err := invokeName(t, conn, sharding.ShardService_RequestVote_FullMethodName); status.Code(err) != codes.Unimplemented {
		t.Errorf("vote without a stamp: %v", err)
	}
}

func invokeCtx(ctx context.Context, conn grpc.ClientConnInterface, full string) error {
	return conn.Invoke(ctx, full, &emptypb.Empty{}, &emptypb.Empty{})
}

// A certificate that is revoked after the handshake loses its open connections, others keep theirs.
func TestRecheck(t *testing.T) {
	ca := newCA(t, "demo")
	identity := files(t, ca, node("node-1"))
	identity.CRL = t.TempDir() + "/crl.pem"
	good, bad := source(t, ca, client("good")), source(t, ca, client("bad"))
	list := must[[]byte](t)(ca.Revoke(nil, 0))
	if err := os.WriteFile(identity.CRL, list, 0o600); err != nil {
		t.Fatal(err)
	}
	mine := must[*pki.Source](t)(pki.Open(identity, pki.Options{}))
	server := start(t, ServerOptions{Source: mine}, &services{})
	check := func(p *Pool) error {
		shards := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), server.addr, "node-1"))
		_, err := shards.HealthCheck(testContext(t), &sharding.HealthRequest{})
		return err
	}
	pg, pb := pool(t, PoolOptions{Source: good}), pool(t, PoolOptions{Source: bad})
	if err := errors.Join(check(pg), check(pb)); err != nil {
		t.Fatal(err)
	}
	if n := server.Recheck(); n != 0 {
		t.Fatalf("%d connections closed although nothing is revoked", n)
	}
	list = must[[]byte](t)(ca.Revoke(list, 0, bad.Certificate().SerialNumber))
	if err := errors.Join(os.WriteFile(identity.CRL, list, 0o600), mine.Reload()); err != nil {
		t.Fatal(err)
	}
	if n := server.Recheck(); n != 1 {
		t.Errorf("%d connections closed, want 1", n)
	}
	eventually(t, "the revoked client is refused", func() bool { // its first call may still meet the end of the old connection
		err := check(pb)
		if err == nil {
			t.Fatal("a revoked certificate is still served")
		}
		return themis.CodeOf(err) == themis.Unauthenticated
	})
	if err := check(pg); err != nil {
		t.Errorf("the other client: %v", err)
	}
}

func TestRunLetsCallsEndThenCutsThem(t *testing.T) {
	ca := newCA(t, "demo")
	healthy, writing, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1")), Grace: 100 * time.Millisecond}, &services{
		health: func(context.Context) error { close(healthy); <-finish; return nil },
		write: func(ctx context.Context, _ *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
			close(writing)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2"))})
	shards := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), server.addr, "node-1"))
	ended := make(chan error, 1)
	go func() {
		_, err := shards.HealthCheck(context.Background(), &sharding.HealthRequest{})
		ended <- err
	}()
	<-healthy
	documents := must[nodev1.DocumentServiceClient](t)(p.Documents(testContext(t), server.addr, "node-1"))
	cut := make(chan error, 1)
	go func() {
		_, err := documents.Write(context.Background(), &nodev1.WriteRequest{})
		cut <- err
	}()
	<-writing
	close(finish)
	server.stop()
	if err := <-ended; err != nil {
		t.Errorf("a call that ended in time: %v", err)
	}
	if err := <-cut; themis.CodeOf(err) != themis.OutcomeUnknown {
		t.Errorf("a write that was cut: %v", err)
	}
	if !strings.Contains(server.log.String(), "RPC Shard Server listening on "+server.addr+" with mTLS") {
		t.Errorf("log:\n%s", server.log)
	}
}

func TestListenNamesTheAddress(t *testing.T) {
	lis := must[net.Listener](t)(Listen("127.0.0.1:0"))
	defer lis.Close() //nolint:errcheck // a test's
	if _, err := Listen(lis.Addr().String()); err == nil || !strings.Contains(err.Error(), lis.Addr().String()) {
		t.Errorf("%v", err)
	}
}

func TestServerOptions(t *testing.T) {
	if _, err := NewServer(ServerOptions{}); err == nil {
		t.Error("a server without certificates")
	}
	ca := newCA(t, "demo")
	if _, err := NewServer(ServerOptions{Source: source(t, ca, node("node-1")), Grace: -1}); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("negative grace: %v", err)
	}
}
