package rpc

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within bounds every wait of a test.
const within = 10 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx
}

func newCA(t testing.TB, cluster string) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(pki.CAOptions{Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// files issues a certificate and saves it.
func files(t testing.TB, ca *pki.CA, r pki.Request) pki.Files {
	t.Helper()
	if r.Node != "" {
		r.Datacenter, r.Loopback = "dc1", true
	}
	issued, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	f := pki.FilesIn(t.TempDir(), string(r.Node)+r.Client)
	if err := issued.Save(f); err != nil {
		t.Fatal(err)
	}
	return f
}

func source(t testing.TB, ca *pki.CA, r pki.Request) *pki.Source {
	t.Helper()
	s, err := pki.Open(files(t, ca, r), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// node is a certificate with every capability, client one with those that are named.
func node(id themis.NodeID) pki.Request {
	return pki.Request{Node: id, Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}}
}

func client(name string, capabilities ...string) pki.Request {
	return pki.Request{Client: name, Capabilities: capabilities}
}

// services answers the rpcs that the tests call; each func may be nil.
type services struct {
	sharding.UnimplementedShardServiceServer
	nodev1.UnimplementedReplicationServiceServer
	nodev1.UnimplementedDocumentServiceServer
	nodev1.UnimplementedAdminServiceServer

	health    func(context.Context) error
	write     func(context.Context, *nodev1.WriteRequest) (*nodev1.WriteResponse, error)
	read      func(context.Context) (*nodev1.ReadResponse, error)
	replicate func(grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error
}

func (s *services) HealthCheck(ctx context.Context, _ *sharding.HealthRequest) (*sharding.HealthResponse, error) {
	if s.health != nil {
		if err := s.health(ctx); err != nil {
			return nil, err
		}
	}
	return &sharding.HealthResponse{Healthy: true}, nil
}

func (s *services) ReplicateData(_ context.Context, r *sharding.ReplicateRequest) (*sharding.ReplicateResponse, error) {
	return &sharding.ReplicateResponse{Success: true, ReplicatedCount: uint64(len(r.GetEntities()))}, nil
}

func (s *services) Write(ctx context.Context, r *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	if s.write == nil {
		return &nodev1.WriteResponse{Seq: 1}, nil
	}
	return s.write(ctx, r)
}

func (s *services) Read(ctx context.Context, r *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	if s.read == nil {
		return s.UnimplementedDocumentServiceServer.Read(ctx, r)
	}
	return s.read(ctx)
}

func (s *services) Replicate(stream grpc.BidiStreamingServer[nodev1.ReplicateRequest, nodev1.ReplicateResponse]) error {
	if s.replicate == nil {
		return s.UnimplementedReplicationServiceServer.Replicate(stream)
	}
	return s.replicate(stream)
}

func (s *services) Join(ctx context.Context, _ *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	if _, ok := Peer(ctx); ok {
		return nil, themis.Errorf(themis.InvalidArgument, "already has a certificate")
	}
	return &nodev1.JoinResponse{ClusterName: "demo"}, nil
}

// running is a server in a test.
type running struct {
	*Server
	addr string
	reg  *prometheus.Registry
	log  *syncBuffer
	stop func() // and wait
}

// start runs a server on a free port until the test ends.
func start(t testing.TB, o ServerOptions, s *services) *running {
	t.Helper()
	r := &running{reg: prometheus.NewRegistry(), log: &syncBuffer{}}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(r.reg)
	}
	o.Log, o.Cluster = slog.New(slog.NewTextHandler(r.log, nil)), "demo"
	server, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = server
	sharding.RegisterShardServiceServer(server, s)
	nodev1.RegisterReplicationServiceServer(server, s)
	nodev1.RegisterDocumentServiceServer(server, s)
	nodev1.RegisterAdminServiceServer(server, s)
	lis, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = lis.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, lis) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(within):
			t.Error("the server does not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

func pool(t testing.TB, o PoolOptions) *Pool {
	t.Helper()
	p, err := NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// syncBuffer is a log that a test can read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// eventually waits until something is true that another goroutine is about to make so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}
