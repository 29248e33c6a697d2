package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/stats"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// health asks over the pool.
func health(ctx context.Context, p *Pool, addr string, expect themis.NodeID, opts ...ConnOption) error {
	shards, err := p.Shards(ctx, addr, expect, opts...)
	if err != nil {
		return err
	}
	_, err = shards.HealthCheck(ctx, &sharding.HealthRequest{})
	return err
}

func write(ctx context.Context, p *Pool, addr string, r *nodev1.WriteRequest, opts ...grpc.CallOption) error {
	documents, err := p.Documents(ctx, addr, "")
	if err != nil {
		return err
	}
	_, err = documents.Write(ctx, r, opts...)
	return err
}

// Each way in which two sides don't believe each other is told apart from a node that is down, with words and reason.
func TestIdentity(t *testing.T) {
	ca, foreign, twin := newCA(t, "demo"), newCA(t, "demo"), newCA(t, "other")
	for _, tc := range []struct {
		name   string
		server *pki.Source
		client PoolOptions
		expect themis.NodeID
		want   themis.Code
		text   string
	}{
		{"by node id", source(t, ca, node("node-1")), PoolOptions{Source: source(t, ca, node("node-2"))}, "node-1", "", ""},
		{"by host", source(t, ca, node("node-1")), PoolOptions{Source: source(t, ca, node("node-2"))}, "", "", ""},
		{"another node answers", source(t, ca, node("node-1")), PoolOptions{Source: source(t, ca, node("node-2"))}, "node-7", themis.Unauthenticated, "node-7"},
		{"client of another CA", source(t, ca, node("node-1")), PoolOptions{Source: source(t, foreign, node("node-2"))}, "node-1", themis.Unauthenticated, "is not believed"},
		{"client of another cluster", source(t, ca, node("node-1")), PoolOptions{Source: source(t, twin, node("node-2"))}, "node-1", themis.Unauthenticated, "is not believed"},
		{"no certificate", source(t, ca, node("node-1")), PoolOptions{TLS: pinned(t, ca)}, "", themis.Unauthenticated, "refused the certificate of this process, or that there is none"},
		{"a client certificate serves", source(t, ca, client("posing")), PoolOptions{Source: source(t, ca, node("node-2"))}, "", themis.Unauthenticated, "is not believed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := start(t, ServerOptions{Source: tc.server}, &services{})
			reg := prometheus.NewRegistry()
			tc.client.Metrics = NewMetrics(reg)
			p := pool(t, tc.client)
			err := health(testContext(t), p, server.addr, tc.expect)
			if code := themis.CodeOf(err); code != tc.want || err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("%v, code %s", err, code)
			}
			if err == nil {
				return
			}
			if IsRefused(err) || MayFallBack(err) {
				t.Errorf("refused %t, may fall back %t", IsRefused(err), MayFallBack(err))
			}
			eventually(t, "a certificate failure is counted on one of the sides", func() bool { // the client may know first
				return gather(t, reg, server.reg)["rpc_shard_certificate_verification_failures_total"] >= 1
			})
		})
	}
}

func pinned(t *testing.T, ca *pki.CA) *tls.Config {
	t.Helper()
	return must[*tls.Config](t)(pki.PinnedConfig(pki.Pin(ca.Cert), nil))
}

// A server that refuses has its reason heard every time, although the client is already talking.
func TestRefusalIsHeard(t *testing.T) {
	ca, foreign := newCA(t, "demo"), newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{})
	stranger := must[*pki.Source](t)(pki.Open(files(t, foreign, client("stranger")), pki.Options{SkipPeer: true}))
	for range 20 {
		p := pool(t, PoolOptions{Source: stranger})
		if err := health(testContext(t), p, server.addr, ""); themis.CodeOf(err) != themis.Unauthenticated || !strings.Contains(err.Error(), "tls: ") {
			t.Fatal(err)
		}
	}
}

func TestIPv6Targets(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{})
	var mu sync.Mutex
	var dialled []string
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2")), Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialled = append(dialled, addr)
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.addr)
	}})
	if err := health(testContext(t), p, "[::1]:50051", ""); err != nil {
		t.Errorf("by the address that the certificate names: %v", err)
	}
	if err := health(testContext(t), p, "[fe80::1%eth0]:50051", "node-1"); err != nil {
		t.Errorf("by node id, with a zone: %v", err)
	}
	if err := health(testContext(t), p, "[::2]:50051", ""); themis.CodeOf(err) != themis.Unauthenticated || !strings.Contains(err.Error(), "::2") {
		t.Errorf("by an address that it doesn't name: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(dialled[:3], " "); got != "[::1]:50051 [fe80::1%eth0]:50051 [::2]:50051" {
		t.Errorf("dialled %s", got)
	}
	for _, bad := range []string{"", "node-1", "::1:50051", ":50051", "node-1:"} {
		if _, err := p.Conn(testContext(t), bad, ""); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("address %q: %v", bad, err)
		}
	}
}

func TestRefusedIsKnownAtOnce(t *testing.T) {
	p := pool(t, PoolOptions{Source: source(t, newCA(t, "demo"), node("node-2"))})
	addr := loopback.Addr(t)
	for range 3 { // also while the channel waits to dial again
		for name, err := range map[string]error{"reading": health(testContext(t), p, addr, "node-1"), "changing": write(testContext(t), p, addr, &nodev1.WriteRequest{})} {
			if themis.CodeOf(err) != themis.Unreachable || !IsRefused(err) || !MayFallBack(err) {
				t.Errorf("%s: %v, refused %t", name, err, IsRefused(err))
			}
			if !strings.Contains(err.Error(), addr+") refused the connection") && !strings.Contains(err.Error(), addr+" refused the connection") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A host that takes the connection and then says nothing is slow, not refused.
func TestSlowIsNotRefused(t *testing.T) {
	lis := must[net.Listener](t)(Listen("127.0.0.1:0")) // the kernel accepts; nobody shakes hands
	defer lis.Close()                                   //nolint:errcheck // a test's
	me := source(t, newCA(t, "demo"), node("node-2"))
	p := pool(t, PoolOptions{Source: me, ConnectTimeout: 100 * time.Millisecond})
	if err := write(testContext(t), p, lis.Addr().String(), &nodev1.WriteRequest{}); themis.CodeOf(err) != themis.Unreachable || IsRefused(err) {
		t.Errorf("connect timeout: %v", err)
	}
	p = pool(t, PoolOptions{Source: me, ConnectTimeout: within})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := write(ctx, p, lis.Addr().String(), &nodev1.WriteRequest{}); themis.CodeOf(err) != themis.Deadline || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the caller's deadline: %v", err)
	}
}

// A change that was sent and not answered has an unknown outcome; a read that was is only late.
func TestFateOfLostCalls(t *testing.T) {
	ca := newCA(t, "demo")
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	defer close(release)
	hang := func(ctx context.Context) error {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{
		health: hang,
		write: func(ctx context.Context, _ *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
			return nil, hang(ctx)
		},
		replicate: func(s grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return hang(s.Context())
		},
	})
	var last atomic.Pointer[net.Conn]
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2")), RequestTimeout: 50 * time.Millisecond, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		last.Store(&conn)
		return conn, err
	}})
	background := context.Background() // no deadline: the pool's RequestTimeout counts
	if err := write(background, p, server.addr, &nodev1.WriteRequest{}); themis.CodeOf(err) != themis.OutcomeUnknown || !errors.Is(err, context.DeadlineExceeded) || MayFallBack(err) {
		t.Errorf("a write without an answer in time: %v", err)
	}
	if err := health(background, p, server.addr, ""); themis.CodeOf(err) != themis.Deadline {
		t.Errorf("a read without an answer in time: %v", err)
	}
	<-arrived
	<-arrived
	cut := func(call func(context.Context) error) error {
		if err := p.Forget(server.addr); err != nil { // a fresh channel
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- call(testContext(t)) }()
		select {
		case <-arrived:
			(*last.Load()).Close() //nolint:errcheck // that is the fault
			return <-ended
		case err := <-ended:
			return fmt.Errorf("ended before it was cut: %w", err)
		}
	}
	if err := cut(func(ctx context.Context) error { return write(ctx, p, server.addr, &nodev1.WriteRequest{}) }); themis.CodeOf(err) != themis.OutcomeUnknown {
		t.Errorf("a write whose connection broke: %v", err)
	}
	if err := cut(func(ctx context.Context) error { return health(ctx, p, server.addr, "") }); themis.CodeOf(err) != themis.Unreachable || IsRefused(err) {
		t.Errorf("a read whose connection broke: %v", err)
	}
	if err := cut(func(ctx context.Context) error {
		stream := must[grpc.BidiStreamingClient[nodev1.ReplicateRequest, nodev1.ReplicateResponse]](t)(
			must[nodev1.ReplicationServiceClient](t)(p.Replication(ctx, server.addr, "")).Replicate(ctx))
		if err := stream.Send(&nodev1.ReplicateRequest{}); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}); themis.CodeOf(err) != themis.OutcomeUnknown {
		t.Errorf("a changing stream whose connection broke: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	conn := must[*grpc.ClientConn](t)(p.Conn(testContext(t), server.addr, ""))
	if _, err := nodev1.NewDocumentServiceClient(conn).Write(ctx, &nodev1.WriteRequest{}); themis.CodeOf(err) != themis.Deadline || !errors.Is(err, context.Canceled) {
		t.Errorf("a write that was given up before it was sent: %v", err)
	}
}

// gRPC repeats by itself what the other side surely did not process; what counts is how the last attempt went.
func TestEvidence(t *testing.T) {
	header, payload, answer, end := &stats.OutHeader{}, &stats.OutPayload{}, &stats.InHeader{}, &stats.InTrailer{}
	for _, tc := range []struct {
		name   string
		events []stats.RPCStats
		want   Fate
	}{
		{"nothing happened", []stats.RPCStats{&stats.Begin{}}, NotSent},
		{"only the headers went out", []stats.RPCStats{&stats.Begin{}, header}, NotSent},
		{"sent", []stats.RPCStats{&stats.Begin{}, header, payload}, Lost},
		{"turned away", []stats.RPCStats{&stats.Begin{}, header, payload, end}, Turned},
		{"answered", []stats.RPCStats{&stats.Begin{}, header, payload, answer, end}, Lost},
		{"not processed, then not sent", []stats.RPCStats{&stats.Begin{}, header, payload, end, &stats.Begin{IsTransparentRetryAttempt: true}}, NotSent},
		{"not processed, then sent", []stats.RPCStats{&stats.Begin{}, header, payload, end, &stats.Begin{IsTransparentRetryAttempt: true}, header, payload}, Lost},
	} {
		e := &evidence{}
		for _, event := range tc.events {
			evidenceHandler{}.HandleRPC(context.WithValue(t.Context(), evidenceKey{}, e), event)
		}
		if got := e.fate(); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	if !known("/some.Service/Unheard").Changes {
		t.Error("a method that isn't in the table is not taken for a change")
	}
}

// Sizes: what was not done says so, and an answer that doesn't fit leaves the outcome open.
func TestTooLarge(t *testing.T) {
	ca := newCA(t, "demo")
	big := make([]byte, MaxMessageBytes)
	writes := 0
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{
		write: func(context.Context, *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
			writes++
			return &nodev1.WriteResponse{Problem: big}, nil
		},
		read: func(context.Context) (*nodev1.ReadResponse, error) { return &nodev1.ReadResponse{Value: big}, nil },
	})
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2"))})
	request := &nodev1.WriteRequest{Operations: []*nodev1.Operation{{Key: "k", Value: big}}}
	if err := write(testContext(t), p, server.addr, request); themis.CodeOf(err) != themis.TooLarge {
		t.Errorf("over our own limit: %v", err)
	}
	if err := write(testContext(t), p, server.addr, request, grpc.MaxCallSendMsgSize(2*MaxMessageBytes)); themis.CodeOf(err) != themis.TooLarge {
		t.Errorf("over the server's limit: %v", err)
	}
	if writes != 0 {
		t.Fatalf("%d writes ran", writes)
	}
	if err := write(testContext(t), p, server.addr, &nodev1.WriteRequest{}); themis.CodeOf(err) != themis.OutcomeUnknown || writes != 1 {
		t.Errorf("the answer to a write is too large: %v after %d writes", err, writes)
	}
	documents := must[nodev1.DocumentServiceClient](t)(p.Documents(testContext(t), server.addr, ""))
	if _, err := documents.Read(testContext(t), &nodev1.ReadRequest{}); themis.CodeOf(err) != themis.TooLarge {
		t.Errorf("the answer to a read is too large: %v", err)
	}
	fits := &nodev1.WriteRequest{Operations: []*nodev1.Operation{{Key: "k", Value: big[:themis.MaxDocumentBytes]}}}
	if err := write(testContext(t), p, server.addr, fits, grpc.MaxCallRecvMsgSize(2*MaxMessageBytes)); err != nil {
		t.Errorf("the largest document: %v", err)
	}
}

// A node that comes back is found again within the longest backoff.
func TestReconnect(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{})
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2"))})
	conn := must[*grpc.ClientConn](t)(p.Conn(testContext(t), server.addr, "node-1"))
	if err := health(testContext(t), p, server.addr, "node-1"); err != nil {
		t.Fatal(err)
	}
	server.stop()
	conn.Connect()
	ctx := testContext(t)
	for state := conn.GetState(); state != connectivity.TransientFailure && conn.WaitForStateChange(ctx, state); state = conn.GetState() {
		conn.Connect()
	}
	if err := health(ctx, p, server.addr, "node-1"); !IsRefused(err) {
		t.Fatalf("while it is down: %v", err)
	}
	again := must[*Server](t)(NewServer(ServerOptions{Source: source(t, ca, node("node-1"))}))
	sharding.RegisterShardServiceServer(again, &services{})
	lis := must[net.Listener](t)(Listen(server.addr))
	back := time.Now()
	run, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- again.Run(run, lis) }()
	for state := conn.GetState(); state != connectivity.Ready && conn.WaitForStateChange(ctx, state); state = conn.GetState() {
		conn.Connect()
	}
	if err := health(ctx, p, server.addr, "node-1"); err != nil {
		t.Error(err)
	}
	if took := time.Since(back); took > 3*time.Second {
		t.Errorf("found again after %s", took)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPoolKeepsOneChannel(t *testing.T) {
	p := pool(t, PoolOptions{Source: source(t, newCA(t, "demo"), node("node-2")), MaxPerTarget: 3, MaxChannels: 4})
	ctx := testContext(t)
	get := func(addr string, id themis.NodeID, opts ...ConnOption) *grpc.ClientConn {
		return must[*grpc.ClientConn](t)(p.Conn(ctx, addr, id, opts...))
	}
	first := get("a:1", "node-1")
	bulk := get("a:1", "node-1", Lane("bulk"))
	if first != get("a:1", "node-1") || first == bulk || bulk != get("a:1", "node-1", Lane("bulk")) {
		t.Error("not one channel per target and lane")
	}
	if first == get("a:1", "node-1", Compressed()) {
		t.Error("compressed is the same channel")
	}
	if _, err := p.Conn(ctx, "a:1", "node-2"); themis.CodeOf(err) != themis.Overloaded {
		t.Errorf("a fourth channel to one address: %v", err)
	}
	get("b:1", "")
	if _, err := p.Conn(ctx, "c:1", ""); themis.CodeOf(err) != themis.Overloaded {
		t.Errorf("a fifth channel in all: %v", err)
	}
	if err := p.Forget("a:1"); err != nil || first.GetState() != connectivity.Shutdown {
		t.Errorf("forget: %v, %s", err, first.GetState())
	}
	if get("a:1", "node-1") == first {
		t.Error("a forgotten channel came back")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Conn(ctx, "a:1", ""); themis.CodeOf(err) != themis.Unreachable {
		t.Errorf("after Close: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.Conn(gone, "a:1", ""); themis.CodeOf(err) != themis.Deadline {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestPoolOptions(t *testing.T) {
	me := source(t, newCA(t, "demo"), node("node-2"))
	for _, o := range []PoolOptions{
		{}, {Source: me, TLS: &tls.Config{}}, {Source: me, Keepalive: time.Second}, {Source: me, MaxPerTarget: -1}, {Source: me, RequestTimeout: -1},
	} {
		if _, err := NewPool(o); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestCompressed(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{})
	documents := &nodev1.WriteRequest{Operations: []*nodev1.Operation{{Key: "k", Value: make([]byte, 1<<20)}}}
	sent := map[string]float64{}
	for name, opts := range map[string][]ConnOption{"plain": nil, "compressed": {Compressed()}} {
		reg := prometheus.NewRegistry()
		p := pool(t, PoolOptions{Source: source(t, ca, node("node-2")), Metrics: NewMetrics(reg)})
		client := must[nodev1.DocumentServiceClient](t)(p.Documents(testContext(t), server.addr, "node-1", opts...))
		if _, err := client.Write(testContext(t), documents); err != nil {
			t.Fatal(err)
		}
		sent[name] = gather(t, reg)["rpc_shard_bytes_sent_total"]
	}
	if sent["compressed"] > sent["plain"]/10 {
		t.Errorf("bytes sent: %v", sent)
	}
}

// Streams: their errors are ours, and the log lines of the contract are there.
func TestStreamsAndLogLines(t *testing.T) {
	ca := newCA(t, "demo")
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1"))}, &services{
		replicate: func(s grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error {
			for {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				if m.GetCommitSeq() == 3 {
					return themis.Errorf(themis.Corrupt, "entry 3 is damaged").In("shard-1")
				}
				if err := s.Send(&nodev1.ReplicateResponse{DurableSeq: m.GetCommitSeq()}); err != nil {
					return err
				}
			}
		},
	})
	log := &syncBuffer{}
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2")), Log: slog.New(slog.NewTextHandler(log, nil))})
	stream := must[grpc.BidiStreamingClient[nodev1.ReplicateRequest, nodev1.ReplicateResponse]](t)(
		must[nodev1.ReplicationServiceClient](t)(p.Replication(testContext(t), server.addr, "node-1")).Replicate(testContext(t)))
	for seq := uint64(1); seq < 3; seq++ {
		if err := stream.Send(&nodev1.ReplicateRequest{CommitSeq: seq, Frames: make([]byte, MaxFrameBytes)}); err != nil {
			t.Fatal(err)
		}
		if ack := must[*nodev1.ReplicateResponse](t)(stream.Recv()); ack.GetDurableSeq() != seq {
			t.Fatalf("ack %v", ack)
		}
	}
	if err := stream.Send(&nodev1.ReplicateRequest{CommitSeq: 3}); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	if e, ok := errors.AsType[*themis.Error](err); !ok || e.Code != themis.Corrupt || e.Shard != "shard-1" {
		t.Errorf("stream ended with %v", err)
	}

	shards := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), server.addr, "node-1"))
	if _, err := shards.GetShardStatus(testContext(t), &sharding.StatusRequest{}); err == nil {
		t.Fatal("GetShardStatus is not served here")
	}
	down := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), loopback.Addr(t), "node-3"))
	if _, err := down.ReplicateData(testContext(t), &sharding.ReplicateRequest{}); err == nil {
		t.Fatal("nobody is there")
	}
	chunks := must[grpc.ClientStreamingClient[sharding.ReplicateChunk, sharding.ReplicateResponse]](t)(shards.ReplicateDataStream(testContext(t)))
	n := 0
	for ; err == nil || n == 0; n++ { // the server refuses; sooner or later writing fails
		err = chunks.Send(&sharding.ReplicateChunk{ChunkIndex: uint32(n)})
	}
	if _, err := chunks.CloseAndRecv(); themis.CodeOf(err) != themis.Unimplemented {
		t.Errorf("chunks: %v", err)
	}
	for _, line := range []string{
		"GetShardStatus RPC failed: method GetShardStatus not implemented", "refused the connection (UNREACHABLE)",
		"ReplicateData RPC failed: node-3", fmt.Sprintf("Failed to write chunk %d", n-1), "ReplicateDataStream RPC failed: ", "operation=replicate_stream", "peer=\"node-1 (",
	} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("no log line with %q:\n%s", line, log)
		}
	}
}

func TestMetrics(t *testing.T) {
	ca := newCA(t, "demo")
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	server := start(t, ServerOptions{Source: source(t, ca, node("node-1")), Metrics: m}, &services{})
	bound := node("node-1")
	bound.Shard = "shard_002"
	other := start(t, ServerOptions{Source: source(t, ca, bound)}, &services{})
	p := pool(t, PoolOptions{Source: source(t, ca, node("node-2")), Metrics: m})
	shards := must[sharding.ShardServiceClient](t)(p.Shards(testContext(t), server.addr, "node-1"))
	if _, err := shards.ReplicateData(testContext(t), &sharding.ReplicateRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := shards.GetShardStatus(testContext(t), &sharding.StatusRequest{}); err == nil {
		t.Fatal("GetShardStatus is not served here")
	}
	if err := health(testContext(t), p, other.addr, "node-1"); err != nil {
		t.Fatal(err)
	}
	m.Fallback("replicate")
	got := gather(t, reg)
	for name, want := range map[string]float64{
		`rpc_shard_requests_total{operation="replicate",protocol="grpc",status="success"}`:    1,
		`rpc_shard_requests_total{operation="status",protocol="grpc",status="unimplemented"}`: 1,
		`rpc_shard_request_duration_seconds{operation="replicate",protocol="grpc"}`:           1,
		`rpc_shard_active_connections{protocol="grpc",target_shard="node-1"}`:                 1,
		`rpc_shard_active_connections{protocol="grpc",target_shard="shard-2"}`:                1,
		`rpc_shard_certificate_verification_failures_total`:                                   0,
		`rpc_shard_tls_handshake_duration_seconds`:                                            3, // both sides of one, ours of the other
		`rpc_shard_fallbacks_total{operation="replicate"}`:                                    1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s: %v, there %t, want %v", name, v, ok, want)
		}
	}
	for _, name := range []string{"rpc_shard_bytes_sent_total", "rpc_shard_bytes_received_total"} {
		if got[name] < 1000 || got[name+`{protocol="grpc"}`] != got[name] {
			t.Errorf("%s: %v", name, got[name])
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no connection is counted after Close", func() bool { return gather(t, reg)["rpc_shard_active_connections"] == 0 })
}

// gather reads metrics: by full name with labels, and summed by bare name. Histograms count their observations.
func gather(t *testing.T, regs ...*prometheus.Registry) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for _, reg := range regs {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				var labels []string
				for _, l := range m.GetLabel() {
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
				v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				out[family.GetName()] += v
				if len(labels) > 0 {
					out[family.GetName()+"{"+strings.Join(labels, ",")+"}"] += v
				}
			}
		}
	}
	return out
}
