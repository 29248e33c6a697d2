package control

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/loopback"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, etcdLeavings()...)
}

// etcdLeavings are the goroutines of connections between peers that an embedded etcd leaves behind for a while after it was
// closed.
func etcdLeavings() []goleak.Option {
	var out []goleak.Option
	for _, f := range []string{
		"net/http.(*conn).serve",
		"net/http.(*connReader).backgroundRead",
		"net/http.(*persistConn).readLoop",
		"net/http.(*persistConn).writeLoop",
	} {
		out = append(out, goleak.IgnoreAnyFunction(f))
	}
	return out
}

func freeURL(t *testing.T, scheme string) string {
	t.Helper()
	return scheme + "://" + loopback.Addr(t)
}

// until waits for a condition that other goroutines bring about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// single starts one member without TLS.
func single(t *testing.T, change func(*ServerOptions)) *Server {
	t.Helper()
	o := ServerOptions{
		Name: "node-1", Dir: filepath.Join(t.TempDir(), "control"), Cluster: "c1", PeerURL: freeURL(t, "http"), ClientURL: freeURL(t, "http"),
		Tick: 10 * time.Millisecond, Election: 100 * time.Millisecond, noFsync: true,
	}
	o.InitialCluster = map[string]string{o.Name: o.PeerURL}
	if change != nil {
		change(&o)
	}
	s, err := StartEmbedded(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t *testing.T, s *Server) *Etcd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	kv, err := Connect(ctx, Dial{Endpoints: []string{s.ClientURL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	})
	return kv
}
