package node

import (
	"encoding/json"
	"testing"

	"github.com/themisdb/themis/pkg/health"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// A dry run of init says what would be made and leaves the nodes free; a configuration can't change what init has fixed.
func TestWhatInitFixes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1")
	a := initArgs{Name: "demo", Shards: 2, RF: 1, Redundancy: "NONE", Mode: themis.Sync, Nodes: []string{f.nodes["node-1"].addr.GRPC}}
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.admin("node-1").Act(t.Context(), &nodev1.ActRequest{Verb: "cluster.init", ArgsJson: b, DryRun: true})
	var would initResult
	if err == nil {
		err = json.Unmarshal(resp.GetResultJson(), &would)
	}
	if err != nil || len(would.Shards) != 2 || len(would.Control) != 1 {
		t.Fatalf("dry run: %+v, %v", would, err)
	}
	if id, err := openIdentity(f.path("node-1"), "node-1"); err != nil || id.Joined != nil {
		t.Fatalf("the dry run made it a member: %+v, %v", id.Joined, err)
	}
	f.foundOf(initArgs{Name: "demo", Shards: 2, RF: 1, Redundancy: "NONE", Mode: themis.Sync}, "node-1")
	f.until("node-1", "a map", func(r health.Report) bool { return len(r.Shards) == 2 })
	apply := func(yaml string) error {
		_, err := f.admin("node-1").ApplyConfig(t.Context(), &nodev1.ApplyConfigRequest{Name: "x.yaml", Yaml: []byte(yaml)})
		return err
	}
	refused(t, apply("sharding:\n  virtual_nodes: 99\n"), themis.RefusedUnsafe, `sharding.virtual_nodes: "99" can't be changed`)
	refused(t, apply("sharding:\n  cluster:\n    active_shards: 3\n"), themis.RefusedUnsafe, `it is "2"`)
	if err := apply("sharding:\n  cluster:\n    active_shards: 2\n"); err != nil {
		t.Errorf("what the cluster has: %v", err)
	}
}
