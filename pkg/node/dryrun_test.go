package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// try is act as a dry run.
func (f *fleet) try(on, verb string, args, out any) error {
	f.t.Helper()
	b, err := json.Marshal(args)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 40*time.Second)
	defer cancel()
	resp, err := f.admin(on).Act(ctx, &nodev1.ActRequest{Verb: verb, ArgsJson: b, DryRun: true})
	if err == nil && out != nil {
		err = json.Unmarshal(resp.GetResultJson(), out)
	}
	return err
}

// membership is all that a verb on members may change: the records of nodes, tokens and settings with their revisions, what operators did
// by the audit trail, the members of the embedded etcd, and what each node remembers.
func (f *fleet) membership(kv control.KV, report string) map[string]string {
	f.t.Helper()
	records, _, err := kv.List(f.t.Context(), control.Prefix("/themis/"))
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range records {
		_, rest, _ := strings.Cut(strings.TrimPrefix(r.Key, "/themis/"), "/")
		kind, _, _ := strings.Cut(rest, "/")
		var e cluster.Event
		if slices.Contains([]string{"nodes", "tokens", "meta", "config"}, kind) || kind == "events" && json.Unmarshal(r.Value, &e) == nil && e.Actor.Kind == "operator" {
			out[r.Key] = fmt.Sprintf("%d %s", r.Revision, r.Value)
		}
	}
	r, err := f.report(report)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, m := range r.Control.Members {
		out["etcd "+string(m.Node)] = "a member"
	}
	for name := range f.nodes {
		b, err := os.ReadFile(f.path(name, identityName))
		if err != nil {
			f.t.Fatal(err)
		}
		out["node.json of "+name] = string(b)
	}
	return out
}

// keys opens the embedded control plane as a node may.
func (f *fleet) keys(name string) control.KV {
	f.t.Helper()
	src, err := pki.Open(pki.FilesIn(f.path("pki"), name), pki.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	kv, err := control.Connect(f.t.Context(), control.Dial{Endpoints: []string{f.peer[name+"/client"]}, TLS: func() (*tls.Config, error) { return src.ClientConfig("", pki.NodeName("demo")), nil }})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = kv.Close() })
	return kv
}

// unchanged runs do and wants the membership to be as it was.
func (f *fleet) unchanged(kv control.KV, what string, do func()) {
	f.t.Helper()
	before := f.membership(kv, "node-1")
	do()
	after := f.membership(kv, "node-1")
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if before[k] != after[k] {
			f.t.Errorf("%s: %s was %q, is %q", what, k, before[k], after[k])
		}
		delete(before, k)
	}
	for k := range before {
		f.t.Errorf("%s: %s is gone", what, k)
	}
}

// wants holds the steps of a dry run.
func wants(t *testing.T, what string, steps []string, want ...string) {
	t.Helper()
	if len(steps) != len(want) {
		t.Fatalf("%s: %q, want %d steps", what, steps, len(want))
	}
	for i, w := range want {
		if !strings.Contains(steps[i], w) {
			t.Errorf("%s: step %d is %q, want %q in it", what, i+1, steps[i], w)
		}
	}
}

func TestDryRunsChangeNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.foundOf(initArgs{Name: "demo", Shards: 1, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync}, "node-1", "node-2")
	f.until("node-1", "two copies", func(r health.Report) bool { return len(r.Shards[0].ISR) == 2 })
	kv, addr := f.keys("node-1"), f.nodes["node-3"].addr.GRPC
	f.until("node-1", "the audit trail of the founding", func(health.Report) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(f.membership(kv, "node-1"))), func(k string) bool { return strings.Contains(k, "/events/") })
	})

	for _, via := range []string{"node-1", "node-2"} { // node-2 passes it on
		f.unchanged(kv, "join through "+via, func() {
			var out joinResult
			if err := f.try(via, "node.join", joinArgs{Addr: addr}, &out); err != nil || !out.DryRun || !out.Changed || !out.Control || !slices.Equal(out.ControlNodes, []themis.NodeID{"node-1", "node-3"}) {
				t.Errorf("%+v, %v", out, err)
			}
			wants(t, "join", out.Steps, "node-3 is recorded as a member: disk ", "1 member, which may not fail, then 2 members of which 2 must agree, so 0 may fail", "no shard lacks a copy")
		})
	}
	f.unchanged(kv, "refusals", func() {
		refused(t, f.try("node-1", "node.join", joinArgs{Addr: addr, Control: "perhaps"}, nil), themis.InvalidArgument, "want auto, yes or no")
		refused(t, f.try("node-2", "node.join", joinArgs{Addr: f.peer["node-2/peer"]}, nil), themis.NotFound, "no node answers at "+f.peer["node-2/peer"])
		refused(t, f.try("node-2", "node.remove", removeArgs{ID: "node-2", Force: true}, nil), themis.RefusedUnsafe, "1 of 2 copies are in sync elsewhere")
		refused(t, f.try("node-2", "node.remove", removeArgs{ID: "node-1", Force: true}, nil), themis.RefusedUnsafe, "copies are needed")
		refused(t, f.try("node-1", "node.token", tokenArgs{TTL: "200h"}, nil), themis.InvalidArgument, "ttl")
	})
	f.unchanged(kv, "token", func() {
		var out tokenResult
		if err := f.try("node-1", "node.token", tokenArgs{TTL: "2h"}, &out); err != nil || !out.DryRun || out.Token != "" || out.ID != "" || out.CAPin == "" || time.Until(out.Expires) < time.Hour {
			t.Errorf("%+v, %v", out, err)
		}
	})

	if done := f.join("node-1", "node-3", joinArgs{Control: "no"}); done.DryRun || !done.Changed {
		t.Fatalf("join: %+v", done)
	}
	f.until("node-1", "the map on node-3's disk, and the event", func(health.Report) bool {
		m := f.membership(kv, "node-1")
		return strings.Contains(m["node.json of node-3"], "map_seen") && strings.Contains(fmt.Sprint(m), `"action":"node_join"`)
	})
	f.unchanged(kv, "join of a member, removal of a stranger and of a node that is up", func() {
		var again joinResult
		if err := f.try("node-1", "node.join", joinArgs{Addr: addr}, &again); err != nil || again.Changed || len(again.Steps) != 0 {
			t.Errorf("%+v, %v", again, err)
		}
		var out removeResult
		if err := f.try("node-2", "node.remove", removeArgs{ID: "node-9"}, &out); err != nil || out.Changed || !out.DryRun {
			t.Errorf("%+v, %v", out, err)
		}
		refused(t, f.try("node-2", "node.remove", removeArgs{ID: "node-3"}, nil), themis.RefusedUnsafe, "is up")
		if err := f.try("node-2", "node.remove", removeArgs{ID: "node-3", Force: true}, &out); err != nil || !out.Changed || !out.DryRun {
			t.Errorf("%+v, %v", out, err)
		}
		wants(t, "remove", out.Steps, "its record is deleted", "goes on without a cluster")
	})
	f.dryReplace(kv, addr)
}

// dryReplace loses node-3's disk.
func (f *fleet) dryReplace(kv control.KV, addr string) {
	f.stop("node-3")
	f.empty("node-3")
	f.start("node-3")
	refused(f.t, f.try("node-1", "node.join", joinArgs{Addr: addr}, nil), themis.RefusedUnsafe, "a member with disk")
	var out joinResult
	f.until("node-1", "the old disk silent", func(health.Report) bool { // while its heartbeat is there the dry run refuses as the real one does
		err := f.try("node-2", "node.join", joinArgs{Addr: addr, Replace: true, Control: "yes"}, &out)
		if err != nil {
			refused(f.t, err, themis.RefusedUnsafe, "is not lost")
		}
		return err == nil
	})
	f.unchanged(kv, "replace", func() {
		if err := f.try("node-2", "node.join", joinArgs{Addr: addr, Replace: true, Control: "yes"}, &out); err != nil || !out.Changed || !out.DryRun || !out.Control || len(out.ControlNodes) != 2 {
			f.t.Errorf("%+v, %v", out, err)
		}
		wants(f.t, "replace", out.Steps, "takes the place of disk", "of the control plane", "no shard lacks a copy")
	})
}

func TestStepsOfJoiningAndLeaving(t *testing.T) {
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{}, Alive: map[themis.NodeID]cluster.Alive{}, Failed: map[themis.NodeID]cluster.Failed{"node-2": {}}, Shards: map[themis.ShardID]cluster.Shard{}}
	for i := range 3 {
		id := themis.NodeID(fmt.Sprintf("node-%d", i+1))
		v.Nodes[id] = cluster.Node{ID: id, Storage: "disk", Role: cluster.RoleActive, Control: &cluster.ControlMember{}}
	}
	two := []cluster.Replica{{Member: cluster.Member{Node: "node-1"}}, {Member: cluster.Member{Node: "node-2"}}}
	v.Shards["shard-1"] = cluster.Shard{ID: "shard-1", Want: cluster.Policy{RF: 2}, Replicas: two}
	v.Shards["shard-2"] = cluster.Shard{ID: "shard-2", Want: cluster.Policy{RF: 1}, Replicas: two[:1]}
	if got, want := copiesText(v, cluster.Node{ID: "node-4"}), "missing copies are made on it: shard-1 has 1 of 2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := copiesText(v, cluster.Node{ID: "node-4", Role: cluster.RoleController}); !strings.Contains(got, "stores no documents") {
		t.Errorf("%q", got)
	}
	v.Shards = nil
	refused(t, mayRemove(v, v.Nodes["node-3"], true), themis.RefusedUnsafe, "of the 2 members of the control plane that would be left 2 must agree, and node-2 is FAILED")
	if err := mayRemove(v, v.Nodes["node-2"], false); err != nil {
		t.Error(err)
	}
	out := removal(v, v.Nodes["node-2"], true)
	wants(t, "remove", out.Steps, "3 members of which 2 must agree, so 1 may fail, then 2 members of which 2 must agree, so 0 may fail", "its record is deleted")
	if len(v.ControlNodes()) != 3 {
		t.Error("the view was changed")
	}
}
