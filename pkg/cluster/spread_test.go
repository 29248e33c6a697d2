package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// TestSpread: two copies share a rack only where every rack has one, and a datacenter of the racks that are left only likewise.
func TestSpread(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same in each run
	type rack struct{ dc, name string }
	for range 5000 {
		nodes := make([]Node, 1+r.IntN(9))
		racks := map[rack]bool{}
		for i := range nodes {
			nodes[i] = Node{ID: themis.NodeID(fmt.Sprintf("node-%d", i)), Datacenter: fmt.Sprint("dc", r.IntN(3)), Rack: fmt.Sprint("r", r.IntN(3))}
			racks[rack{nodes[i].Datacenter, nodes[i].Rack}] = true
		}
		rf := 1 + r.IntN(len(nodes))
		out := spread(nodes, r.IntN(20), rf)
		used, ids := map[rack]int{}, map[themis.NodeID]bool{}
		for _, n := range out {
			used[rack{n.Datacenter, n.Rack}]++
			ids[n.ID] = true
		}
		if len(ids) != rf {
			t.Fatalf("%d copies on %d nodes", rf, len(ids))
		}
		if want := min(rf, len(racks)); len(used) != want {
			t.Fatalf("%d copies in %d racks of %d: %v of %v", rf, len(used), len(racks), out, nodes)
		}
	}
}
