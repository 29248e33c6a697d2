package node

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

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
	f.foundOf(initArgs{Name: "demo", Shards: 2, RF: 1, Redundancy: "NONE", Mode: themis.Sync, VirtualNodes: 99}, "node-1")
	f.until("node-1", "a map", func(r health.Report) bool { return len(r.Shards) == 2 })
	apply := func(yaml string) error {
		_, err := f.admin("node-1").ApplyConfig(t.Context(), &nodev1.ApplyConfigRequest{Name: "x.yaml", Yaml: []byte(yaml)})
		return err
	}
	refused(t, apply("sharding:\n  virtual_nodes: 150\n"), themis.RefusedUnsafe, `sharding.virtual_nodes: "150" can't be changed`) // the default, and not what it has
	refused(t, apply("sharding:\n  cluster:\n    active_shards: 4\n"), themis.RefusedUnsafe, `it is "2"`)
	if err := apply("sharding:\n  virtual_nodes: 99\n"); err != nil {
		t.Errorf("what the cluster has: %v", err)
	}
	refused(t, apply("sharding:\n  cluster:\n    active_shards: 3\n"), themis.RefusedUnsafe, `it is "2"`)
	if err := apply("sharding:\n  cluster:\n    active_shards: 2\n"); err != nil {
		t.Errorf("what the cluster has: %v", err)
	}
	refused(t, apply("replication:\n  mode: async\n"), themis.RefusedUnsafe, `replication.mode: "async" can't be changed by a file once the cluster is made; it is "sync"`)
	var told *themis.Error
	if err := apply("replication:\n  mode: async\n"); !errors.As(err, &told) || !strings.Contains(told.Fix, "themis-cli replication set-mode") {
		t.Errorf("no word of the command that changes it: %+v", told)
	}
	if err := apply("cluster:\n  mode: NONE\nreplication:\n  mode: sync\n  replication_factor: 1\n"); err != nil {
		t.Errorf("what the cluster has: %v", err)
	}

	// What can be changed is in force on the node once it knows of it.
	n := f.nodes["node-1"].inside.Load()
	if got := n.rules().AckTimeout; got != time.Second {
		t.Fatalf("a follower may take %s", got)
	}
	refused(t, apply("failover:\n  probe_interval_ms: 2900\n  failure_threshold: 1\n"), themis.InvalidArgument, "fail_after_max")
	if err := apply("failover:\n  probe_interval_ms: 700\nreplication:\n  timeout_ms: 250\n  write_concern: QUORUM\nwal:\n  keep_segments: 7\n"); err != nil {
		t.Fatal(err)
	}
	f.until("node-1", "the settings", func(health.Report) bool { return n.rules().AckTimeout == 250*time.Millisecond })
	if c := n.conf(); (&controlLoop{n: n}).config().ProbeEvery != 700*time.Millisecond || c.Replication.Concern() != themis.ConcernQuorum || c.WAL.KeepSegments != 7 {
		t.Errorf("in force: %+v %+v %+v", c.Failover, c.Replication, c.WAL)
	}
}
