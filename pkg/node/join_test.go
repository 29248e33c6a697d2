package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// act runs a verb on a node.
func (f *fleet) act(on, verb string, args, out any) error {
	f.t.Helper()
	b, err := json.Marshal(args)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 40*time.Second)
	defer cancel()
	resp, err := f.admin(on).Act(ctx, &nodev1.ActRequest{Verb: verb, ArgsJson: b})
	if err == nil && out != nil {
		err = json.Unmarshal(resp.GetResultJson(), out)
	}
	return err
}

// foundOf makes a cluster of some of the nodes only.
func (f *fleet) foundOf(a initArgs, names ...string) {
	f.t.Helper()
	for _, n := range names {
		a.Nodes = append(a.Nodes, f.nodes[n].addr.GRPC)
	}
	if err := f.act(names[0], "cluster.init", a, nil); err != nil {
		f.t.Fatal(err)
	}
	f.until(names[0], "a map", func(r health.Report) bool { return len(r.Shards) == a.Shards })
}

func (f *fleet) join(via, name string, a joinArgs) joinResult {
	f.t.Helper()
	a.Addr = f.nodes[name].addr.GRPC
	var out joinResult
	if err := f.act(via, "node.join", a, &out); err != nil {
		f.t.Fatalf("join %s: %v", name, err)
	}
	return out
}

// refused wants an error of that code that says so.
func refused(t *testing.T, err error, code themis.Code, text string) {
	t.Helper()
	if themis.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("%v (%s), want %s with %q", err, themis.CodeOf(err), code, text)
	}
}

func (f *fleet) empty(name string) {
	f.t.Helper()
	if err := os.RemoveAll(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func voters(n int) func(health.Report) bool {
	return func(r health.Report) bool {
		got := 0
		for _, m := range r.Control.Members {
			if m.State == "voter" {
				got++
			}
		}
		return got == n && len(r.Control.Members) == n
	}
}

// endpointsIn are the control endpoints that the node would start with.
func (f *fleet) endpointsIn(name string) []string {
	f.t.Helper()
	b, err := os.ReadFile(f.path(name, identityName))
	var id identity
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return id.Joined.Endpoints
}

func TestControlPlaneGrowsAndALostMemberIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.foundOf(initArgs{Name: "demo", Shards: 2, RF: 1, Redundancy: "NONE", Mode: themis.Sync}, "node-1")
	two := f.join("node-1", "node-2", joinArgs{By: "somebody"}) // only a node may say for whom it asks
	if !two.Control || !strings.Contains(two.Note, "2 members and needs 2") {
		t.Errorf("the second of two: %+v", two)
	}
	if three := f.join("node-2", "node-3", joinArgs{}); !three.Control || len(three.ControlNodes) != 3 {
		t.Errorf("the third: %+v", three)
	}
	f.until("node-1", "three voters", voters(3))
	if again := f.join("node-1", "node-3", joinArgs{}); again.Changed || !again.Control {
		t.Errorf("joined again: %+v", again)
	}
	refused(t, f.act("node-1", "node.remove", removeArgs{ID: "node-1", Force: true}, nil), themis.RefusedUnsafe, "shard-1: the primary, 0 of 1 copies are in sync elsewhere")
	refused(t, f.act("node-1", "node.remove", removeArgs{ID: "node-3"}, nil), themis.RefusedUnsafe, "is up")

	f.stop("node-3")
	f.until("node-1", "node-3 FAILED", func(r health.Report) bool {
		return slices.ContainsFunc(r.Nodes, func(n health.NodeReport) bool { return n.ID == "node-3" && n.State == cluster.FailedState })
	})
	var out removeResult
	if err := f.act("node-2", "node.remove", removeArgs{ID: "node-3"}, &out); err != nil || !out.Changed || len(out.ControlNodes) != 2 {
		t.Fatalf("remove: %+v, %v", out, err)
	}
	if err := f.act("node-2", "node.remove", removeArgs{ID: "node-3"}, &out); err != nil || out.Changed {
		t.Fatalf("remove again: %+v, %v", out, err)
	}
	f.empty("node-3")
	f.start("node-3")
	if back := f.join("node-2", "node-3", joinArgs{}); !back.Changed || !back.Control {
		t.Errorf("under its old name: %+v", back)
	}
	f.until("node-3", "three voters again, as the newcomer sees it", voters(3))
	f.until("node-1", "three endpoints everywhere", func(health.Report) bool {
		return len(f.endpointsIn("node-1")) == 3 && len(f.endpointsIn("node-2")) == 3 && len(f.endpointsIn("node-3")) == 3
	})
	f.until("node-1", "the audit trail", func(health.Report) bool {
		events, err := f.admin("node-1").ListEvents(t.Context(), &nodev1.ListEventsRequest{})
		said := map[string]int{}
		for _, b := range events.GetEventsJson() {
			var e cluster.Event
			if json.Unmarshal(b, &e) == nil && e.Actor.ID == "operator" {
				said[e.Action+" "+e.Subject+" "+e.Outcome]++
			}
		}
		return err == nil && said["node_join node-2 done"] == 1 && said["node_join node-3 done"] == 2 && said["node_remove node-3 done"] == 1 && said["node_remove node-1 refused"] == 1
	})
}

func TestJoinedNodeTakesLostCopiesAndALostDiskIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.foundOf(initArgs{Name: "demo", Shards: 2, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync}, "node-1", "node-2")
	on := func(nodes ...themis.NodeID) func(health.Report) bool {
		return func(r health.Report) bool {
			for _, s := range r.Shards {
				isr := slices.Clone(s.ISR)
				if slices.Sort(isr); !slices.Equal(isr, nodes) || s.Writable == nil || !*s.Writable || s.Primary == "" {
					return false
				}
			}
			return true
		}
	}
	f.until("node-1", "two copies", on("node-1", "node-2"))
	refused(t, f.act("node-1", "node.remove", removeArgs{ID: "node-2", Force: true}, nil), themis.RefusedUnsafe, "1 of 2 copies are in sync elsewhere")
	if three := f.join("node-2", "node-3", joinArgs{Control: "no"}); three.Control || len(three.ControlNodes) != 1 {
		t.Errorf("without control: %+v", three)
	}
	f.until("node-1", "the operator in the audit trail, though node-2 passed it on", func(health.Report) bool {
		events, err := f.admin("node-1").ListEvents(t.Context(), &nodev1.ListEventsRequest{})
		return err == nil && slices.ContainsFunc(events.GetEventsJson(), func(b []byte) bool {
			var e cluster.Event
			return json.Unmarshal(b, &e) == nil && e.Action == "node_join" && e.Actor.Kind == "operator" && e.Actor.ID == "operator"
		})
	})
	write := func(i int) error {
		_, err := f.documents("node-1").Write(t.Context(), &nodev1.WriteRequest{Collection: "things", RequestId: string(rune('a' + i)), Operations: []*nodev1.Operation{{Key: string(rune('a' + i)), Value: []byte(`{}`)}}})
		return err
	}
	for i := range 10 {
		if err := write(i); err != nil {
			t.Fatal(err)
		}
	}
	f.stop("node-2")
	f.until("node-1", "the copies on node-3", on("node-1", "node-3"))
	var gone removeResult
	f.until("node-1", "node-2 removed", func(health.Report) bool { // the last record of a copy goes with its replacement
		return f.act("node-3", "node.remove", removeArgs{ID: "node-2"}, &gone) == nil
	})

	f.stop("node-3")
	f.empty("node-3")
	f.start("node-3")
	addr := f.nodes["node-3"].addr.GRPC
	refused(t, f.act("node-1", "node.join", joinArgs{Addr: addr, Control: "no"}, nil), themis.RefusedUnsafe, "a member with disk")
	refused(t, f.act("node-1", "node.remove", removeArgs{ID: "node-3"}, nil), themis.RefusedUnsafe, "copies are needed")
	var back joinResult
	var err error
	f.until("node-1", "the lost disk replaced", func(health.Report) bool { // while the old one's heartbeat is there, or a shard has no other leader, it is refused
		if err = f.act("node-1", "node.join", joinArgs{Addr: addr, Control: "no", Replace: true}, &back); err != nil && themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Fatal(err)
		}
		return err == nil
	})
	if !back.Changed || !strings.Contains(back.Note, "its disk was replaced") {
		t.Errorf("replaced: %+v", back)
	}
	f.until("node-1", "two copies again", on("node-1", "node-3"))
	for i := range 10 {
		if m, err := f.documents("node-3").Read(t.Context(), &nodev1.ReadRequest{Collection: "things", Key: string(rune('a' + i))}); err != nil || string(m.GetValue()) != `{}` {
			t.Fatalf("document %d: %q, %v", i, m.GetValue(), err)
		}
	}
}

func TestJoinToken(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1")
	f.foundOf(initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync}, "node-1")
	create := func(ttl string) tokenResult {
		var out tokenResult
		if err := f.act("node-1", "node.token", tokenArgs{TTL: ttl}, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	keyPEM, csr, err := pki.NewCSR("node-2")
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := pki.NewCSR("node-1")
	if err != nil {
		t.Fatal(err)
	}
	good := create("1h")
	ask := func(pin string, req *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
		conf, err := pki.PinnedConfig(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		pool, err := rpc.NewPool(rpc.PoolOptions{TLS: conf})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = pool.Close() }()
		c, err := pool.Admin(t.Context(), good.Endpoint, "")
		if err != nil {
			t.Fatal(err)
		}
		return c.Join(t.Context(), req)
	}
	want := func(token string) *nodev1.JoinRequest {
		return &nodev1.JoinRequest{Token: token, NodeId: "node-2", CsrPem: csr, Names: []string{"127.0.0.1", "localhost"}}
	}
	for name, c := range map[string]struct {
		change func(*nodev1.JoinRequest)
		code   themis.Code
		text   string
	}{
		"another node's request": {func(r *nodev1.JoinRequest) { r.CsrPem = other }, themis.InvalidArgument, "node-1"},
		"a member's id":          {func(r *nodev1.JoinRequest) { r.NodeId, r.CsrPem = "node-1", other }, themis.RefusedUnsafe, "a member has this name"},
		"a member's host name":   {func(r *nodev1.JoinRequest) { r.Names = []string{"Node-1"} }, themis.PermissionDenied, "belongs to a member"},
		"a name made from an id": {func(r *nodev1.JoinRequest) { r.Names = []string{"node-1.dc1.themis.local"} }, themis.PermissionDenied, "made from the node's id"},
		"no request":             {func(r *nodev1.JoinRequest) { r.CsrPem = nil }, themis.InvalidArgument, "csr"},
		"no token":               {func(r *nodev1.JoinRequest) { r.Token = "" }, themis.InvalidArgument, "join token"},
		"no id":                  {func(r *nodev1.JoinRequest) { r.NodeId = "" }, themis.InvalidArgument, "node"},
		"an expired token":       {func(r *nodev1.JoinRequest) { r.Token = create("1ns").Token }, themis.PermissionDenied, "expired"},
		"an invented token":      {func(r *nodev1.JoinRequest) { r.Token, _, _ = pki.NewJoinToken(nil) }, themis.PermissionDenied, "not known"},
	} {
		r := want(good.Token)
		c.change(r)
		_, err := ask(good.CAPin, r)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.text) })
	}
	_, err = ask("sha256:"+strings.Repeat("0", 64), want(good.Token))
	if err == nil || !strings.Contains(err.Error(), "pin") {
		t.Fatalf("wrong pin: %v", err)
	}
	resp, err := ask(good.CAPin, want(good.Token)) // no refusal used it up
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(good.CAPin, want(good.Token))
	refused(t, err, themis.PermissionDenied, "already used by node-2")
	refused(t, f.act("node-1", "node.token", tokenArgs{TTL: "200h"}, nil), themis.InvalidArgument, "ttl")

	files := pki.FilesIn(filepath.Join(f.path("pki")), "node-2")
	if err := (&pki.Issued{CertPEM: resp.GetCertPem(), KeyPEM: keyPEM, CAPEM: resp.GetCaPem()}).Save(files); err != nil {
		t.Fatal(err)
	}
	f.peer["node-2/peer"], f.peer["node-2/client"], f.peer["node-2/grpc"] = loopback.Addr(t), loopback.Addr(t), loopback.Addr(t)
	f.start("node-2")
	if two := f.join("node-1", "node-2", joinArgs{Control: "no"}); !two.Changed {
		t.Errorf("with its new certificate: %+v", two)
	}
}

func TestWhatMayLeave(t *testing.T) {
	one, two := cluster.Member{Node: "node-1", Storage: "disk-1"}, cluster.Member{Node: "node-2", Storage: "disk-2"}
	view := func() cluster.View {
		return cluster.View{
			Nodes: map[themis.NodeID]cluster.Node{
				"node-1": {ID: "node-1", Storage: "disk-1", Role: cluster.RoleActive, Control: &cluster.ControlMember{}}, "node-2": {ID: "node-2", Storage: "disk-2", Role: cluster.RoleActive},
			},
			Alive:  map[themis.NodeID]cluster.Alive{},
			Failed: map[themis.NodeID]cluster.Failed{},
			Shards: map[themis.ShardID]cluster.Shard{"shard-1": {
				ID: "shard-1", Epoch: 3, Primary: one, ISR: []cluster.Member{one}, Want: cluster.Policy{RF: 2},
				Replicas: []cluster.Replica{{Member: one, Class: cluster.Voter}, {Member: two, Class: cluster.Voter}},
			}},
		}
	}
	without := func(v cluster.View) cluster.View { clear(v.Shards); return v }
	alive := func(v cluster.View) cluster.View { v.Alive["node-2"] = cluster.Alive{Storage: "disk-2"}; return v }
	led := func(v cluster.View, by cluster.Member) cluster.View {
		s := v.Shards["shard-1"]
		s.Primary = by
		v.Shards["shard-1"] = s
		return v
	}
	failed := alive(without(view()))
	failed.Failed["node-2"] = cluster.Failed{}
	for name, c := range map[string]struct {
		got  func() error
		want string // empty: allowed
	}{
		"a copy":                    {func() error { return mayRemove(view(), view().Nodes["node-2"], true) }, "shard-1: a copy, 1 of 2 copies are in sync elsewhere"},
		"a primary":                 {func() error { return mayRemove(view(), view().Nodes["node-1"], true) }, "shard-1: the primary, 0 of 2 copies"},
		"the only control member":   {func() error { return mayRemove(without(view()), view().Nodes["node-1"], true) }, "the only member of the control plane"},
		"one that is up":            {func() error { return mayRemove(alive(without(view())), view().Nodes["node-2"], false) }, "is up"},
		"one that is up, by force":  {func() error { return mayRemove(alive(without(view())), view().Nodes["node-2"], true) }, ""},
		"one that is FAILED":        {func() error { return mayRemove(failed, view().Nodes["node-2"], false) }, ""},
		"one that is silent":        {func() error { return mayRemove(without(view()), view().Nodes["node-2"], false) }, ""},
		"a disk that is there":      {func() error { return mayReplace(alive(view()), view().Nodes["node-2"]) }, "is not lost"},
		"a disk that is lost":       {func() error { return mayReplace(view(), view().Nodes["node-2"]) }, ""},
		"a primary's disk":          {func() error { return mayReplace(view(), view().Nodes["node-1"]) }, "no other node leads shard-1 (in sync: node-1)"},
		"a disk while nobody leads": {func() error { return mayReplace(led(view(), cluster.Member{}), view().Nodes["node-2"]) }, "no other node leads shard-1"},
		"a disk that was alive as another": {func() error {
			v := view()
			v.Alive["node-2"] = cluster.Alive{Storage: "disk-9"}
			return mayReplace(v, v.Nodes["node-2"])
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.got()
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			refused(t, err, themis.RefusedUnsafe, c.want)
		})
	}
}
