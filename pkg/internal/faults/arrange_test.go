package faults

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// allOnOne brings the controller and etcd's leader to the first node, which leads shards, and returns its name. The controller
// is paused until another has taken over, until it is that node's turn; etcd is asked to hand over its leadership.
func (h *hosts) allOnOne(t *testing.T) string {
	t.Helper()
	one := h.names[0]
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // on a busy machine the first node may miss its turn
		now := string(r.Control.Controller)
		if now == one {
			break
		}
		h.pause(now)
		h.until("another than "+now+" is the controller", rto, func(r health.Report) bool { return string(r.Control.Controller) != now })
		h.resume(now)
		r = h.until("all is whole again", heal, healthy)
	}
	h.leadEtcd(t, one)
	r = h.until("controller, etcd's leader and a primary are on "+one, rto, func(r health.Report) bool {
		return string(r.Control.Controller) == one && string(r.Control.Leader) == one && slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool { return string(s.Primary) == one })
	})
	t.Logf("%s is the controller, leads etcd and %d shards", one, len(ledBy(r, one)))
	return one
}

// ledBy are the shards that the node leads.
func ledBy(r health.Report, node string) (out []themis.ShardID) {
	for _, s := range r.Shards {
		if string(s.Primary) == node {
			out = append(out, s.ID)
		}
	}
	return out
}

// sharedLead is what the node leads whose other copy isn't on the node besides. Where that is nothing, the node that leads such a shard
// is stopped, so that it hands over.
func (h *hosts) sharedLead(t *testing.T, node, besides string) []themis.ShardID {
	t.Helper()
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		var out []themis.ShardID
		other := ""
		for _, s := range r.Shards {
			switch primary, copies := leads(r, string(s.ID)); {
			case slices.Contains(append(copies, primary), besides):
			case primary == node:
				out = append(out, s.ID)
			case slices.Contains(copies, node):
				other = primary
			}
		}
		if len(out) > 0 {
			return out
		}
		if other == "" || try == 3 {
			t.Fatalf("%s leads no shard that another node than %s could lead", node, besides)
		}
		h.term(other, syscall.SIGTERM)
		h.restart(other)
		r = h.until("all is whole again", heal, healthy)
	}
}

// leadEtcd moves etcd's leadership to the node. The client port takes certificates of nodes only.
func (h *hosts) leadEtcd(t *testing.T, node string) {
	t.Helper()
	src, err := pki.Open(pki.FilesIn(filepath.Join(h.dir, "pki"), node), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		if h.net != nil {
			return h.net.Dial(ctx, client, addr)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), rto)
	defer cancel()
	for {
		r, err := h.report()
		if err != nil || r.Control.Leader == "" {
			<-time.After(50 * time.Millisecond)
			continue
		}
		if string(r.Control.Leader) == node {
			return
		}
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{h.addr[string(r.Control.Leader)]["client"]}, TLS: src.ClientConfig("", pki.NodeName("demo")),
			DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)}, Context: ctx,
		})
		if err != nil {
			t.Fatal(err)
		}
		var members *clientv3.MemberListResponse
		if members, err = c.MemberList(ctx); err == nil {
			for _, m := range members.Members {
				if m.Name == node {
					_, err = c.MoveLeader(ctx, m.ID)
				}
			}
		}
		_ = c.Close()
		if ctx.Err() != nil {
			t.Fatalf("etcd's leadership did not come to %s: %v", node, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}
