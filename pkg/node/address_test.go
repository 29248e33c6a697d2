package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// move gives a node that is stopped other addresses for its next start.
func (f *fleet) move(name string) {
	for _, what := range []string{"/peer", "/client", "/grpc"} {
		f.peer[name+what] = loopback.Addr(f.t)
	}
}

// A node that comes back at other addresses is found there: one without a part in the control plane, and a member of it, which the
// other members find, too.
func TestMovedNodes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3", "node-4")
	f.foundOf(initArgs{Name: "demo", Shards: 2, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync}, "node-1", "node-2", "node-3", "node-4")
	f.until("node-1", "HEALTHY", isHealthy)
	if err := f.put("node-1", "k", `{"v":0}`); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"node-4", "node-3", "node-1"} {
		before := f.record("node-2", name)
		f.stop(name)
		f.move(name)
		f.start(name)
		f.until("node-2", name+" at its new address", func(health.Report) bool {
			x := f.record("node-2", name)
			return x.GRPC == f.peer[name+"/grpc"] && (x.Control == nil || x.Control.Peer == "https://"+f.peer[name+"/peer"] && x.Control.Client == "https://"+f.peer[name+"/client"])
		})
		f.untilEvent("node-2", "the audit trail has it", func(e cluster.Event) bool {
			return e.Action == "register_address" && e.Subject == name && e.Outcome == "done" && strings.Contains(e.Reason, "its record said "+before.GRPC)
		})
		f.until(name, "HEALTHY, as it sees it", isHealthy)
		if err := f.put(name, "k", fmt.Sprintf(`{"v":%d}`, i+1)); err != nil {
			t.Fatal(err)
		}
		if x := f.record(name, name); x.Storage != before.Storage || (x.Control == nil) != (before.Control == nil) {
			t.Errorf("%+v was %+v", x, before)
		}
	}
	f.until("node-2", "three voters", voters(3))
	f.stop("node-2") // the two that have moved must reach each other
	f.until("node-3", "a change of the map without the one that has not moved", func(health.Report) bool {
		return f.act("node-3", "node.token", tokenArgs{TTL: "1h"}, nil) == nil
	})
	if got, err := f.get("node-1", "k"); err != nil || got != `{"v":3}` {
		t.Errorf("%q, %v", got, err)
	}
}

// Heartbeats that say a node had moved, written by somebody else, change no record: neither to where another node answers, nor to where
// a process with the node's certificate and another disk does.
func TestAddressIsProven(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2")
	f.foundOf(initArgs{Name: "demo", Shards: 1, RF: 1, ControlNodes: 1, Redundancy: "NONE", Mode: themis.Sync}, "node-1", "node-2")
	f.until("node-1", "a controller", func(r health.Report) bool { return r.Control.Controller == "node-1" })
	before := f.record("node-1", "node-2")
	f.stop("node-2")
	d, err := f.admin("node-1").Describe(t.Context(), &nodev1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := control.NewMap(f.keys("node-1"), themis.ClusterID(d.GetClusterId()), control.Options{TTL: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.tryStart("node-2", map[string]string{"node.data_dir": f.path("another-disk"), "node.grpc_listen": loopback.Addr(t)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ at, says string }{
		{f.nodes["node-1"].addr.GRPC, "node-1"},
		{f.nodes["node-2"].addr.GRPC, "not node-2 with disk"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		lease, err := m.Heartbeat(ctx, cluster.Alive{
			Format: cluster.Format, Node: "node-2", Storage: before.Storage, Boot: themis.BootID("forged " + c.at), At: &cluster.Addresses{GRPC: c.at, HTTP: c.at},
		}, func(cluster.Alive) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- lease.Run(ctx) }()
		refusal := func() bool {
			for line := range strings.Lines(f.said["node-1"].String()) {
				if strings.Contains(line, "record not written anew") && strings.Contains(line, c.says) {
					return true
				}
			}
			return false
		}
		f.until("node-1", "a refusal, or another address", func(health.Report) bool { return refusal() || f.record("node-1", "node-2").GRPC != before.GRPC })
		if now := f.record("node-1", "node-2"); now.GRPC != before.GRPC || now.HTTP != before.HTTP {
			t.Errorf("the record of node-2 was moved from %s to %s", before.GRPC, now.GRPC)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
