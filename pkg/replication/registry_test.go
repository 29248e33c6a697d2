package replication

import (
	"context"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication/registrytest"
	"github.com/themisdb/themis/pkg/themis"
)

// changed is what the control plane of the tests and of the simulation makes of a primary's change, and of a coronation, which has no floor.
func changed(record cluster.Shard, failed map[themis.NodeID]bool, seen, next cluster.Shard) (cluster.Shard, error) {
	if seen.Revision != record.Revision || seen.Epoch != record.Epoch {
		return cluster.Shard{}, themis.Errorf(themis.StalePlan, "revision %d in epoch %d, not %d in epoch %d", record.Revision, record.Epoch, seen.Revision, seen.Epoch)
	}
	for _, gone := range seen.BelowFloor(next) {
		if !failed[gone.Node] && next.Epoch == seen.Epoch {
			return cluster.Shard{}, themis.Errorf(themis.RefusedUnsafe, "no verdict stands on %s", gone.Node)
		}
	}
	next.Revision = record.Revision + 1
	return next, nil
}

// What stands for the control plane here keeps to what the real one does.
func TestTheRecordOfTheTestsIsARegistry(t *testing.T) {
	p := cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}
	reign, err := shardOf(p.Mode, p.RF, "a", "b").Crown(member("a"), "boot-1", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(record *cluster.Shard) func(themis.Mode, int) {
		return func(m themis.Mode, k int) {
			next, err := record.Ask(m, k)
			if err != nil {
				t.Fatal(err)
			}
			next.Revision++
			*record = next
		}
	}
	t.Run("of replicas", func(t *testing.T) {
		registrytest.Run(t, func(t *testing.T) registrytest.Plane {
			c := newTrio(t, p)
			c.record = reign
			return registrytest.Plane{Change: c.ChangeShard, Now: c.now, Failed: func(node themis.NodeID, gone bool) { c.failed = with(c.failed, node, gone) }, Ask: ask(&c.record)}
		})
	})
	t.Run("of the simulation", func(t *testing.T) {
		registrytest.Run(t, func(*testing.T) registrytest.Plane {
			w := newWorld(1)
			w.record = reign
			return registrytest.Plane{
				Change: func(_ context.Context, seen, next cluster.Shard) (cluster.Shard, error) { return w.change(seen, next) },
				Now:    func() cluster.Shard { return w.record }, Failed: w.setFailed, Ask: ask(&w.record),
			}
		})
	})
}
