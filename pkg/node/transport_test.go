package node

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/replication/transporttest"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/themis"
)

// TestTransport runs the suite of the transport in memory over real servers and certificates.
func TestTransport(t *testing.T) {
	f := newFleetWith(t, nil, string(transporttest.Primary), string(transporttest.Follower))
	transporttest.Run(t, func(t *testing.T, r *replication.Replica, dir string) replication.Transport {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pool := f.serveCopy(t, lis, r, dir)
		return NewTransport(pool, func(to themis.NodeID) (string, error) {
			if to != transporttest.Follower {
				return "127.0.0.1:1", nil // nobody listens there
			}
			return lis.Addr().String(), nil
		})
	})
}

// serveCopy answers for a copy at lis as node-2 does, until the test ends, and returns what node-1 speaks over.
func (f *fleet) serveCopy(t *testing.T, lis net.Listener, r *replication.Replica, dir string) *rpc.Pool {
	t.Helper()
	var src [2]*pki.Source
	for i := range src {
		var err error
		if src[i], err = pki.Open(pki.FilesIn(f.path("pki"), fmt.Sprint("node-", i+1)), pki.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Source: src[1], Cluster: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	ServeReplication(server, func(themis.ShardID) (*replication.Replica, error) { return r, nil }, func(themis.ShardID) string { return dir }, nil)
	pool, err := rpc.NewPool(rpc.PoolOptions{Source: src[0]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, lis) }()
	t.Cleanup(func() {
		_ = pool.Close()
		stop()
		<-done
	})
	return pool
}
